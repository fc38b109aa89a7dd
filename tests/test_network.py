"""The student's network: what goes in, what comes out, how it begins."""

import numpy as np
import pytest
import torch

from coteach.config import StudentConfig
from coteach.grounding.base import Layout
from coteach.student.network import ActorCritic, SetFeatures


def planes(rows, size=60, seed=0):
    return (np.random.default_rng(seed).random((rows, size)) < 0.2).astype(np.uint8)


def features(rows, size=60, seed=0):
    return SetFeatures.of(planes(rows, size, seed))


def dense(lists):
    """The planes that the lists stand for."""
    rows = np.zeros((len(lists), lists.size), dtype=np.uint8)
    for row in range(len(lists)):
        rows[row, lists.ones[lists.starts[row] : lists.starts[row + 1]]] = 1
    return rows


def network(seed=0, hidden=32):
    return ActorCritic(Layout(flags=60), 7, StudentConfig(hidden=hidden), torch.Generator().manual_seed(seed))


def test_shapes():
    logits, values = network()(features(5))
    assert logits.shape == (5, 7) and values.shape == (5,)
    assert logits.dtype == values.dtype == torch.float32


def test_it_begins_close_to_the_uniform_policy_but_not_at_it():
    policy = network()(features(200))[0].softmax(dim=-1)
    assert (policy - 1 / 7).abs().max() < 0.02
    assert policy.std() > 0


def test_rows_are_independent():
    rows = features(8)
    together, alone = network()(rows), [network()(rows.rows(np.array([i]))) for i in range(8)]
    torch.testing.assert_close(together[0], torch.cat([logits for logits, _ in alone]))
    torch.testing.assert_close(together[1], torch.cat([values for _, values in alone]))


def test_the_generator_decides_the_weights():
    torch.manual_seed(1)
    first = network(seed=4)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), network(seed=4).parameters(), strict=True))
    assert not torch.equal(first.shared.weight, network(seed=5).shared.weight)


def test_the_critic_cannot_move_the_actors_own_layers():
    student = network()
    student(features(5))[1].sum().backward()
    assert student.actor.weight.grad is None and student.policy.weight.grad is None
    assert student.shared.weight.grad.abs().sum() > 0


def test_the_sum_of_columns_is_the_dense_product_in_both_directions():
    rows = planes(50)
    rows[3] = 0
    rows[:, 7] = 0
    student = network()
    weight = student.shared.weight.detach().double().requires_grad_()
    product = torch.from_numpy(rows).double() @ weight + student.shared.bias.detach()
    upstream = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    product.backward(upstream.double())
    ours = student.shared(SetFeatures.of(rows))
    ours.backward(upstream)
    torch.testing.assert_close(ours.double(), product, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(student.shared.weight.grad.double(), weight.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(student.shared.bias.grad, upstream.sum(dim=0), atol=1e-5, rtol=1e-5)


def test_no_rows_are_no_rows():
    logits, values = network()(features(0))
    assert logits.shape == (0, 7) and values.shape == (0,)


def test_lists_are_the_features_however_they_are_arranged():
    first, second = planes(9), planes(5, seed=1)
    first[[0, 4, 8]] = 0
    joined, at = SetFeatures.joined([SetFeatures.of(first), SetFeatures.of(second)]), np.array([13, 0, 8, 9, 2, 2])
    both = np.concatenate([first, second])
    assert np.array_equal(dense(joined), both)
    assert np.array_equal(dense(joined.rows(at)), both[at])
    assert np.array_equal(dense(joined.transposed()), both.T)
    assert len(joined.rows(at[:0])) == 0


def test_only_what_is_wanted_of_a_row_is_computed():
    student, rows = network(), features(10)
    logits, values = student(rows)
    some_logits, some_values = student(rows, acting=slice(4, None), valued=slice(7))
    torch.testing.assert_close(some_logits, logits[4:])
    torch.testing.assert_close(some_values, values[:7])


def test_habits_add_to_the_logits_and_are_not_learned():
    habits = np.zeros((60, 7), dtype=np.float32)
    habits[3, 2] = -5.0
    config = StudentConfig(hidden=16)
    plain, wary = (ActorCritic(Layout(flags=60), 7, config, torch.Generator().manual_seed(0), given) for given in (None, habits))
    rows = np.zeros((2, 60), dtype=np.uint8)
    rows[1, 3] = 1
    lists = SetFeatures.of(rows)
    difference = wary(lists)[0] - plain(lists)[0]
    assert torch.equal(difference[0], torch.zeros(7)) and difference[1].tolist() == pytest.approx(
        [0, 0, -5, 0, 0, 0, 0], abs=1e-6
    )
    assert "habits" not in dict(wary.named_parameters()) and "habits" in wary.state_dict()
