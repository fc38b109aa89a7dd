"""The statistics are those of rliable on the same scores, and runs that never reached a level are counted, not dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from rliable import library, metrics

from coteach.experiments import stats

Floats = NDArray[np.float64]

SHAPES = [(3, 1), (5, 1), (5, 4), (8, 3)]


def scores(shape: tuple[int, int], seed: int) -> Floats:
    """Success over 200 episodes: ties are common, as in life."""
    return np.random.default_rng(seed).binomial(200, 0.93, size=shape) / 200


def rliable_interval(values: Floats | list[Floats], func: Callable[..., float], reps: int) -> Floats:
    _, intervals = library.get_interval_estimates({"arm": values}, lambda *drawn: np.array([func(*drawn)]), reps=reps)
    found: Floats = intervals["arm"][:, 0]
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_interquartile_mean_and_improvement_are_rliables(shape: tuple[int, int]) -> None:
    for seed in range(20):
        ours, theirs = scores(shape, seed), scores((shape[0] + 1, shape[1]), seed + 100)
        assert stats.estimate(ours, reps=2).value == pytest.approx(metrics.aggregate_iqm(ours), abs=1e-9)
        expected = metrics.probability_of_improvement(ours, theirs)
        assert stats.improvement(ours, theirs) == pytest.approx(expected, abs=1e-9)
        assert stats.improvement(ours, ours) == pytest.approx(metrics.probability_of_improvement(ours, ours), abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_with_the_same_draws_the_intervals_are_rliables(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    reps, rng = 500, np.random.default_rng(7)
    ours = scores(shape, 1)
    monkeypatch.setattr(np.random, "choice", lambda runs, size, replace: rng.integers(runs, size=size))
    low, high = rliable_interval(ours, metrics.aggregate_iqm, reps)
    found = stats.estimate(ours, reps=reps, seed=7)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert found.low < found.high


def test_with_the_same_draws_the_interval_of_improvement_is_rliables(monkeypatch: pytest.MonkeyPatch) -> None:
    reps, rng = 500, np.random.default_rng(7)
    ours, theirs = scores((5, 3), 1), scores((4, 3), 2)
    draws: list[Iterator[NDArray[np.int64]]] = [iter(rng.integers(len(x), size=(reps, *x.shape))) for x in (ours, theirs)]
    monkeypatch.setattr(np.random, "choice", lambda runs, size, replace: next(draws[0 if runs == 5 else 1]))
    low, high = rliable_interval([ours, theirs], metrics.probability_of_improvement, reps)
    found = stats.estimate_improvement(ours, theirs, reps=reps, seed=7)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert found.low < found.high


@pytest.mark.slow
def test_with_its_own_draws_an_interval_is_rliables_to_a_thousandth() -> None:
    ours = scores((5, 3), 3)
    np.random.seed(0)  # rliable draws from NumPy's global generator
    low, high = rliable_interval(ours, metrics.aggregate_iqm, 10_000)
    found = stats.estimate(ours)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)
    assert found.high - found.low > 5e-3


def test_resampling_keeps_tasks_apart() -> None:
    drawn = stats.resample(np.array([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0]]), 200, np.random.default_rng(0))
    assert set(np.unique(drawn[..., 0])) == {0, 1, 2} and set(np.unique(drawn[..., 1])) == {10, 11, 12}


def test_runs_that_never_got_there_are_censored_not_dropped() -> None:
    two_of_five = stats.steps_to([40_000, None, 30_000, None, 50_000])
    assert stats.estimate(two_of_five, stats.median).value == 50_000
    assert stats.estimate(two_of_five).value == np.inf, "a censored run is in the middle half"
    one_of_five = stats.steps_to([40_000, None, 30_000, 20_000, 50_000])
    assert stats.estimate(one_of_five).value == pytest.approx(40_000)
    interval = stats.estimate(one_of_five, stats.median)
    assert interval.low == 20_000 and interval.high == np.inf


def test_where_no_run_got_there_nothing_is_said_but_beyond_the_budget() -> None:
    never = stats.estimate(stats.steps_to([None] * 5), stats.median)
    assert (never.value, never.low, never.high) == (np.inf, np.inf, np.inf)


def test_all_runs_alike_leave_no_interval() -> None:
    same = stats.estimate(np.full((5, 1), 0.9))
    assert (same.value, same.low, same.high) == pytest.approx((0.9, 0.9, 0.9))


def test_a_curve_holds_its_last_measured_value() -> None:
    curve = [[64, 0.0], [4096, 0.5], [8192, 0.9]]
    found = stats.on_grid(curve, np.array([0.0, 64, 4095, 4096, 8000, 100_000]))
    assert found.tolist() == [0.0, 0.0, 0.0, 0.5, 0.5, 0.9]


def test_a_run_that_stopped_early_counts_on_with_its_last_value() -> None:
    assert stats.area([[0, 0.0], [25_000, 1.0]], 100_000) == pytest.approx(0.75)
    assert stats.area([[0, 0.0], [25_000, 0.5], [100_500, 1.0]], 100_000) == pytest.approx(0.375)


def test_area_is_the_mean_of_the_curve() -> None:
    rng = np.random.default_rng(0)
    curve = [[steps, rng.random()] for steps in (100, 3000, 20_000, 61_000)]
    grid = np.arange(0, 100_000, 10.0)
    assert stats.area(curve, 100_000) == pytest.approx(stats.on_grid(curve, grid).mean(), abs=1e-3)
