"""Reweighing (student -> teacher, at once): the evidence overrules the LLM's advice. Pure functions on arrays.

The improved advice solves argmax_y sum_o y(o) Q(c, o) - lambda_N KL(prior || y): the LLM is the prior, and the more outcomes
there are, the less it weighs (the regularised-policy form of PUCT: Grill et al. 2020, arXiv 2007.12509, eq. 7-10).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from coteach.student.guidance import sharpen

Array = NDArray[np.float64]

Reweigh = Callable[[Array, Array, Array], Array]
"""(prior (N, K), Q (N, K), weight (N,)) -> policy (N, K): `reweigh`, or `keep_prior` for an arm without it."""


class Improved(NamedTuple):
    """The policies of N situations, (N, K) each, and the value of the imitation policy, (N,)."""

    exploration: Array
    """The prior reweighed by optimistic Q; optimistic episodes follow it."""
    pessimistic: Array
    """The prior reweighed by pessimistic Q."""
    imitation: Array
    """The sharpened policy that the student imitates and the LLM is tuned towards."""
    value: Array


def improve(
    prior: Array,
    optimistic_q: Array,
    pessimistic_q: Array,
    weight: Array,
    guess: Callable[[Array], Array],
    reweigh: Reweigh,
    least_promise: float,
    sharpness: float,
) -> Improved:
    """Improve the advice for N situations; return the policies.

    prior, optimistic_q, pessimistic_q: (N, K), 0 where there is no option; weight: (N,) lambda_N.
    guess: exploration policy (N, K) -> the policy (N, K) that is imitated where no way to a reward is known.
    least_promise: a way to a reward counts as known where the pessimistic value exceeds this.
    sharpness: power to which the policy is raised before it is imitated.
    """
    exploration, pessimistic = reweigh(prior, optimistic_q, weight), reweigh(prior, pessimistic_q, weight)
    promising = pessimistic_q.max(axis=1, initial=0.0) > least_promise
    imitation = sharpen(np.where(promising[:, None], pessimistic, guess(exploration)), sharpness)
    return Improved(exploration, pessimistic, imitation, (imitation * pessimistic_q).sum(axis=1))


def prior_weight(outcomes: Array, options: Array, scale: float) -> Array:
    """Return lambda_N = c sqrt(N + 1) / (N + K), the weight of the prior after N outcomes, (S,) (Grill et al., eq. 4).

    outcomes: (S,) N, those of the situation; options: (S,) K, its number of options; scale: c.
    """
    return scale * np.sqrt(outcomes + 1.0) / (outcomes + np.maximum(options, 1.0))


def optimistic_bound(best: Array, mean: Array, prior: Array, power: Array) -> Array:
    """Scale the optimism for untried options by the prior, so that options which the teacher thinks likely are tried first.

    best: (N, K) upper bound of an option's value; mean: (N, K) its expected value, the least that is returned; prior: (N, K);
    power: (N, K) of the prior relative to its best option; 0: the prior has no influence.
    """
    likely = prior / np.maximum(prior.max(axis=1, keepdims=True, initial=0.0), 1e-12)
    bound: Array = np.maximum(best * likely**power, mean)
    return bound


def widen_gaps(returns: Array, tried: NDArray[np.bool_], factor: float) -> Array:
    """Multiply the gap between each tried option and the best tried option of its situation by `factor`, down to a value of 0.

    A reversible mistake costs hardly more than a factor of gamma, which is less than the error of the word values. The best
    option and the order are unchanged, except among values that become 0 (action gap: Bellemare et al. 2016, arXiv 1512.04860).
    returns: (S, K) in [0, 1]; the result is 0 for options never tried.
    """
    known = np.where(tried, returns, 0.0)
    best = known.max(axis=1, keepdims=True, initial=0.0)
    wide: Array = np.maximum(best - factor * (best - known), 0.0)
    return wide


def keep_prior(prior: Array, q: Array, weight: Array) -> Array:
    """Return the prior unchanged, for an arm that does not reweigh."""
    return prior


def reweigh(prior: Array, q: Array, weight: Array, steps: int = 50) -> Array:
    """Return argmax_y sum y Q - lambda KL(prior || y), row by row: y = lambda prior / (alpha - Q).

    prior, q: (S, K), prior is 0 where there is no option; weight: (S,) lambda > 0. Rows sum to 1 (0 where the prior has no
    option). alpha is found by bisection between max(Q + lambda prior) and max(Q) + lambda (Grill et al. 2020, eq. 10, app. B.3).
    """
    improved = np.zeros_like(prior)
    _bisect(prior, q, weight, steps, improved)
    return improved


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _bisect(prior: Array, q: Array, lam: Array, steps: int, out: Array) -> None:
    """Compute `reweigh` into `out` (S, K)."""
    slots = prior.shape[1]
    for row in range(len(prior)):
        low = high = -np.inf
        for k in range(slots):
            if prior[row, k] > 0:
                low = max(low, q[row, k] + lam[row] * prior[row, k])
                high = max(high, q[row, k] + lam[row])
        if low == -np.inf:
            continue
        for _ in range(steps):
            alpha, total = (low + high) / 2, 0.0
            for k in range(slots):
                if prior[row, k] > 0:
                    total += lam[row] * prior[row, k] / max(alpha - q[row, k], 1e-12)
            if total > 1.0:
                low = alpha
            else:
                high = alpha
        for k in range(slots):
            if prior[row, k] > 0:
                out[row, k] = lam[row] * prior[row, k] / max(high - q[row, k], 1e-12)
        out[row] /= max(out[row].sum(), 1e-12)
