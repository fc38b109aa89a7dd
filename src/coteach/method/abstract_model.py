"""Student -> teacher: what the advice was worth, counted in the task's own terms.

`AbstractModel` counts what became of options in situations, whoever brought it about: how often one was
completed, failed or gave way to another situation, what it returned and how long it took. Optimistic
value iteration (pseudo-outcomes of optimistic value, as in R-max: Brafman & Tennenholtz 2002) turns the
counts into `Q(c, o)` before the first reward is seen. `reweigh` lets that evidence overrule a prior
(Grill et al. 2020, arXiv 2007.12509, eq. 7-10).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from coteach.grounding.outcomes import TERMINAL, TYPICAL_DURATION, Outcome

Array = NDArray[np.float64]


DECISION_DISCOUNT = 0.95
"""While exploring, each further option costs this factor beside the time it takes: novelty far away attracts less."""

GAP = 6.0
"""How many times it counts that one option is worth less than another, where this has to be guessed from words."""


class AbstractModel:
    """Counts of outcomes per (situation, option), and their solution.

    `gamma` discounts per environment step, `max_options` is K, `typical` the duration (steps) of an option that was never
    followed to its end. Arrays grow with the situations met.
    """

    def __init__(self, max_options: int, gamma: float, typical: float = TYPICAL_DURATION) -> None:
        self.max_options = max_options
        self.gamma = gamma
        self.typical = typical
        self._links: dict[tuple[int, int, int], int] = {}
        self._counts: list[float] = []
        self._rewards: list[float] = []
        self._values: dict[bool, Array] = {}
        self.tries = np.zeros((0, max_options))
        """(S, K): outcomes counted; `failures` and `successes` (outcomes with a positive reward) are among them."""
        self.failures = np.zeros((0, max_options))
        self.successes = np.zeros((0, max_options))
        self._followed = np.zeros((0, max_options))
        self._steps = np.zeros((0, max_options))

    def grow(self, situations: int) -> None:
        """Make room for situations numbered below `situations`."""
        missing = situations - len(self.tries)
        if missing > 0:
            for name in ("tries", "failures", "successes", "_followed", "_steps"):
                setattr(self, name, np.vstack([getattr(self, name), np.zeros((missing, self.max_options))]))

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.grow(max(outcome.situation, outcome.following) + 1)
        c, o = outcome.situation, outcome.slot
        following = TERMINAL if outcome.failed else outcome.following
        link = self._links.setdefault((c, o, following), len(self._links))
        if link == len(self._counts):
            self._counts.append(0.0)
            self._rewards.append(0.0)
        self._counts[link] += 1.0
        self._rewards[link] += outcome.reward
        self.tries[c, o] += 1.0
        self.failures[c, o] += outcome.failed
        self.successes[c, o] += outcome.reward > 0
        if outcome.duration is not None:
            self._followed[c, o] += 1.0
            self._steps[c, o] += outcome.duration

    def fade(self, cells: NDArray[np.bool_], share: float) -> None:
        """Forget all but `share` of the outcomes of these (S, K) options: they are not carried out as they were."""
        for name in ("tries", "failures", "successes", "_followed", "_steps"):
            getattr(self, name)[: len(cells)][cells] *= share
        for (c, o, _), link in self._links.items():
            if c < len(cells) and cells[c, o]:
                self._counts[link] *= share
                self._rewards[link] *= share

    def discounts(self) -> Array:
        """(S, K): discount over one option, from its mean duration where it was followed."""
        duration = np.where(self._followed > 0, self._steps / np.maximum(self._followed, 1.0), self.typical)
        discount: Array = self.gamma**duration
        return discount

    def solve(self, mask: NDArray[np.bool_], optimism: float, unknown: Array, hopeful: bool, sweeps: int = 100) -> Array:
        """Q (S, K) by value iteration; 0 where `mask` (S, K) has no option.

        Every option gets `optimism` pseudo-outcomes worth `unknown` (S, K). hopeful: each further option costs
        `DECISION_DISCOUNT`. The last solution of the same kind is the starting point of the next.
        """
        self.grow(len(mask))
        size, slots = mask.shape
        cell, following, counts, rewards = self._linked(slots)
        discount, total = self.discounts() * (DECISION_DISCOUNT if hopeful else 1.0), self.tries + optimism
        base = np.bincount(cell, rewards, size * slots).reshape(size, slots) + optimism * unknown
        value = self._value(hopeful, size)
        for _ in range(sweeps):
            onward = np.bincount(cell, counts * value[following], size * slots).reshape(size, slots)
            q = np.where(mask & (total > 0), (base + discount * onward) / np.maximum(total, 1e-9), 0.0)
            new = q.max(axis=1, initial=0.0)
            moved = np.abs(new - value[:-1]).max(initial=0.0)
            value[:-1] = new
            if moved < 1e-4:
                break
        self._values[hopeful] = value[:-1].copy()
        return q

    def in_vain(self) -> Array:
        """(S, K): how many outcomes of an option failed, or ended the episode without a reward."""
        size, slots = self.tries.shape
        cell, following, counts, _ = self._linked(slots)
        ended = np.bincount(cell, counts * (following == TERMINAL), size * slots).reshape(size, slots)
        vain: Array = np.maximum(ended - self.successes, 0.0)
        return vain

    def worth(self) -> Array:
        """(S, K): what tried options were worth on average, what followed valued as it was last solved without hope."""
        size, slots = self.tries.shape
        cell, following, counts, rewards = self._linked(slots)
        onward = np.bincount(cell, counts * self._value(False, size)[following], size * slots).reshape(size, slots)
        returned = np.bincount(cell, rewards, size * slots).reshape(size, slots)
        worth: Array = (returned + self.discounts() * onward) / np.maximum(self.tries, 1.0)
        return worth

    def _linked(self, slots: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, Array]:
        """Every (situation, option) -> following link: cell, following, how often, reward in all."""
        links = np.array(list(self._links), dtype=np.int64).reshape(-1, 3)
        return links[:, 0] * slots + links[:, 1], links[:, 2], np.array(self._counts), np.array(self._rewards)

    def _value(self, hopeful: bool, size: int) -> Array:
        """(size + 1,) the last solution, 0 where there was none; the last entry is TERMINAL's."""
        last = self._values.get(hopeful, np.zeros(0))
        return np.append(np.append(last[:size], np.zeros(max(0, size - len(last)))), 0.0)

    def state(self) -> dict[str, Any]:
        """Everything counted, and the last solutions, from which the next ones set out, as plain JSON."""
        return {
            "links": [[*key, self._counts[i], self._rewards[i]] for key, i in self._links.items()],
            "cells": [
                [
                    int(c),
                    int(o),
                    *(float(a[c, o]) for a in (self.tries, self.failures, self.successes, self._followed, self._steps)),
                ]
                for c, o in np.argwhere(self.tries > 0)
            ],
            "situations": len(self.tries),
            "solved": {str(int(hopeful)): value.tolist() for hopeful, value in self._values.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.__init__(self.max_options, self.gamma, self.typical)  # type: ignore[misc]
        self.grow(state["situations"])
        for c, o, following, count, reward in state["links"]:
            self._links[(c, o, following)] = len(self._links)
            self._counts.append(count)
            self._rewards.append(reward)
        for c, o, *values in state["cells"]:
            for array, value in zip(
                (self.tries, self.failures, self.successes, self._followed, self._steps), values, strict=True
            ):
                array[c, o] = value
        self._values = {hopeful == "1": np.array(value) for hopeful, value in state["solved"].items()}


def widened(worth: Array, tried: NDArray[np.bool_]) -> Array:
    """`worth` (S, K) in [0, 1] with every tried option's distance from the best tried one of its situation taken `GAP` times.

    A mistake that can be made good again costs hardly more than a factor of gamma, which is less than a guess from words errs by.
    The best stays as it is, and so does the order (action gap: Bellemare et al. 2016, arXiv 1512.04860), but for what falls to 0.
    Options never tried are 0.
    """
    known = np.where(tried, worth, 0.0)
    best = known.max(axis=1, keepdims=True, initial=0.0)
    wide: Array = np.maximum(best - GAP * (best - known), 0.0)
    return wide


def trust(evidence: Array, options: Array, scale: float) -> Array:
    """lambda_N = c sqrt(N + 1) / (N + K): how much weight the prior keeps after N outcomes (Grill et al., eq. 4).

    evidence: (S,) outcomes counted in the situation; options: (S,) K; scale: c.
    """
    return scale * np.sqrt(evidence + 1.0) / (evidence + np.maximum(options, 1.0))


def reweigh(prior: Array, q: Array, lam: Array, steps: int = 50) -> Array:
    """The improved advice argmax_y sum y Q - lambda KL(prior || y), row by row: y = lambda prior / (alpha - Q).

    prior, q: (S, K), prior is 0 where there is no option; lam: (S,) > 0. Rows sum to 1 (0 where the prior
    has no option). alpha is found by bisection between max(Q + lambda prior) and max(Q) + lambda
    (Grill et al. 2020, eq. 10 and appendix B.3).
    """
    improved = np.zeros_like(prior)
    _bisect(prior, q, lam, steps, improved)
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
