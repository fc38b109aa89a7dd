"""The advice table: the prior, the improved policies and their values for every situation, as arrays.

Rows are situations, columns are option slots. `prior` is the teacher's own advice; `improvement.improve` computes the policies
from it and from the evidence. The table stores and grows the arrays; `Advice` fills them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.base import Situations

Array = NDArray[np.float64]

BY_OPTION = ("prior", "exploration", "pessimistic", "imitation", "optimistic_q", "pessimistic_q")
"""Names of the arrays with a column for each option slot, (S, K)."""

BY_SITUATION = ("value", "prior_weight", "visits", "asked", "answered", "taught", "initialised")
"""Names of the arrays with one entry for each situation, (S,)."""


class AdviceTable:
    """Arrays by situation; K columns.

    prior:         (S, K) the teacher's own advice, uniform until it was asked.
    exploration:   (S, K) improved advice by optimistic Q; optimistic episodes follow it.
    pessimistic:   (S, K) improved advice by pessimistic Q, which counts only what was shown to work.
    imitation:     (S, K) the sharp improved advice that the student imitates and the LLM is tuned towards.
    optimistic_q:  (S, K) Q with optimism for untried options; pessimistic_q: Q without it.
    value:         (S,) value of the imitation policy under the abstract model; 0 where nothing is known.
    prior_weight:  (S,) lambda_N, the weight of the prior; infinite before any evidence.
    visits:        (S,) rows of recent rollouts; older ones fade.
    asked:         (S,) bool, the teacher was queried under its present weights and prompt; answered: it has ever answered.
    taught:        (S,) bool, the teacher was tuned on this situation.
    initialised:   (S,) bool, the policies were set.
    """

    def __init__(self, situations: Situations, max_options: int) -> None:
        self.situations, self.max_options = situations, max_options
        nothing = np.zeros((0, max_options))
        self.prior, self.exploration, self.pessimistic, self.imitation = (nothing.copy() for _ in range(4))
        self.optimistic_q, self.pessimistic_q = nothing.copy(), nothing.copy()
        self.value, self.prior_weight, self.visits = np.zeros(0), np.zeros(0), np.zeros(0)
        self.asked, self.answered, self.taught, self.initialised = (np.zeros(0, dtype=np.bool_) for _ in range(4))

    def __len__(self) -> int:
        return len(self.prior)

    def grow(self) -> bool:
        """Make room for the situations met since the last call, with a uniform prior; return whether there were any."""
        old, new = len(self), len(self.situations)
        if new == old:
            return False
        for name in BY_OPTION:
            setattr(self, name, np.vstack([getattr(self, name), np.zeros((new - old, self.max_options))]))
        for name in BY_SITUATION:
            array = getattr(self, name)
            setattr(self, name, np.append(array, np.zeros(new - old, dtype=array.dtype)))
        for number in range(old, new):
            count = len(self.situations[number].options)
            self.prior[number, :count] = 1.0 / count
        self.prior_weight[old:] = np.inf
        return True

    def has_choice(self) -> NDArray[np.bool_]:
        """Return which situations have more than one option, (S,) bool."""
        several: NDArray[np.bool_] = (self.prior > 0).sum(axis=1) > 1
        return several

    def follow(self, numbers: NDArray[np.int64], optimistic: NDArray[np.bool_]) -> Array:
        """Return the policies (N, K) of situations (N,): for exploration where `optimistic` (N,), else for imitation."""
        return np.where(optimistic[:, None], self.exploration[numbers], self.imitation[numbers])

    def count_visits(self, rows: Iterable[NDArray[np.int64]], decay: float) -> None:
        """Count the rows of a round's rollouts; older visits fade by `decay`."""
        every = np.concatenate([row.ravel() for row in rows])
        self.visits = decay * self.visits + np.bincount(every, minlength=len(self.visits))

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all arrays by name; those by option contain only the existing options, situation by situation."""
        offered = self._offered()
        return {name: getattr(self, name)[offered] for name in BY_OPTION} | {name: getattr(self, name) for name in BY_SITUATION}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state` returned; the situations must be the same."""
        self.grow()
        offered = self._offered()
        for name in BY_OPTION:
            getattr(self, name)[offered] = state[name]
        for name in BY_SITUATION:
            getattr(self, name)[:] = state[name]

    def _offered(self) -> NDArray[np.bool_]:
        """Return which slots are options, (S, K) bool."""
        counts = np.array([len(situation.options) for situation in self.situations], dtype=np.int64)
        return np.arange(self.max_options) < counts[:, None]
