"""The teacher's advice, improved by the evidence: the table of policies, what fills it, and when the LLM is asked.

`Advice` joins the teacher, who is the prior, and the evidence; `table` has what they come to for every situation. What an arm
switches off is decided once, when it is built.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.arms import Arm
from coteach.config import Config
from coteach.errors import note
from coteach.grounding.base import Family, Situations
from coteach.method import improvement, prior_trust
from coteach.method.advice_table import AdviceTable
from coteach.method.evidence import Evidence
from coteach.method.queries import QueryBudget, choose_queries
from coteach.runs import tensors
from coteach.student.guidance import sharpen
from coteach.teacher.base import Teacher

Array = NDArray[np.float64]

FILE = "advice.safetensors"


class Advice:
    """Prior and improved advice of one run.

    prior_trust: the power to which the prior is raised, in [0, 1]: how far the LLM's own answers have proved right.
    """

    def __init__(self, config: Config, arm: Arm, family: Family, situations: Situations, teacher: Teacher, seed: int) -> None:
        self.config, self.situations, self.teacher = config, situations, teacher
        self.table = AdviceTable(situations, family.max_options)
        self.evidence = Evidence(config, family, situations, arm.generalise, seed)
        self.budget = QueryBudget()
        self.prior_trust = 1.0
        # What the arm switches off.
        self._reweigh = improvement.reweigh if arm.reweigh else improvement.keep_prior
        self._tempers_prior = arm.reweigh
        self._least_weight = config.teacher.least_weight if arm.reweigh else -np.inf
        self._judges_prior = arm.reweigh and arm.prior != "uniform"
        self._prior_optimism = config.evidence.prior_optimism if self._judges_prior else 0.0
        self._distils_prior = arm.prior == "llm"
        self._guesses = arm.reweigh and arm.generalise
        self._is_optimistic = arm.optimism

    # Collect: what the teacher follows where it controls an episode.

    def follow(self, numbers: NDArray[np.int64], optimistic: NDArray[np.bool_]) -> Array:
        """(N, K) policies that the teacher follows in situations (N,); what it was not asked about is asked now.

        optimistic: (N,) True for the exploration policy, False for the one that the student is shown.
        """
        met = np.unique(numbers)
        new = self.initialise(met)
        asked = choose_queries(self.table, met, self.budget.available, self._least_weight)
        if self.query(asked):
            known = np.setdiff1d(asked, new)
            self.update_policies(np.intersect1d(asked, new))
            self.update_policies(known, self.table.optimistic_q[known], self.table.pessimistic_q[known])
        return self.table.follow(numbers, optimistic)

    def initialise(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the situations that were met for the first time policies by the word values; return which these are."""
        self.grow()
        new = numbers[~self.table.initialised[numbers]]
        if len(new):
            self.table.initialised[new] = True
            self.evidence.words.refresh(new)
            self.update_policies(new)
        return new

    def grow(self) -> None:
        """Make room for the situations met since the last call."""
        if self.table.grow():
            self.evidence.grow(len(self.table))

    # Advise: when the LLM is asked.

    def begin_round(self, queries: int) -> None:
        """Allow at most so many queries in this round; fewer, the less the LLM's answers have proved right."""
        self.budget.begin_round(queries, self.prior_trust, self.config.teacher.least_query_share)

    def count_visits(self, situations: Iterable[NDArray[np.int64]]) -> None:
        """Count where a round's rollouts were, so that queries go where the agents are."""
        self.grow()
        self.table.count_visits(situations, self.config.evidence.visit_decay)

    def query_most_visited(self) -> int:
        """Ask the teacher about the situations that are visited most; return how many it answered."""
        visited = np.flatnonzero(self.table.visits > self.config.teacher.query_visits)
        return self.query(choose_queries(self.table, visited, self.budget.available, self._least_weight))

    def query(self, chosen: NDArray[np.int64]) -> int:
        """Ask the teacher about these situations; return how many it answered (the others are asked about again)."""
        answers = self.teacher.advise([self.situations[int(i)] for i in chosen]) if len(chosen) else []
        self.budget.spend(len(chosen))
        answered = [(int(i), answer) for i, answer in zip(chosen, answers, strict=True) if answer is not None]
        for number, answer in answered:
            self.store_answer(number, answer)
        return len(answered)

    def store_answer(self, number: int, answer: Array) -> None:
        """Keep the teacher's answer about a situation as its prior, unless it is no distribution."""
        table = self.table
        table.asked[number] = table.answered[number] = True
        if np.isfinite(answer).all() and answer.min() >= 0.0 and abs(answer.sum() - 1.0) < 1e-6:
            table.prior[number, : len(answer)] = answer
        else:
            note(f"teacher {self.teacher.name!r}: its advice is no distribution and is left out: {np.round(answer, 3)}")

    def ask_again(self) -> None:
        """Let every situation be asked about again: the teacher has new weights or a new prompt. Old answers serve until then."""
        self.table.asked[:] = False

    # Evidence and reweighing.

    def improve(self) -> None:
        """Learn from the evidence so far, and reweigh the prior by it in every situation met of late."""
        self.grow()
        table, evidence, settings = self.table, self.evidence, self.config.evidence
        evidence.learn(table.visits, table.prior, table.answered)
        optimistic, pessimistic = self.bounds(np.arange(len(table)))
        mask = table.prior > 0
        table.optimistic_q = evidence.optimistic.solve(mask, optimistic)
        pessimistic_q = evidence.pessimistic.solve(mask, pessimistic)
        if self._judges_prior:
            outcomes = self.outcomes(np.arange(len(table)))
            self.prior_trust = prior_trust.judge(self.prior_trust, table, evidence.model, pessimistic_q, outcomes, settings)
        recent = np.flatnonzero((table.visits > settings.forgotten_visits) | ~table.initialised)
        self.update_policies(recent, table.optimistic_q[recent], pessimistic_q[recent])
        table.initialised[recent] = True

    def update_policies(
        self, numbers: NDArray[np.int64], optimistic_q: Array | None = None, pessimistic_q: Array | None = None
    ) -> None:
        """Improve the advice for these situations by Q, (N, K) each; without it, by what the word values expect."""
        table, prior = self.table, self.expected_prior(numbers)
        mask = prior > 0
        prior = sharpen(prior, self.prior_trust) if self._tempers_prior else prior
        optimistic, pessimistic = self.bounds(numbers)
        optimistic_q = np.where(mask, optimistic, 0.0) if optimistic_q is None else optimistic_q
        pessimistic_q = np.where(mask, pessimistic, 0.0) if pessimistic_q is None else pessimistic_q
        weight = improvement.prior_weight(self.outcomes(numbers), mask.sum(axis=1).astype(float), self.config.evidence.trust)
        improved = improvement.improve(
            prior,
            optimistic_q,
            pessimistic_q,
            weight,
            lambda exploration: self._guess(numbers, prior, weight, exploration),
            self._reweigh,
            self.config.evidence.least_promise,
            self.config.guidance.sharpness,
        )
        table.prior_weight[numbers], table.pessimistic_q[numbers] = weight, pessimistic_q
        table.exploration[numbers], table.pessimistic[numbers] = improved.exploration, improved.pessimistic
        table.imitation[numbers], table.value[numbers] = improved.imitation, improved.value

    def _guess(self, numbers: NDArray[np.int64], prior: Array, weight: Array, exploration: Array) -> Array:
        """(N, K) what the student is shown where no way to a reward is known.

        Where nothing was tried it is what the word values expect to be best, not what may turn out best, which is what they know
        least about; elsewhere novelty guides the student too.
        """
        if not self._guesses:
            return exploration
        untried = self.evidence.model.tries[numbers].sum(axis=1) == 0
        expected = self._reweigh(prior, np.where(prior > 0, self.evidence.words.opinions(numbers).mean, 0.0), weight)
        return np.where(untried[:, None], expected, exploration)

    def expected_prior(self, numbers: NDArray[np.int64]) -> Array:
        """(N, K) the teacher's own advice; where it was not asked, what the distilled prior says once it has seen enough."""
        table, settings = self.table, self.config.words
        prior = table.prior[numbers]
        if not self._distils_prior or table.answered.sum() < settings.distilled_after:
            return prior
        distilled = self.evidence.words.distilled[numbers]
        stands_in = ~table.answered[numbers] & (distilled.sum(axis=1) > 0)
        return np.where(stands_in[:, None], np.maximum(distilled, settings.distilled_floor) * (prior > 0), prior)

    def bounds(self, numbers: NDArray[np.int64]) -> tuple[Array, Array]:
        """(N, K) each: what an option never tried may be worth under optimism, and at worst."""
        opinions = self.evidence.words.opinions(numbers)
        if not self._is_optimistic:
            return opinions.worst, opinions.worst
        power = self._prior_optimism * self.prior_trust * (1.0 - opinions.known)
        return improvement.optimistic_bound(opinions.best, opinions.mean, self.expected_prior(numbers), power), opinions.worst

    def outcomes(self, numbers: NDArray[np.int64]) -> Array:
        """(N,) outcomes counted in a situation, and those for which sure word values count."""
        return self.evidence.outcomes(numbers, self.table.prior[numbers] > 0)

    # Checkpoints.

    def save(self, folder: Path) -> dict[str, Any]:
        """Write arrays and networks into `folder`; return the rest, as plain JSON."""
        self.grow()  # evaluations meet situations too
        tensors.write(folder / FILE, self.table.state())
        return {"evidence": self.evidence.save(folder), "prior_trust": self.prior_trust}

    def load(self, folder: Path, state: dict[str, Any]) -> None:
        """Take up what `save` wrote and returned, the situations being known already."""
        self.evidence.load(folder, state["evidence"])
        self.grow()
        self.table.restore({name: value.numpy().copy() for name, value in tensors.read(folder / FILE).items()})
        self.prior_trust = state["prior_trust"]
