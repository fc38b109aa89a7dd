"""The abstract model of a task: a semi-Markov decision process over situations and options, estimated by counting outcomes.

For every situation and option it counts tries, failures, rewards, durations, and the situations that came next, whoever chose the
actions. `planning.Plan` solves it for Q(c, o). The counts are (S, K) arrays, and one link for each observed triple of situation,
option and following situation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.outcomes import TERMINAL, TYPICAL_DURATION, Outcome

Array = NDArray[np.float64]

TABLES = ("tries", "failures", "successes", "followed", "steps")


class AbstractModel:
    """Counts of outcomes per (situation, option); arrays grow with the situations.

    max_options:      K, the largest number of options of a situation.
    gamma:            discount per environment step.
    typical_duration: steps assumed for an option that was never followed to its end.

    tries, failures, successes: (S, K) outcomes counted; failures and successes (positive reward) are among the tries.
    followed, steps:            (S, K) outcomes with a known duration, and the sum of these durations.
    """

    def __init__(self, max_options: int, gamma: float, typical_duration: float = TYPICAL_DURATION) -> None:
        self.max_options, self.gamma, self.typical_duration = max_options, gamma, typical_duration
        self._links: dict[tuple[int, int, int], int] = {}
        """The number of each link (situation, slot, following situation), its index in the lists below."""
        self._keys: list[tuple[int, int, int]] = []
        self._counts: list[float] = []
        self._rewards: list[float] = []
        self._outgoing: dict[tuple[int, int], list[int]] = {}
        """The links of each (situation, slot)."""
        self._incoming: dict[int, set[int]] = {}
        """For each situation, the situations from which it was reached."""
        nothing = np.zeros((0, max_options))
        self.tries, self.failures, self.successes, self.followed, self.steps = (nothing.copy() for _ in TABLES)

    def grow(self, situations: int) -> None:
        """Make room for situations numbered below `situations`."""
        missing = situations - len(self.tries)
        if missing > 0:
            for name in TABLES:
                setattr(self, name, np.vstack([getattr(self, name), np.zeros((missing, self.max_options))]))

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.grow(max(outcome.situation, outcome.following) + 1)
        c, o = outcome.situation, outcome.slot
        link = self._link(c, o, TERMINAL if outcome.failed else outcome.following)
        self._counts[link] += 1.0
        self._rewards[link] += outcome.reward
        self.tries[c, o] += 1.0
        self.failures[c, o] += outcome.failed
        self.successes[c, o] += outcome.reward > 0
        if outcome.duration is not None:
            self.followed[c, o] += 1.0
            self.steps[c, o] += outcome.duration

    def _link(self, situation: int, slot: int, following: int) -> int:
        """Return the number of a link, which is added if it is new."""
        key = (situation, slot, following)
        if key not in self._links:
            self._links[key] = len(self._keys)
            self._outgoing.setdefault((situation, slot), []).append(len(self._keys))
            self._incoming.setdefault(following, set()).add(situation)
            self._keys.append(key)
            self._counts.append(0.0)
            self._rewards.append(0.0)
        return self._links[key]

    def fade(self, cells: NDArray[np.bool_], share: float) -> None:
        """Multiply the counts of the options `cells` (S, K) by `share`: they are no longer carried out as before."""
        for name in TABLES:
            getattr(self, name)[: len(cells)][cells] *= share
        for (c, o, _), link in self._links.items():
            if c < len(cells) and cells[c, o]:
                self._counts[link] *= share
                self._rewards[link] *= share

    def discounts(self) -> Array:
        """Return the discount over each option (S, K): gamma to the power of its mean duration, or of `typical_duration`."""
        duration = np.where(self.followed > 0, self.steps / np.maximum(self.followed, 1.0), self.typical_duration)
        discount: Array = self.gamma**duration
        return discount

    def links(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, Array]:
        """Return all links as arrays (L,): cell (situation * K + slot), following situation, count, sum of rewards."""
        keys = np.array(self._keys, dtype=np.int64).reshape(-1, 3)
        return keys[:, 0] * self.max_options + keys[:, 1], keys[:, 2], np.array(self._counts), np.array(self._rewards)

    def links_of(self, situation: int, slot: int) -> Iterator[tuple[int, float, float]]:
        """Yield (following situation, count, sum of rewards) for each link of one option."""
        for link in self._outgoing.get((situation, slot), ()):
            yield self._keys[link][2], self._counts[link], self._rewards[link]

    def predecessors(self, situation: int) -> set[int]:
        """Return the situations from which `situation` was reached by an option."""
        return self._incoming.get(situation, set())

    def wasted(self) -> Array:
        """Return how many outcomes of each option (S, K) failed or ended the episode without a reward."""
        cell, following, counts, _ = self.links()
        wasted: Array = np.maximum(self._summed(cell, counts * (following == TERMINAL)) - self.successes, 0.0)
        return wasted

    def mean_returns(self, value: Array) -> Array:
        """Return the mean return of each tried option (S, K), bootstrapped with the `value` (S,) of the following situations."""
        cell, following, counts, rewards = self.links()
        onward = self._summed(cell, counts * with_terminal(value)[following])
        returns: Array = (self._summed(cell, rewards) + self.discounts() * onward) / np.maximum(self.tries, 1.0)
        return returns

    def _summed(self, cell: NDArray[np.int64], weights: Array) -> Array:
        """Return the sums of `weights` (L,) over the links of each option, (S, K)."""
        return np.asarray(np.bincount(cell, weights, self.tries.size), dtype=np.float64).reshape(self.tries.shape)

    def state(self) -> dict[str, Any]:
        """Return all counts as plain JSON."""
        tables = [getattr(self, name) for name in TABLES]
        return {
            "links": [[*key, self._counts[i], self._rewards[i]] for i, key in enumerate(self._keys)],
            "cells": [[int(c), int(o), *(float(table[c, o]) for table in tables)] for c, o in np.argwhere(self.tries > 0)],
            "situations": len(self.tries),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned, in an empty model."""
        self.grow(state["situations"])
        for c, o, following, count, reward in state["links"]:
            link = self._link(c, o, following)
            self._counts[link], self._rewards[link] = count, reward
        for c, o, *values in state["cells"]:
            for name, value in zip(TABLES, values, strict=True):
                getattr(self, name)[c, o] = value


def with_terminal(value: Array) -> Array:
    """Append the value 0 of the end of an episode to `value` (S,), so that index `TERMINAL` (-1) selects it."""
    return np.append(value, 0.0)
