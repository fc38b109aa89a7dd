"""The abstract model: outcomes are counted, and its solution prefers what leads to a reward."""

import json

import numpy as np
import pytest

from coteach.config import EvidenceConfig
from coteach.grounding.outcomes import TERMINAL, Outcome
from coteach.method.abstract_model import AbstractModel
from coteach.method.planning import Plan

SETTINGS = EvidenceConfig()
MASK = np.array([[True, True, True]] * 3)
OPTIMISTIC = np.ones((3, 3))


def model_of(*outcomes: Outcome) -> AbstractModel:
    model = AbstractModel(max_options=3, gamma=0.99)
    for outcome in outcomes:
        model.add(outcome)
    return model


def solved(model: AbstractModel, unknown: np.ndarray, optimistic: bool) -> np.ndarray:
    return Plan(model, SETTINGS, SETTINGS.decision_discount if optimistic else 1.0).solve(MASK, unknown)


def test_before_any_outcome_all_options_have_the_same_value() -> None:
    q = solved(model_of(), OPTIMISTIC, optimistic=True)
    assert np.allclose(q, q[0, 0]) and q[0, 0] > 0


def test_an_option_that_only_fails_loses_its_value_before_the_first_reward() -> None:
    q = solved(model_of(*[Outcome(0, 0, 0, failed=True)] * 9), OPTIMISTIC, optimistic=True)
    assert q[0, 0] == pytest.approx(0.1)
    assert q[0, 1] == pytest.approx(1.0)


def test_an_option_that_leads_somewhere_new_keeps_its_value_before_the_first_reward() -> None:
    leads_on = Outcome(0, 0, 1, duration=5)
    stays = Outcome(0, 1, 0, duration=5)
    q = solved(model_of(*[leads_on] * 20, *[stays] * 20, *[Outcome(0, 2, 0, failed=True)] * 20), OPTIMISTIC, optimistic=True)
    assert q[0, 0] > q[0, 1] > q[0, 2]


def test_a_reward_after_two_options_raises_the_value_of_the_first() -> None:
    outcomes = [Outcome(0, 1, 1, duration=4), Outcome(1, 2, TERMINAL, reward=0.9, duration=4)] * 20
    q = solved(model_of(*outcomes), 0 * OPTIMISTIC, optimistic=False)
    assert q[0].argmax() == 1 and q[1].argmax() == 2
    assert q[0, 1] == pytest.approx((20 / 21) * 0.99**4 * q[1, 2], rel=1e-3)


def test_without_optimism_all_values_are_0_before_the_first_reward() -> None:
    assert not solved(model_of(*[Outcome(0, 0, 1)] * 5), 0 * OPTIMISTIC, optimistic=False).any()


def test_outcomes_without_a_duration_do_not_change_the_discount() -> None:
    followed = model_of(Outcome(0, 0, 1, duration=3))
    with_hindsight = model_of(Outcome(0, 0, 1, duration=3), *[Outcome(0, 0, 1, duration=None)] * 10)
    assert with_hindsight.discounts()[0, 0] == followed.discounts()[0, 0]


def test_wasted_outcomes_failed_or_ended_without_a_reward() -> None:
    model = model_of(
        Outcome(0, 0, 1),
        Outcome(0, 0, 0, failed=True),
        Outcome(0, 1, TERMINAL),
        Outcome(0, 1, TERMINAL, reward=1.0),
        Outcome(0, 2, 1),
    )
    assert model.wasted().tolist() == [[1, 1, 0], [0, 0, 0]]


def test_counts_survive_a_checkpoint() -> None:
    model = model_of(Outcome(0, 1, 2, 0.5, 3), Outcome(0, 1, TERMINAL, 1.0, 3), Outcome(2, 0, 2, failed=True))
    restored = AbstractModel(3, 0.99)
    restored.restore(json.loads(json.dumps(model.state())))
    assert np.array_equal(solved(restored, OPTIMISTIC, optimistic=True), solved(model, OPTIMISTIC, optimistic=True))
    restored.add(Outcome(2, 1, 0))
    assert restored.tries[2].tolist() == [1, 1, 0]
