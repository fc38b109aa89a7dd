"""The student's network: what goes in, what comes out, how it begins."""

import torch

from coteach.student.network import ActorCritic


def features(rows, size=60, seed=0):
    return (torch.rand(rows, size, generator=torch.Generator().manual_seed(seed)) < 0.2).to(torch.uint8)


def network(seed=0, hidden=32):
    return ActorCritic(60, 7, hidden, torch.Generator().manual_seed(seed))


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
    together, alone = network()(rows), [network()(row[None]) for row in rows]
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
    rows = features(50)
    rows[3] = 0
    rows[:, 7] = 0
    student = network()
    weight = student.shared.weight.detach().double().requires_grad_()
    dense = rows.double() @ weight + student.shared.bias.detach()
    upstream = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    dense.backward(upstream.double())
    ours = student.shared(rows)
    ours.backward(upstream)
    torch.testing.assert_close(ours.double(), dense, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(student.shared.weight.grad.double(), weight.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(student.shared.bias.grad, upstream.sum(dim=0), atol=1e-5, rtol=1e-5)


def test_no_rows_are_no_rows():
    logits, values = network()(features(0))
    assert logits.shape == (0, 7) and values.shape == (0,)
