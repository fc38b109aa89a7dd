"""Statistics over seeds and tasks, as pure functions on arrays: few runs, no assumption about how they are distributed.

Interquartile means, percentile intervals of a bootstrap stratified by task, and the probability of improvement are those of
Agarwal et al. 2021 (arXiv 2108.13264; the package `rliable`). Steps to a level are censored where a run never got there:
infinity stands for them, so statistics by rank still hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REPS = 10_000
"""Bootstrap resamples."""

SIZE = 0.95
"""Size of the intervals."""


@dataclass(frozen=True)
class Estimate:
    """A statistic and the ends of its interval; infinity where it falls among censored runs."""

    value: float
    low: float
    high: float


def iqm(scores: Floats) -> Floats:
    """Mean of the middle half along the last axis, (..., n) -> (...)."""
    cut = scores.shape[-1] // 4
    middle: Floats = np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut]
    return np.asarray(middle.mean(axis=-1))


def median(scores: Floats) -> Floats:
    """The middle value along the last axis, (..., n) -> (...); of an even number, the mean of the two in the middle."""
    return np.asarray(np.median(scores, axis=-1))


def improvement(ours: Floats, theirs: Floats) -> Floats:
    """Probability that one of our runs scores more than one of theirs on the same task, averaged over tasks; a tie is half.

    ours: (..., N, T), theirs: (..., M, T) -> (...). It is Mann and Whitney's U over N M.
    """
    pairs = ((ours[..., :, None, task], theirs[..., None, :, task]) for task in range(ours.shape[-1]))
    return np.asarray(np.mean([((x > y) + 0.5 * (x == y)).mean(axis=(-1, -2)) for x, y in pairs], axis=0))


def resample(scores: Floats, reps: int, rng: np.random.Generator) -> Floats:
    """Runs drawn anew with replacement, each task from its own: (S, T) -> (reps, S, T)."""
    runs, tasks = scores.shape
    drawn: Floats = scores[rng.integers(runs, size=(reps, runs, tasks)), np.arange(tasks)]
    return drawn


def interval(samples: Floats, size: float = SIZE) -> tuple[float, float]:
    """The percentiles (reps,) -> low, high that leave (1 - size) / 2 outside at either end."""
    tails = np.array([(1 - size) / 2, (1 + size) / 2])
    below, above = (np.quantile(samples, tails, method=method) for method in ("lower", "higher"))
    # Beside infinity there is nothing to interpolate: the interval is taken wider.
    if np.isinf(above).any():
        return float(below[0]), float(above[1])
    with np.errstate(invalid="ignore"):  # where a percentile is a sample itself, NumPy may still weigh infinity by 0
        low, high = np.quantile(samples, tails)
    return float(below[0] if np.isnan(low) else low), float(above[1] if np.isnan(high) else high)


def estimate(scores: Floats, statistic: Callable[[Floats], Floats] = iqm, reps: int = REPS, seed: int = 0) -> Estimate:
    """`statistic` over all runs of all tasks, and its bootstrap interval; scores: (S, T)."""
    samples = resample(scores, reps, np.random.default_rng(seed)).reshape(reps, -1)
    return Estimate(float(statistic(scores.reshape(-1))), *interval(statistic(samples)))


def estimate_improvement(ours: Floats, theirs: Floats, reps: int = REPS, seed: int = 0) -> Estimate:
    """`improvement` and its bootstrap interval; ours: (N, T), theirs: (M, T), resampled independently."""
    rng = np.random.default_rng(seed)
    samples = improvement(resample(ours, reps, rng), resample(theirs, reps, rng))
    return Estimate(float(improvement(ours, theirs)), *interval(samples))


def steps_to(reached: Sequence[int | None]) -> Floats:
    """Steps at which runs reached a level, (S, 1); infinity for those that never did."""
    return np.array([[np.inf if steps is None else float(steps)] for steps in reached])


def on_grid(curve: Sequence[Sequence[float]], grid: Floats) -> Floats:
    """A learning curve [[steps, success], ...] on common steps: the value last measured by then. It goes on as it ended.

    Before the first measurement it has the first one's value.
    """
    steps, success = np.asarray(curve, dtype=np.float64).T
    last = np.searchsorted(steps, grid, side="right") - 1
    values: Floats = success[np.maximum(last, 0)]
    return values


def area(curve: Sequence[Sequence[float]], budget: float) -> float:
    """Mean success over the steps 0..budget of `on_grid`'s step function: sooner and better both raise it."""
    steps = np.clip([point[0] for point in curve], 0.0, budget)
    steps[0] = 0.0
    widths = np.diff(np.append(steps, budget))
    return float(widths @ np.array([point[1] for point in curve])) / budget
