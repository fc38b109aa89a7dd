"""What the student hands back: counts, their solution, and the advice reweighed by it."""

import json

import numpy as np
import pytest

from coteach.config import EvidenceConfig
from coteach.grounding.outcomes import TERMINAL, Outcome
from coteach.method.abstract_model import AbstractModel
from coteach.method.improvement import prior_weight, reweigh, widen_gaps
from coteach.method.planning import Plan

SETTINGS = EvidenceConfig()
MASK = np.array([[True, True, True]] * 3)
HOPE = np.ones((3, 3))


def model_of(*outcomes: Outcome) -> AbstractModel:
    model = AbstractModel(max_options=3, gamma=0.99)
    for outcome in outcomes:
        model.add(outcome)
    return model


def solved(model: AbstractModel, unknown: np.ndarray, optimistic: bool) -> np.ndarray:
    return Plan(model, SETTINGS, SETTINGS.decision_discount if optimistic else 1.0).solve(MASK, unknown)


def test_before_any_outcome_every_option_is_worth_as_much_as_every_other() -> None:
    q = solved(model_of(), HOPE, optimistic=True)
    assert np.allclose(q, q[0, 0]) and q[0, 0] > 0


def test_an_option_that_only_fails_loses_its_value_before_the_first_reward() -> None:
    q = solved(model_of(*[Outcome(0, 0, 0, failed=True)] * 9), HOPE, optimistic=True)
    assert q[0, 0] == pytest.approx(0.1)
    assert q[0, 1] == pytest.approx(1.0)


def test_an_option_that_leads_somewhere_new_keeps_its_value_before_the_first_reward() -> None:
    leads_on = Outcome(0, 0, 1, duration=5)
    stays = Outcome(0, 1, 0, duration=5)
    q = solved(model_of(*[leads_on] * 20, *[stays] * 20, *[Outcome(0, 2, 0, failed=True)] * 20), HOPE, optimistic=True)
    assert q[0, 0] > q[0, 1] > q[0, 2]


def test_reward_two_options_away_shows_at_the_first() -> None:
    outcomes = [Outcome(0, 1, 1, duration=4), Outcome(1, 2, TERMINAL, reward=0.9, duration=4)] * 20
    q = solved(model_of(*outcomes), 0 * HOPE, optimistic=False)
    assert q[0].argmax() == 1 and q[1].argmax() == 2
    assert q[0, 1] == pytest.approx((20 / 21) * 0.99**4 * q[1, 2], rel=1e-3)


def test_without_optimism_nothing_is_worth_anything_before_the_first_reward() -> None:
    assert not solved(model_of(*[Outcome(0, 0, 1)] * 5), 0 * HOPE, optimistic=False).any()


def test_a_students_dawdling_does_not_make_an_option_look_slow() -> None:
    followed = model_of(Outcome(0, 0, 1, duration=3))
    with_hindsight = model_of(Outcome(0, 0, 1, duration=3), *[Outcome(0, 0, 1, duration=None)] * 10)
    assert with_hindsight.discounts()[0, 0] == followed.discounts()[0, 0]


def test_wasted_is_what_failed_or_ended_without_a_reward() -> None:
    model = model_of(
        Outcome(0, 0, 1),
        Outcome(0, 0, 0, failed=True),
        Outcome(0, 1, TERMINAL),
        Outcome(0, 1, TERMINAL, reward=1.0),
        Outcome(0, 2, 1),
    )
    assert model.wasted().tolist() == [[1, 1, 0], [0, 0, 0]]


def test_wider_gaps_keep_the_best_and_the_order_and_moves_the_others_away() -> None:
    worth = np.array([[0.5, 0.45, 0.1, 0.9], [0.3, 0.2, 0.0, 0.0]])
    tried = np.array([[True, True, True, False], [False, False, False, False]])
    np.testing.assert_allclose(widen_gaps(worth, tried, 6.0), [[0.5, 0.5 - 6.0 * 0.05, 0.0, 0.0], [0.0] * 4])


def test_counts_survive_a_checkpoint() -> None:
    model = model_of(Outcome(0, 1, 2, 0.5, 3), Outcome(0, 1, TERMINAL, 1.0, 3), Outcome(2, 0, 2, failed=True))
    restored = AbstractModel(3, 0.99)
    restored.restore(json.loads(json.dumps(model.state())))
    assert np.array_equal(solved(restored, HOPE, optimistic=True), solved(model, HOPE, optimistic=True))
    restored.add(Outcome(2, 1, 0))
    assert restored.tries[2].tolist() == [1, 1, 0]


def random_problem(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    prior = rng.dirichlet(np.full(5, 0.5), size=20) + 1e-6
    prior[:, 4] = 0.0
    return prior / prior.sum(axis=1, keepdims=True), rng.random((20, 5)), rng.uniform(0.05, 2.0, 20)


def test_reweighing_solves_its_own_objective() -> None:
    prior, q, lam = random_problem(np.random.default_rng(0))
    improved = reweigh(prior, q, lam)
    assert np.allclose(improved.sum(axis=1), 1.0)
    assert not improved[:, 4].any()

    def objective(y: np.ndarray) -> np.ndarray:
        kl = (prior[:, :4] * np.log(prior[:, :4] / y[:, :4])).sum(axis=1)
        return (y * q).sum(axis=1) - lam * kl

    rng = np.random.default_rng(1)
    for _ in range(50):
        other = improved + np.concatenate([rng.normal(0, 0.01, (20, 4)), np.zeros((20, 1))], axis=1)
        other[:, :4] = np.maximum(other[:, :4], 1e-9)
        other /= other.sum(axis=1, keepdims=True)
        assert (objective(other) <= objective(improved) + 1e-9).all()


def test_equal_evidence_leaves_the_advice_as_it_was() -> None:
    prior, _, lam = random_problem(np.random.default_rng(2))
    assert np.allclose(reweigh(prior, np.full((20, 5), 0.3), lam), prior, atol=1e-6)


def test_advice_that_never_completes_loses_trust() -> None:
    prior = np.array([[0.9, 0.05, 0.05]])
    q = np.array([[0.1, 1.0, 1.0]])
    trusted = [reweigh(prior, q, prior_weight(np.array([float(n)]), np.array([3.0]), 0.5))[0, 0] for n in (0, 4, 40, 400)]
    assert trusted == sorted(trusted, reverse=True)
    assert trusted[-1] < 0.1


def test_a_situation_without_options_has_no_advice() -> None:
    assert not reweigh(np.zeros((1, 3)), np.zeros((1, 3)), np.ones(1)).any()
