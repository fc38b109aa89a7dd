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
    """The policies of N situations, (N, K) each, and the value of the one that is imitated, (N,)."""

    exploration: Array
    """By optimistic Q: what may turn out best; optimistic episodes follow it."""
    pessimistic: Array
    """By pessimistic Q: what was shown to work."""
    imitation: Array
    """The sharp policy that the student imitates and the LLM is tuned towards."""
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
    """Improve the advice for N situations.

    prior, optimistic_q, pessimistic_q: (N, K), 0 where there is no option; weight: (N,) lambda_N.
    guess: what is imitated where no way to a reward is known, made from the exploration policy, (N, K) -> (N, K).
    least_promise: pessimistic value from which on a way to a reward counts as known.
    sharpness: power to which the policy is raised before it is imitated.
    """
    exploration, pessimistic = reweigh(prior, optimistic_q, weight), reweigh(prior, pessimistic_q, weight)
    promising = pessimistic_q.max(axis=1, initial=0.0) > least_promise
    imitation = sharpen(np.where(promising[:, None], pessimistic, guess(exploration)), sharpness)
    return Improved(exploration, pessimistic, imitation, (imitation * pessimistic_q).sum(axis=1))


def prior_weight(outcomes: Array, options: Array, scale: float) -> Array:
    """Return lambda_N = c sqrt(N + 1) / (N + K): how much the prior weighs after N outcomes (Grill et al., eq. 4).

    outcomes: (S,) N, counted in the situation; options: (S,) K; scale: c.
    """
    return scale * np.sqrt(outcomes + 1.0) / (outcomes + np.maximum(options, 1.0))


def optimistic_bound(best: Array, mean: Array, prior: Array, power: Array) -> Array:
    """Scale the optimism for untried options by the prior: what the teacher thinks likely is tried first.

    best, mean: (N, K) what an option may be worth at best, and on average, which is the least that is returned;
    prior: (N, K); power: (N, K) 0 where the prior has no say.
    """
    likely = prior / np.maximum(prior.max(axis=1, keepdims=True, initial=0.0), 1e-12)
    bound: Array = np.maximum(best * likely**power, mean)
    return bound


def widen_gaps(returns: Array, tried: NDArray[np.bool_], factor: float) -> Array:
    """Take each tried option's distance from the best tried one of its situation `factor` times, in [0, 1].

    A mistake that can be made good again costs hardly more than a factor of gamma, which is less than a guess from words errs by.
    The best option and the order stay as they are (action gap: Bellemare et al. 2016, arXiv 1512.04860), but for what falls to 0.
    returns: (S, K) in [0, 1]; options never tried become 0.
    """
    known = np.where(tried, returns, 0.0)
    best = known.max(axis=1, keepdims=True, initial=0.0)
    wide: Array = np.maximum(best - factor * (best - known), 0.0)
    return wide


def keep_prior(prior: Array, q: Array, weight: Array) -> Array:
    """Return the prior: the improvement of an arm that does not reweigh."""
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
    """`reweigh`, into `out` (S, K)."""
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
