"""The advice for every situation met, as arrays to look up.

Rows are situations, columns option slots: `prior` is the teacher's own advice (uniform until it was asked),
`leading` the improved advice by which it leads, `shown` the sharp advice that the student imitates and the LLM is tuned
towards. Situations met for the first time while the teacher leads are judged at once. Calls to the LLM are rationed to where its
answer would matter, most often met first, and it has as much say as its answers have proved right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.arms import Arm
from coteach.config import EvidenceConfig
from coteach.errors import note
from coteach.grounding.base import Situations
from coteach.grounding.outcomes import Outcome
from coteach.method.abstract_model import AbstractModel, reweigh, trust, widened
from coteach.method.word_values import Evaluator
from coteach.student.guidance import sharpen
from coteach.teacher.base import Lesson, Teacher
from coteach.teacher.feedback import Experience

Array = NDArray[np.float64]

LEAST_WEIGHT = 0.08
"""Of the prior (lambda_N; about 35 outcomes): below it the evidence decides, and a call to the LLM would be wasted."""

LEAST_DISAGREEMENT = 0.1
"""Mean nats between what the teacher should say and its own advice: below it there is nothing to teach."""

LEAST_OUTCOMES, FEWEST_OUTCOMES = 10, 2
"""In a situation, before the teacher is taught about it; and where there are too few such situations for a tuning. A handful
of lessons learned by heart spoils what the LLM knew of everything else."""

SPREAD = 2.0
"""Standard deviations of the evaluator's opinion to what an option may be worth at best, and at worst."""

DOUBTFUL = 0.2
"""Standard deviation at which the evaluator knows nothing."""

KNOWN = 10.0
"""Outcomes for which a sure opinion of the evaluator counts."""

EVALUATOR_STEPS = 48
"""Optimiser steps of the evaluator per round."""

FORGOTTEN = 0.01
"""Visits, fading by 0.7 a round, below which a situation's advice is left as it is: a dozen rounds after it was met once."""

LEAST_PROMISE = 0.1
"""Value from which on a way to a reward counts as known."""

ENOUGH_ANSWERS = 32
"""Of the teacher, before the evaluator's echo of them stands in for those it was not asked for."""

LEAST_ECHO = 1e-3

FAITH = 0.25
"""Power of how likely the teacher thinks an option, beside its first choice: hope in what was never tried is less by it."""

CREDITS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Powers of the prior that are compared, no prior at all first."""

CREDIT_RATE = 0.5
"""How fast the credit follows what they say."""

LEAST_CREDIT = 0.25
"""Share of the calls that is made however little the answers are worth: they may be worth more on other situations."""

ENOUGH_JUDGED = 5
"""Situations in which the teacher's answers can be judged, before its credit changes."""

CLEARLY = 2.0
"""Standard errors of a difference that count as clear."""

REHEARSAL = 0.5
"""Added to a lesson's disagreement (nats): what the teacher knows already is rehearsed, or it would be forgotten."""


TABLES, FIELDS = (
    ("prior", "leading", "shown", "proven", "q", "worth"),
    ("value", "weight", "visits", "asked", "answered", "taught", "judged"),
)
"""Arrays of an `Advice`: (S, K) and (S,) each."""


