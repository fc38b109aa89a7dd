"""Statistics over seeds: bounds, what they do not depend on, and what makes them larger, whatever the scores are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from coteach.experiments import stats

Floats = NDArray[np.float64]
Curve = list[list[float]]

EPISODES = 200
SHARES = st.integers(0, EPISODES).map(lambda solved: solved / EPISODES)
"""Success as it is measured: ties are common."""

BUDGET = 300


def scores(low: int = 1, high: int = 12) -> st.SearchStrategy[Floats]:
    """Scores of so many runs."""
    return st.integers(low, high).flatmap(lambda runs: arrays(np.float64, runs, elements=SHARES))


def tasks(high: int = 5) -> st.SearchStrategy[tuple[Floats, Floats]]:
    """Scores (N, T) and (M, T) of two arms on the same tasks."""
    sizes = st.tuples(*[st.integers(1, high)] * 3)
    return sizes.flatmap(lambda s: st.tuples(*(arrays(np.float64, (runs, s[2]), elements=SHARES) for runs in s[:2])))


def censored() -> st.SearchStrategy[Floats]:
    """Bootstrap samples of steps to a level, some of which never got there."""
    return st.lists(st.one_of(st.none(), st.integers(0, 10**6)), min_size=1, max_size=40).map(lambda s: stats.steps_to(s)[:, 0])


@st.composite
def curves(draw: st.DrawFn, rising: bool = False) -> Curve:
    """A learning curve whose steps ascend, some beyond the budget."""
    steps = sorted(draw(st.lists(st.integers(0, 2 * BUDGET), min_size=1, max_size=12)))
    success = draw(st.lists(SHARES, min_size=len(steps), max_size=len(steps)))
    return [[at, share] for at, share in zip(steps, sorted(success) if rising else success, strict=True)]


CENTRES = pytest.mark.parametrize("centre", [stats.iqm, stats.median])


# A typical run


@CENTRES
@given(values=scores(), seed=st.integers(0, 99))
def test_a_typical_score_lies_between_the_others_in_whatever_order_they_come(
    centre: Callable[[Floats], Floats], values: Floats, seed: int
) -> None:
    found = float(centre(values))
    assert values.min() - 1e-12 <= found <= values.max() + 1e-12
    assert float(centre(np.random.default_rng(seed).permutation(values))) == found


@CENTRES
@given(values=scores(), at=st.integers(0, 11), gain=SHARES)
def test_a_better_run_never_makes_the_typical_one_worse(
    centre: Callable[[Floats], Floats], values: Floats, at: int, gain: float
) -> None:
    better = values.copy()
    better[at % len(values)] += gain
    assert float(centre(better)) >= float(centre(values)) - 1e-12


@CENTRES
@given(values=scores(), factor=st.floats(0.1, 10), shift=st.floats(-10, 10))
def test_a_typical_score_is_measured_in_the_unit_of_the_scores(
    centre: Callable[[Floats], Floats], values: Floats, factor: float, shift: float
) -> None:
    assert float(centre(factor * values + shift)) == pytest.approx(factor * float(centre(values)) + shift, abs=1e-9)


@CENTRES
@given(values=scores(4))
def test_one_run_in_four_that_went_wrong_does_not_count(centre: Callable[[Floats], Floats], values: Floats) -> None:
    """Nor does one that never reached a level: infinity is cut off."""
    without = np.sort(values)
    without[-1] = np.inf
    assert np.isfinite(centre(without))


@given(values=scores())
def test_the_median_is_numpys(values: Floats) -> None:
    assert float(stats.median(values)) == pytest.approx(float(np.median(values)), abs=1e-12)


# Which arm is better


@given(both=tasks())
def test_either_arm_is_better_or_the_other(both: tuple[Floats, Floats]) -> None:
    ours, theirs = both
    assert 0 <= float(stats.improvement(ours, theirs)) <= 1
    assert float(stats.improvement(ours, theirs) + stats.improvement(theirs, ours)) == pytest.approx(1)
    assert float(stats.improvement(ours, ours)) == pytest.approx(0.5)


@given(both=tasks())
def test_which_arm_is_better_depends_on_the_order_of_scores_alone(both: tuple[Floats, Floats]) -> None:
    ours, theirs = both
    found = float(stats.improvement(ours, theirs))
    assert float(stats.improvement(np.exp(5 * ours), np.exp(5 * theirs))) == pytest.approx(found)
    assert float(stats.improvement(ours[::-1], theirs)) == pytest.approx(found)
    assert float(stats.improvement(ours + 2, theirs)) == 1


@given(both=tasks(), gain=SHARES)
def test_more_success_never_makes_an_arm_look_worse(both: tuple[Floats, Floats], gain: float) -> None:
    ours, theirs = both
    better = ours.copy()
    better[0, 0] += gain
    assert stats.improvement(better, theirs) >= stats.improvement(ours, theirs) - 1e-12


# Intervals


@given(samples=censored(), sizes=st.tuples(st.floats(0.05, 0.99), st.floats(0.05, 0.99)))
def test_an_interval_lies_among_its_samples_and_a_surer_one_holds_it(samples: Floats, sizes: tuple[float, float]) -> None:
    narrow, wide = (stats.interval(samples, size) for size in sorted(sizes))
    for low, high in (narrow, wide):
        assert samples.min() <= low <= high <= samples.max()
    assert wide[0] <= narrow[0] * (1 + 1e-12) and wide[1] * (1 + 1e-12) >= narrow[1]
    assert stats.interval(samples[::-1], max(sizes)) == wide


@given(values=scores(1, 6), seed=st.integers(0, 99))
def test_an_estimates_interval_lies_among_the_scores_and_is_always_the_same(values: Floats, seed: int) -> None:
    found = stats.estimate(values[:, None], reps=50, seed=seed)
    assert values.min() - 1e-12 <= found.low <= found.high <= values.max() + 1e-12
    assert found == stats.estimate(values[:, None], reps=50, seed=seed)


@given(both=tasks(4))
def test_the_interval_of_an_improvement_lies_between_never_and_always(both: tuple[Floats, Floats]) -> None:
    found = stats.estimate_improvement(*both, reps=50)
    assert 0 <= found.low <= found.high <= 1


@given(both=tasks(4))
def test_resampling_draws_runs_of_the_task_that_there_are(both: tuple[Floats, Floats]) -> None:
    ours, _ = both
    drawn = stats.resample(ours, 20, np.random.default_rng(0))
    assert drawn.shape == (20, *ours.shape)
    assert all(set(drawn[..., task].flat) <= set(ours[:, task]) for task in range(ours.shape[1]))


# Steps to a level


@given(reached=st.lists(st.one_of(st.none(), st.integers(0, 10**9)), min_size=1))
def test_runs_that_never_got_there_are_later_than_all_others(reached: list[int | None]) -> None:
    found = stats.steps_to(reached)
    assert found.shape == (len(reached), 1)
    assert [None if np.isinf(steps) else int(steps) for steps in found[:, 0]] == reached


@given(reached=st.lists(st.one_of(st.none(), st.integers(0, 10**6)), min_size=1))
def test_the_median_is_beyond_the_budget_where_half_of_the_runs_never_got_there(reached: list[int | None]) -> None:
    never = sum(steps is None for steps in reached)
    assert np.isinf(stats.median(stats.steps_to(reached)[:, 0])) == (2 * never >= len(reached))


# Curves


@given(curve=curves(), grid=st.lists(st.integers(0, 3 * BUDGET), min_size=1))
def test_a_curve_holds_what_was_last_measured(curve: Curve, grid: list[int]) -> None:
    found = stats.on_grid(curve, np.array(grid, dtype=np.float64))
    for at, share in zip(grid, found, strict=True):
        before = [measured for steps, measured in curve if steps <= at]
        assert share == (before[-1] if before else curve[0][1])


@given(curve=curves(rising=True))
def test_a_curve_that_rises_rises_on_every_grid(curve: Curve) -> None:
    assert (np.diff(stats.on_grid(curve, np.arange(0.0, 2 * BUDGET, 7))) >= 0).all()


@given(curve=curves(), later=st.integers(1, 1000), share=SHARES)
def test_what_comes_after_the_grid_is_not_seen(curve: Curve, later: int, share: float) -> None:
    longer = [*curve, [max(BUDGET, curve[-1][0]) + later, share]]
    grid = np.arange(BUDGET + 1.0)
    assert (stats.on_grid(longer, grid) == stats.on_grid(curve, grid)).all()
    assert stats.area(longer, BUDGET) == pytest.approx(stats.area(curve, BUDGET))


@given(curve=curves())
def test_the_area_is_the_mean_of_the_curve_and_lies_within_it(curve: Curve) -> None:
    area = stats.area(curve, BUDGET)
    assert area == pytest.approx(stats.on_grid(curve, np.arange(float(BUDGET))).mean(), abs=1e-9)
    success = [share for _, share in curve]
    assert min(success) - 1e-12 <= area <= max(success) + 1e-12


@given(curve=curves(), gains=st.lists(SHARES, min_size=12, max_size=12))
def test_better_at_any_step_is_no_less_area(curve: Curve, gains: list[float]) -> None:
    better = [[steps, share + gain] for (steps, share), gain in zip(curve, gains, strict=False)]
    assert stats.area(better, BUDGET) >= stats.area(curve, BUDGET) - 1e-12


@given(curve=curves(rising=True), share=st.floats(0, 1))
def test_to_learn_the_same_sooner_is_no_less_area(curve: Curve, share: float) -> None:
    assume(len(curve) > 1)
    sooner = [[share * steps, success] for steps, success in curve]
    assert stats.area(sooner, BUDGET) >= stats.area(curve, BUDGET) - 1e-12
