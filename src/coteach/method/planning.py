"""Planning: optimistic value iteration on the abstract model, for all situations or incrementally.

Every option gets a few pseudo-outcomes of a given value (a soft form of R-max: Brafman & Tennenholtz 2002). High values give the
optimistic Q, which favours untried options; low values give the pessimistic Q, which counts only what was shown to work.
`Plan.solve` sweeps over all situations; `Plan.replan` propagates changes backwards (prioritised sweeping: Moore & Atkeson 1993).

    Q(c, o) = (R(c, o) + m U(c, o) + d(c, o) sum_c' N(c, o, c') V(c')) / (N(c, o) + m),   V(c) = max_o Q(c, o)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from coteach.config import EvidenceConfig
from coteach.grounding.outcomes import TERMINAL
from coteach.method.abstract_model import AbstractModel, with_terminal

Array = NDArray[np.float64]


class Plan:
    """A solution of the abstract model, which is the starting point of the next solution.

    decision_discount: factor for each further option, in addition to the discount for its duration.
    value:             (S,) V.
    q:                 (S, K) Q; 0 where there is no option.
    """

    def __init__(self, model: AbstractModel, settings: EvidenceConfig, decision_discount: float = 1.0) -> None:
        self.model, self.settings, self.decision_discount = model, settings, decision_discount
        self.value = np.zeros(0)
        self.q = np.zeros((0, model.max_options))

    def solve(self, mask: NDArray[np.bool_], unknown: Array) -> Array:
        """Sweep over all situations until no value changes by more than the tolerance; return Q (S, K).

        mask: (S, K) where there is an option; unknown: (S, K) value of the pseudo-outcomes.
        """
        settings = self.settings
        self.grow(len(mask))
        cell, following, counts, rewards = self.model.links()
        discount, total = self.model.discounts() * self.decision_discount, self.model.tries + settings.optimism
        base = np.bincount(cell, rewards, mask.size).reshape(mask.shape) + settings.optimism * unknown
        value = with_terminal(self.value)
        for _ in range(settings.planning_sweeps):
            onward = np.bincount(cell, counts * value[following], mask.size).reshape(mask.shape)
            q = np.where(mask & (total > 0), (base + discount * onward) / np.maximum(total, 1e-9), 0.0)
            new = q.max(axis=1, initial=0.0)
            moved = np.abs(new - value[:-1]).max(initial=0.0)
            value[:-1] = new
            if moved < settings.planning_tolerance:
                break
        self.value, self.q = value[:-1].copy(), q
        return q

    def replan(self, changed: Iterable[int], mask: NDArray[np.bool_], unknown: Array, backups: int = 1_000) -> int:
        """Update the plan after outcomes in the situations `changed`, backwards along the links, the largest change first.

        At most `backups` situations are backed up; returns how many were. The others keep their values.
        """
        self.grow(len(mask))
        discount = self.model.discounts() * self.decision_discount
        queue: list[tuple[float, int]] = [(-np.inf, number) for number in sorted(set(changed))]
        waiting = {number for _, number in queue}
        done = 0
        while queue and done < backups:
            _, number = heapq.heappop(queue)
            if number not in waiting:
                continue
            waiting.discard(number)
            moved = self._back_up(number, discount[number], mask[number], unknown[number])
            done += 1
            if moved >= self.settings.planning_tolerance:
                for earlier in self.model.predecessors(number):
                    heapq.heappush(queue, (-moved, earlier))
                    waiting.add(earlier)
        return done

    def _back_up(self, number: int, discount: Array, mask: NDArray[np.bool_], unknown: Array) -> float:
        """Back up one situation; return the absolute change of its value."""
        optimism = self.settings.optimism
        for slot in np.flatnonzero(mask).tolist():
            total = self.model.tries[number, slot] + optimism
            gained = optimism * unknown[slot]
            for following, count, reward in self.model.links_of(number, slot):
                onward = 0.0 if following == TERMINAL else self.value[following]
                gained += reward + discount[slot] * count * onward
            self.q[number, slot] = gained / max(total, 1e-9) if total > 0 else 0.0
        new = float(self.q[number].max(initial=0.0))
        moved = abs(new - float(self.value[number]))
        self.value[number] = new
        return moved

    def grow(self, situations: int) -> None:
        """Make room for situations numbered below `situations`; new ones have the value 0."""
        self.model.grow(situations)
        missing = situations - len(self.value)
        if missing > 0:
            self.value = np.append(self.value, np.zeros(missing))
        if situations > len(self.q):
            self.q = np.vstack([self.q, np.zeros((situations - len(self.q), self.q.shape[1]))])
