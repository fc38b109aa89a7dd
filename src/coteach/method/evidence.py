"""The evidence of a run: the outcomes of options, the solutions of the abstract model, and the word values.

`Evidence` has the abstract model, an optimistic and a pessimistic plan of it, and the word values, which generalise to situations
never met. An arm without word values gets `NoWordValues` instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.config import Config
from coteach.grounding.base import Family, Situations
from coteach.grounding.outcomes import Outcome
from coteach.method.abstract_model import AbstractModel
from coteach.method.improvement import widen_gaps
from coteach.method.planning import Plan
from coteach.method.word_values import NoWordValues, WordValues
from coteach.runs import tensors

Array = NDArray[np.float64]

FILE, WORDS = "plans.safetensors", "words"


class Evidence:
    """Outcomes, plans and word values; the arrays grow with the situations (S).

    model:       counts of outcomes.
    optimistic:  its solution with optimism for untried options; pessimistic: without it.
    words:       values estimated from words.
    """

    def __init__(self, config: Config, family: Family, situations: Situations, shares: bool, seed: int) -> None:
        """shares: whether word values generalise from one situation to others."""
        self.settings = config.evidence
        self.model = AbstractModel(family.max_options, config.student.gamma, family.typical_duration)
        self.optimistic = Plan(self.model, self.settings, self.settings.decision_discount)
        self.pessimistic = Plan(self.model, self.settings)
        self.words: WordValues | NoWordValues = NoWordValues(family.max_options)
        if shares:
            self.words = WordValues(situations, family.max_options, config.words, self.settings, seed)

    def grow(self, situations: int) -> None:
        """Make room for situations numbered below `situations`."""
        self.pessimistic.grow(situations)
        self.optimistic.grow(situations)
        self.words.grow(situations)

    def add_outcome(self, outcome: Outcome) -> None:
        """Count the outcome of an option."""
        self.model.add(outcome)
        self.words.add_outcome(outcome)

    def learn(self, visits: Array, prior: Array, answered: NDArray[np.bool_]) -> None:
        """Train the word values on the mean returns so far, and on the LLM's answers.

        visits: (S,) of recent rounds; prior: (S, K), the LLM's answers where `answered` (S,).
        """
        returns = np.clip(self.model.mean_returns(self.pessimistic.value), 0.0, 1.0)
        targets = widen_gaps(returns, self.model.tries > 0, self.settings.action_gap)
        self.words.learn(targets, self.model.tries, visits, prior, answered)
        self.words.refresh(np.flatnonzero(visits >= self.settings.recent_visits))

    def outcomes(self, numbers: NDArray[np.int64], mask: NDArray[np.bool_]) -> Array:
        """Return the outcomes in situations (N,), including those for which certain word values count; mask: (N, K) options."""
        sure = np.where(mask, self.words.opinions(numbers).known, 0.0).sum(axis=1)
        count: Array = self.model.tries[numbers].sum(axis=1) + self.settings.known_outcomes * sure
        return count

    def save(self, folder: Path) -> dict[str, Any]:
        """Write plans and word values into `folder`; return the counts as plain JSON."""
        tensors.write(folder / FILE, {"optimistic": self.optimistic.value, "pessimistic": self.pessimistic.value})
        self.words.save(folder / WORDS)
        return self.model.state()

    def load(self, folder: Path, counts: dict[str, Any]) -> None:
        """Load what `save` wrote and returned."""
        values = {name: value.numpy().copy() for name, value in tensors.read(folder / FILE).items()}
        self.model.restore(counts)
        self.optimistic.value, self.pessimistic.value = values["optimistic"], values["pessimistic"]
        self.words.load(folder / WORDS)
