"""Planning on the abstract model: incremental planning gives the same values as solving anew."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coteach.config import EvidenceConfig
from coteach.grounding.outcomes import TERMINAL, Outcome
from coteach.method.abstract_model import AbstractModel
from coteach.method.planning import Plan

SITUATIONS, OPTIONS = 6, 3
MASK = np.ones((SITUATIONS, OPTIONS), dtype=np.bool_)
EXACT = EvidenceConfig(planning_tolerance=1e-9, planning_sweeps=2000)

outcomes = st.lists(
    st.builds(
        Outcome,
        situation=st.integers(0, SITUATIONS - 1),
        slot=st.integers(0, OPTIONS - 1),
        following=st.integers(TERMINAL, SITUATIONS - 1),
        reward=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
        duration=st.one_of(st.none(), st.integers(1, 9)),
        failed=st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(outcomes, st.floats(0.0, 1.0), st.sampled_from([1.0, 0.95]))
def test_replanning_after_each_outcome_equals_solving_anew(seen: list[Outcome], unknown: float, decision_discount: float) -> None:
    model = AbstractModel(OPTIONS, gamma=0.95)
    pseudo_values = np.full(MASK.shape, unknown)
    renewed = Plan(model, EXACT, decision_discount)
    renewed.solve(MASK, pseudo_values)
    for outcome in seen:
        model.add(outcome)
        renewed.replan([outcome.situation], MASK, pseudo_values, backups=100_000)
    anew = Plan(model, EXACT, decision_discount)
    anew.solve(MASK, pseudo_values)
    np.testing.assert_allclose(renewed.q, anew.q, atol=1e-6)
    np.testing.assert_allclose(renewed.value, anew.value, atol=1e-6)


def test_a_reward_at_the_end_of_a_chain_takes_one_backup_per_situation() -> None:
    model = AbstractModel(1, gamma=0.99)
    mask, nothing = np.ones((50, 1), dtype=np.bool_), np.zeros((50, 1))
    plan = Plan(model, EvidenceConfig(optimism=0.0))
    for number in range(49):
        model.add(Outcome(number, 0, number + 1, duration=1))
    plan.solve(mask, nothing)
    model.add(Outcome(49, 0, TERMINAL, reward=1.0, duration=1))
    assert plan.replan([49], mask, nothing) == 50
    assert plan.value[0] == pytest.approx(0.99**49)


def test_an_outcome_that_changes_no_value_costs_one_backup() -> None:
    model = AbstractModel(2, gamma=0.99)
    mask, nothing = np.ones((30, 2), dtype=np.bool_), np.zeros((30, 2))
    plan = Plan(model, EvidenceConfig())
    for number in range(29):
        model.add(Outcome(number, 0, number + 1))
    plan.solve(mask, nothing)
    model.add(Outcome(7, 1, 8))
    assert plan.replan([7], mask, nothing) == 1
