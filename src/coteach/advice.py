"""The advice for every situation met, as arrays to look up: the teacher is asked between rounds, never within.

Rows are situations, columns option slots: `prior` is the teacher's own advice (uniform until it was asked),
`leading` the improved advice by which it leads, `shown` the sharp advice that the student imitates and the LLM is tuned
towards. Calls to the LLM are rationed to the situations that are met most often and that it was not asked about under its
present weights.
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

LEAST_WEIGHT = 0.08
"""Of the prior (lambda_N; about 35 outcomes): below it the evidence decides, and a call to the LLM would be wasted."""

LEAST_DISAGREEMENT = 0.1
"""Mean nats between what the teacher should say and its own advice: below it there is nothing to teach."""

LEAST_OUTCOMES = 10
"""In a situation, before the teacher is taught about it."""

REHEARSAL = 0.5
"""Added to a lesson's disagreement (nats): what the teacher knows already is rehearsed, or it would be forgotten."""


class Advice:
    """Prior and improved advice of one run; K columns."""

    def __init__(self, situations: Situations, teacher: Teacher, arm: Arm, max_options: int) -> None:
        self.situations, self.teacher, self.arm, self.max_options = situations, teacher, arm, max_options
        self.prior = np.zeros((0, max_options))
        self.leading, self.shown = self.prior, self.prior
        self.proven = self.prior
        """Improved advice from what was shown to work alone, without optimism."""
        self.value = np.zeros(0)
        """(S,) value of the shown advice under the abstract model; 0 where nothing is known."""
        self.q = self.prior
        self.weight = np.zeros(0)
        """(S,) lambda_N: how much the prior still weighs against the evidence; infinite before any."""
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
        self.weight = np.append(self.weight, np.full(new - old, np.inf))

    def visit(self, situation: NDArray[np.int64]) -> None:
        """Count the rows of a rollout; older visits fade, so that calls go where the agent is now."""
        self.grow()
        self.visits = 0.7 * self.visits + np.bincount(situation.ravel(), minlength=len(self.visits))

    def ask(self, limit: int) -> int:
        """Ask the teacher about at most `limit` situations, most visited first; returns how many.

        Left out is where the answer would not matter: one option only, or evidence that outweighs any prior.
        """
        matters = (self.prior > 0).sum(axis=1) > 1
        if self.arm.reweigh:
            matters &= self.weight > LEAST_WEIGHT
        waiting = np.flatnonzero(matters & ~self.asked & (self.visits > 0.5))
        return self.consult(waiting[np.argsort(-self.visits[waiting], kind="stable")][:limit])

    def consult(self, chosen: NDArray[np.int64]) -> int:
        """Ask the teacher about these situations; returns how many."""
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
        self.q, self.weight = hopeful, trust(model.tries.sum(axis=1), mask.sum(axis=1).astype(float), evidence.trust)
        best = proven.max(axis=1, initial=0.0)
        if self.arm.reweigh:
            self.leading = reweigh(self.prior, hopeful, self.weight)
            self.proven = reweigh(self.prior, proven, self.weight)
            self.shown = sharpen(np.where(best[:, None] > 0, self.proven, self.leading), sharpness)
        else:
            self.leading = self.proven = self.prior
            self.shown = sharpen(self.prior, sharpness)
        self.value = (self.shown * proven).sum(axis=1)

    def lessons(self, model: AbstractModel, limit: int) -> list[Lesson]:
        """What to teach: the situations with most evidence from which something worked, where the teacher is wrong first.

        The teacher is asked about them as it is now. Empty where it says nearly the same already.
        """
        taught = (self.value > 0) & ((self.prior > 0).sum(axis=1) > 1) & (model.tries.sum(axis=1) >= LEAST_OUTCOMES)
        evidence = np.where(taught, np.sqrt(model.tries.sum(axis=1)), 0.0)
        chosen = np.argsort(-evidence * (REHEARSAL + np.minimum(self.disagreement(), 1.0)), kind="stable")[:limit]
        chosen = chosen[taught[chosen]]
        self.consult(chosen[~self.asked[chosen]])
        disagreement, evidence = self.disagreement()[chosen], evidence[chosen]
        if disagreement @ evidence <= LEAST_DISAGREEMENT * evidence.sum():
            return []
        weights = evidence * (REHEARSAL + np.minimum(disagreement, 1.0))
        return [self.lesson(int(number), float(weight)) for number, weight in zip(chosen, weights, strict=True)]

    def lesson(self, number: int, weight: float) -> Lesson:
        """What the teacher should say in a situation."""
        situation = self.situations[number]
        return Lesson(situation, self.shown[number, : len(situation.options)].copy(), weight)

    def disagreement(self) -> Array:
        """(S,) KL(shown || prior) in nats: how far the teacher's own advice is from what the student is shown."""
        ratio = np.log(np.maximum(self.shown, 1e-9) / np.maximum(self.prior, 1e-9))
        divergence: Array = (self.shown * ratio).sum(axis=1)
        return divergence
