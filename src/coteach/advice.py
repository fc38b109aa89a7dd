"""The advice for every situation met, as arrays to look up: the teacher is asked between rounds, never within.

Rows are situations, columns option slots: `prior` is the teacher's own advice (uniform until it was asked),
`leading` the improved advice by which it leads, `shown` the sharp advice that the student imitates. Calls to
the LLM are rationed to the situations that are met most often and that it was not asked about under its present weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coteach.config import EvidenceConfig
from coteach.evidence import AbstractModel, reweigh, trust
from coteach.experiments.arms import Arm
from coteach.grounding.base import Situations
from coteach.guidance import sharpen
from coteach.teacher.base import Lesson, Teacher

Array = NDArray[np.float64]


class Advice:
    """Prior and improved advice of one run; K columns."""

    def __init__(self, situations: Situations, teacher: Teacher, arm: Arm, max_options: int) -> None:
        self.situations, self.teacher, self.arm, self.max_options = situations, teacher, arm, max_options
        self.prior = np.zeros((0, max_options))
        self.leading, self.shown = self.prior, self.prior
        self.proven = self.prior
        """Improved advice from what was shown to work alone, without optimism: what the teacher is tuned towards."""
        self.value = np.zeros(0)
        """(S,) value of the shown advice under the abstract model; 0 where nothing is known."""
        self.q, self.lam = self.prior, self.value
        self.asked = np.zeros(0, dtype=np.bool_)
        """(S,) the teacher was asked under its present weights."""
        self.visits = np.zeros(0)

    def grow(self) -> None:
        """Make room for the situations met since the last call; their prior is uniform."""
        old, new = len(self.prior), len(self.situations)
        if new == old:
            return
        rows = np.zeros((new - old, self.max_options))
        for i in range(old, new):
            count = len(self.situations[i].options)
            rows[i - old, :count] = 1.0 / count
        self.prior = np.vstack([self.prior, rows])
        self.asked = np.append(self.asked, np.zeros(new - old, dtype=np.bool_))
        self.visits = np.append(self.visits, np.zeros(new - old))

    def visit(self, situation: NDArray[np.int64]) -> None:
        """Count the rows of a rollout; older visits fade, so that calls go where the agent is now."""
        self.grow()
        self.visits = 0.7 * self.visits + np.bincount(situation.ravel(), minlength=len(self.visits))

    def ask(self, limit: int) -> int:
        """Ask the teacher about at most `limit` situations, most visited first; returns how many."""
        waiting = np.flatnonzero(~self.asked & (self.visits > 0.5))
        chosen = waiting[np.argsort(-self.visits[waiting], kind="stable")][:limit]
        answers = self.teacher.advise([self.situations[int(i)] for i in chosen]) if len(chosen) else []
        for i, answer in zip(chosen, answers, strict=True):
            self.prior[i, : len(answer)] = answer
        self.asked[chosen] = True
        return len(chosen)

    def forget(self) -> None:
        """The teacher has new weights: every situation may be asked again (the old answer serves until then)."""
        self.asked[:] = False

    def improve(self, model: AbstractModel, evidence: EvidenceConfig, sharpness: float) -> None:
        """Reweigh the prior by the evidence (an arm that does not reweigh keeps the prior).

        While no way to a reward is known from a situation, novelty guides the student too; once one is, what was
        shown to work.
        """
        mask = self.prior > 0
        hopeful = model.solve(mask, evidence.optimism, optimistic_value=1.0)
        proven = model.solve(mask, evidence.optimism, optimistic_value=0.0)
        self.q, self.lam = hopeful, trust(model.tries.sum(axis=1), mask.sum(axis=1).astype(float), evidence.trust)
        best = proven.max(axis=1, initial=0.0)
        if self.arm.reweigh:
            self.leading = reweigh(self.prior, hopeful, self.lam)
            self.proven = reweigh(self.prior, proven, self.lam)
            self.shown = sharpen(np.where(best[:, None] > 0, self.proven, self.leading), sharpness)
        else:
            self.leading = self.proven = self.shown = self.prior
        self.value = (self.shown * proven).sum(axis=1)

    def lessons(self, model: AbstractModel, limit: int) -> list[Lesson]:
        """The situations from which something worked, and where the teacher is furthest from what did."""
        mask = self.prior > 0
        disagreement = np.where(
            mask, self.proven * np.log(np.maximum(self.proven, 1e-9) / np.maximum(self.prior, 1e-9)), 0.0
        ).sum(axis=1)
        evidence = np.where(self.value > 0, model.tries.sum(axis=1), 0.0)
        weight = np.sqrt(evidence) * (0.05 + disagreement) * (mask.sum(axis=1) > 1)
        best = np.argsort(-weight, kind="stable")[:limit]
        return [
            Lesson(self.situations[int(i)], self.proven[i, : len(self.situations[int(i)].options)].copy(), float(weight[i]))
            for i in best
            if weight[i] > 0
        ]