class Advice:
    """Prior and improved advice of one run; K columns."""

    def __init__(
        self,
        situations: Situations,
        teacher: Teacher,
        arm: Arm,
        evidence: EvidenceConfig,
        sharpness: float,
        model: AbstractModel,
        evaluator: Evaluator,
    ) -> None:
        self.situations, self.teacher, self.arm = situations, teacher, arm
        self.evidence, self.sharpness = evidence, sharpness
        self.model, self.evaluator, self.max_options = model, evaluator, model.max_options
        self.credit = 1.0
        """In [0, 1]: the power to which the prior is raised, so far as it has proved right where the evidence could tell."""
        self.calls = 0
        """Situations about which the teacher may still be asked in this round."""
        self.reserved = 0
        """Of these, how many are left for the rungs that have their turn later in the round."""
        empty = np.zeros((0, self.max_options))
        self.prior, self.leading, self.shown = empty, empty, empty
        self.proven = empty
        """Improved advice from what was shown to work alone, without optimism."""
        self.value = np.zeros(0)
        """(S,) value of the shown advice under the abstract model; 0 where nothing is known."""
        self.q = empty
        self.worth = empty
        """(S, K) Q by what was shown to work alone, without optimism."""
        self.weight = np.zeros(0)
        """(S,) lambda_N: how much the prior still weighs against the evidence; infinite before any."""
        self.asked = np.zeros(0, dtype=np.bool_)
        """(S,) the teacher was asked under its present weights; `answered`: under any."""
        self.answered = self.asked
        self.taught = self.asked
        """(S,) it was once tuned towards the improved advice there."""
        self.judged = self.asked
        """(S,) there is advice by which to lead."""
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
        for name in TABLES[1:]:
            setattr(self, name, np.vstack([getattr(self, name), np.zeros_like(rows)]))
        for name in ("asked", "answered", "taught", "judged"):
            setattr(self, name, np.append(getattr(self, name), np.zeros(new - old, dtype=np.bool_)))
        self.visits, self.value = np.append(self.visits, np.zeros(new - old)), np.append(self.value, np.zeros(new - old))
        self.weight = np.append(self.weight, np.full(new - old, np.inf))
        self.model.grow(new)
        self.evaluator.grow(new)

    def state(self) -> dict[str, Array]:
        """All arrays by name; of tables only the slots in which there is an option, situation by situation."""
        self.grow()  # evaluations meet situations too
        there = self._there()
        return {name: getattr(self, name)[there] for name in TABLES} | {name: getattr(self, name) for name in FIELDS}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take up what `state` gave, the situations being the same."""
        self.grow()
        there = self._there()
        for name in TABLES:
            getattr(self, name)[there] = state[name]
        for name in FIELDS:
            getattr(self, name)[:] = state[name]

    def _there(self) -> NDArray[np.bool_]:
        """(S, K) where a situation has an option."""
        counts = np.array([len(situation.options) for situation in self.situations], dtype=np.int64)
        return np.arange(self.max_options) < counts[:, None]

    def lead(self, numbers: NDArray[np.int64], bold: NDArray[np.bool_]) -> Array:
        """(N, K) by what the teacher leads in these situations; what it was not yet asked about it is asked now, as calls go.

        bold: (N,) True for what may turn out best, False for what the student is shown.
        """
        met = np.unique(numbers)
        new = self.acquaint(met)
        asked = self.worth_asking(met)
        if self.consult(asked):
            known = np.setdiff1d(asked, new)
            self.reckon(np.intersect1d(asked, new))
            self.reckon(known, self.q[known], self.worth[known])
        return np.where(bold[:, None], self.leading[numbers], self.shown[numbers])

    def acquaint(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Judge those situations that were met for the first time, by the evaluator's opinion; returns which."""
        self.grow()
        new = numbers[~self.judged[numbers]]
        if len(new):
            self.judged[new] = True
            self.evaluator.refresh(new)
            self.reckon(new)
        return new

    def witness(self, outcome: Outcome) -> None:
        """Count what became of an option."""
        self.model.add(outcome)
        self.evaluator.witness(outcome.situation, outcome.slot)

    def allow(self, calls: int) -> None:
        """How many situations the teacher may be asked about in this round: fewer of them, the less its answers are worth."""
        self.calls = round(calls * max(self.credit, LEAST_CREDIT)) if self.arm.reweigh else calls

    def take_turns(self, others: int) -> None:
        """So many rungs have their turn later in the round: each gets an equal part of the calls that are left now."""
        self.reserved = self.calls * others // (others + 1)

    def visit(self, situations: Iterable[NDArray[np.int64]]) -> None:
        """Count the rows of a round's rollouts; older visits fade, so that calls go where the agents are now."""
        self.grow()
        rows = np.concatenate([situation.ravel() for situation in situations])
        self.visits = 0.7 * self.visits + np.bincount(rows, minlength=len(self.visits))

    def ask(self) -> int:
        """Ask the teacher, as far as its calls go, about the situations that are visited most; returns how many it answered."""
        return self.consult(self.worth_asking(np.flatnonzero(self.visits > 0.5)))

    def worth_asking(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `numbers` about which to ask, most visited first and no more than there are calls.

        Left out is where the answer would not matter: one option only, or evidence that outweighs any prior.
        """
        matters = self.choice()[numbers] & ~self.asked[numbers]
        if self.arm.reweigh:
            matters &= self.weight[numbers] > LEAST_WEIGHT
        waiting: NDArray[np.int64] = numbers[matters]
        return waiting[np.argsort(-self.visits[waiting], kind="stable")][: max(self.calls - self.reserved, 0)]

    def choice(self) -> NDArray[np.bool_]:
        """(S,) whether a situation has more than one option."""
        several: NDArray[np.bool_] = (self.prior > 0).sum(axis=1) > 1
        return several

    def consult(self, chosen: NDArray[np.int64]) -> int:
        """Ask the teacher about these situations; returns how many it answered (the others are asked about again).

        An answer that is no distribution is not heeded.
        """
        answers = self.teacher.advise([self.situations[int(i)] for i in chosen]) if len(chosen) else []
        self.calls -= len(chosen)
        heard = 0
        for i, answer in zip(chosen, answers, strict=True):
            if answer is not None:
                self._hear(int(i), answer)
                heard += 1
        return heard

    def _hear(self, number: int, answer: Array) -> None:
        """Take in the teacher's answer about a situation."""
        self.asked[number] = self.answered[number] = True
        if np.isfinite(answer).all() and answer.min() >= 0.0 and abs(answer.sum() - 1.0) < 1e-6:
            self.prior[number, : len(answer)] = answer
        else:
            note(f"teacher {self.teacher.name!r}: its advice is no distribution and is not heeded: {np.round(answer, 3)}")

    def forget(self) -> None:
        """The teacher has new weights or was told something: all may be asked again (the old answers serve until then).

        Its credit it has to earn anew: a few lessons learned may have cost it what it knew.
        """
        self.asked[:] = False

    def improve(self) -> None:
        """Learn from the evidence so far and reweigh the prior by it, in every situation."""
        self.grow()
        worth = widened(np.clip(self.model.worth(), 0.0, 1.0), self.model.tries > 0)
        self.evaluator.learn(worth, self.model.tries, self.visits, self.prior, self.answered, EVALUATOR_STEPS)
        self.evaluator.refresh(np.flatnonzero(self.visits >= 1.0))
        self.reconsider()

    def reconsider(self) -> None:
        """Solve the abstract model, and improve the advice for every situation that was met of late (or has none yet)."""
        best, worst = self.bounds(np.arange(len(self.prior)))
        mask, optimism = self.prior > 0, self.evidence.optimism
        self.q = self.model.solve(mask, optimism, best, hopeful=True)
        proven = self.model.solve(mask, optimism, worst, hopeful=False)
        if self.arm.reweigh and self.arm.prior != "uniform":
            self.give_credit(proven)
        recent = np.flatnonzero((self.visits > FORGOTTEN) | ~self.judged)
        self.reckon(recent, self.q[recent], proven[recent])
        self.judged[recent] = True

    def reckon(self, numbers: NDArray[np.int64], hopeful: Array | None = None, proven: Array | None = None) -> None:
        """Improve the advice for these situations by Q, (N, K) each; where there is none yet, by the evaluator's opinion.

        Once a way to a reward is known from a situation, the student is shown what was shown to work, before that a guess. An arm
        that does not reweigh keeps the prior.
        """
        prior = self.expected(numbers)
        mask = prior > 0
        prior = sharpen(prior, self.credit) if self.arm.reweigh else prior
        best, worst = self.bounds(numbers)
        hopeful = np.where(mask, best, 0.0) if hopeful is None else hopeful
        proven = np.where(mask, worst, 0.0) if proven is None else proven
        self.weight[numbers] = weight = trust(self.outcomes(numbers), mask.sum(axis=1).astype(float), self.evidence.trust)
        leading = reweigh(prior, hopeful, weight) if self.arm.reweigh else prior
        improved = reweigh(prior, proven, weight) if self.arm.reweigh else prior
        way = proven.max(axis=1, initial=0.0) > LEAST_PROMISE
        guided = np.where(way[:, None], improved, self.guess(numbers, prior, weight, leading))
        shown = sharpen(guided, self.sharpness)
        self.leading[numbers], self.proven[numbers], self.shown[numbers] = leading, improved, shown
        self.worth[numbers], self.value[numbers] = proven, (shown * proven).sum(axis=1)

    def guess(self, numbers: NDArray[np.int64], prior: Array, weight: Array, leading: Array) -> Array:
        """(N, K) what the student is shown where no way to a reward is known: where nothing was tried, what the evaluator expects
        to be best, not what may turn out best, which is what it knows least about; elsewhere novelty guides the student too.
        """
        if not (self.arm.reweigh and self.arm.share):
            return leading
        untried = self.model.tries[numbers].sum(axis=1) == 0
        expected = reweigh(prior, np.where(prior > 0, self.evaluator.mean[numbers], 0.0), weight)
        return np.where(untried[:, None], expected, leading)

    def give_credit(self, proven: Array) -> None:
        """How far the teacher's own answers are to be believed: the power under which they foretell best what was shown to work.

        Judged on the situations met of late in which a way to a reward is known, without those that it was taught about: what a
        power gains over no prior at all counts less two standard errors. While there are too few of these, the teacher loses
        credit where it misleads.
        """
        known = self.asked & ~self.taught & (self.visits >= 1.0) & (proven.max(axis=1, initial=0.0) > LEAST_PROMISE)
        numbers = np.flatnonzero(known & self.choice())
        if len(numbers) < ENOUGH_JUDGED:
            self.credit *= 1.0 - CREDIT_RATE * self.misleads()
            return
        prior = self.prior[numbers]
        weight = trust(self.outcomes(numbers), (prior > 0).sum(axis=1).astype(float), self.evidence.trust)
        target = reweigh(sharpen(prior, 0.0), proven[numbers], weight)
        likelihood = np.array([(target * np.log(np.maximum(sharpen(prior, power), 1e-12))).sum(axis=1) for power in CREDITS])
        gain = likelihood - likelihood[0]
        surely = gain.mean(axis=1) - CLEARLY * gain.std(axis=1) / np.sqrt(len(numbers))
        self.credit += CREDIT_RATE * (CREDITS[int(np.argmax(surely))] - self.credit)

    def misleads(self) -> bool:
        """Whether the teacher's first choices clearly come to nothing more often than other options, where both were tried."""
        asked = np.flatnonzero(self.asked & ~self.taught & self.choice())
        tries = self.model.tries[asked]
        first = np.arange(self.max_options) == self.prior[asked].argmax(axis=1)[:, None]
        vain = self.model.in_vain()[asked] / np.maximum(tries, 1.0)
        chosen, others = vain[(tries > 0) & first], vain[(tries > 0) & ~first]
        if min(len(chosen), len(others)) < ENOUGH_JUDGED:
            return False
        error = np.sqrt(chosen.var() / len(chosen) + others.var() / len(others))
        return bool(chosen.mean() - others.mean() > CLEARLY * error)

    def expected(self, numbers: NDArray[np.int64]) -> Array:
        """(N, K) the teacher's own advice; where it was not asked, what it would say as far as the evaluator can tell."""
        prior = self.prior[numbers]
        if self.arm.prior != "llm" or not self.arm.share or self.answered.sum() < ENOUGH_ANSWERS:
            return prior
        echo = self.evaluator.echo[numbers]
        heard = ~self.answered[numbers] & (echo.sum(axis=1) > 0)
        return np.where(heard[:, None], np.maximum(echo, LEAST_ECHO) * (prior > 0), prior)

    def bounds(self, numbers: NDArray[np.int64]) -> tuple[Array, Array]:
        """(N, K) each: what an option never tried may be worth at best and at worst."""
        if not self.arm.share:
            best, mean, worst = (np.full((len(numbers), self.max_options), value) for value in (1.0, 0.0, 0.0))
        else:
            mean, spread = self.evaluator.mean[numbers], SPREAD * self.evaluator.doubt[numbers]
            best, worst = np.minimum(mean + spread, 1.0), np.maximum(mean - spread, 0.0)
        return (np.maximum(best * self.faith(numbers), mean) if self.arm.hope else worst), worst

    def faith(self, numbers: NDArray[np.int64]) -> Array:
        """(N, K) in [0, 1]: how much hope in an option never tried is left where the teacher, as far as it is believed,
        thinks little of it: what it thinks likely is tried first.
        """
        if not self.arm.reweigh or self.arm.prior == "uniform":
            return np.ones((len(numbers), self.max_options))
        prior = self.expected(numbers)
        likely: Array = prior / np.maximum(prior.max(axis=1, keepdims=True, initial=0.0), 1e-12)
        return likely ** (FAITH * self.credit * (1.0 - self.known(numbers)))

    def known(self, numbers: NDArray[np.int64]) -> Array:
        """(N, K) how surely the evaluator knows an option, in [0, 1]."""
        if not self.arm.share:
            return np.zeros((len(numbers), self.max_options))
        return np.clip(1.0 - self.evaluator.doubt[numbers] / DOUBTFUL, 0.0, 1.0)

    def lessons(self, limit: int, rng: np.random.Generator, met: Array | None = None) -> list[Lesson]:
        """What to teach: situations drawn from those where a way to a reward is known, where the teacher is wrong first.

        met: (S,) how often the teacher came by when it acted alone: what is wrong there is what it fails by. Without it
        the evidence says where the students were, and nothing is taught once the teacher says nearly the same.
        The teacher is asked about the lessons as it is now.
        """
        everything = np.arange(len(self.prior))
        outcomes = self.outcomes(everything)
        often = np.sqrt(outcomes * (self.visits > 0) if met is None else met)
        known = (self.value > LEAST_PROMISE) & self.choice() & (outcomes >= FEWEST_OUTCOMES) & (often > 0)
        if (known & (outcomes >= LEAST_OUTCOMES)).sum() >= limit:
            known &= outcomes >= LEAST_OUTCOMES
        weight = np.where(known, often * (REHEARSAL + np.minimum(self.disagreement(), 1.0)), 0.0)
        count = min(limit, int(known.sum()))
        if count == 0:
            return []
        chosen = rng.choice(everything, count, replace=False, p=weight / weight.sum())
        self.consult(chosen[~self.asked[chosen]])
        disagreement = self.disagreement()[chosen]
        if met is None and disagreement.mean() <= LEAST_DISAGREEMENT:
            return []
        self.taught[chosen] = True
        weights = often[chosen] * (REHEARSAL + np.minimum(disagreement, 1.0))
        return [self.lesson(int(number), float(weight)) for number, weight in zip(chosen, weights, strict=True)]

    def experiences(self) -> list[Experience]:
        """What could be told: the situations met of late in which a way to a reward is known and there is a choice."""
        numbers = np.flatnonzero((self.visits > FORGOTTEN) & (self.value > LEAST_PROMISE) & self.choice())
        return [self.experience(int(number)) for number in numbers]

    def experience(self, number: int) -> Experience:
        """What is known of one situation."""
        situation = self.situations[number]
        at = (number, slice(len(situation.options)))
        said = self.prior[at] if self.answered[number] else None
        model = self.model
        return Experience(
            situation, said, self.shown[at], model.tries[at], model.failures[at], self.worth[at], float(self.visits[number])
        )

    def outcomes(self, numbers: NDArray[np.int64]) -> Array:
        """(N,) outcomes counted in a situation, and those for which the evaluator's opinion counts."""
        mask = self.prior[numbers] > 0
        count: Array = self.model.tries[numbers].sum(axis=1) + KNOWN * np.where(mask, self.known(numbers), 0.0).sum(axis=1)
        return count

    def lesson(self, number: int, weight: float) -> Lesson:
        """What the teacher should say in a situation."""
        situation = self.situations[number]
        count = len(situation.options)
        return Lesson(situation, self.shown[number, :count].copy(), weight, self.worth[number, :count].copy())

    def disagreement(self) -> Array:
        """(S,) KL(shown || prior) in nats: how far the teacher's own advice is from what the student is shown."""
        ratio = np.log(np.maximum(self.shown, 1e-9) / np.maximum(self.prior, 1e-9))
        divergence: Array = (self.shown * ratio).sum(axis=1)
        return divergence
