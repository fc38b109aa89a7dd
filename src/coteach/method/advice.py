"""The teacher's advice, improved by the evidence.

`Advice` combines the prior (the teacher's answers) with the evidence and stores the resulting policies of every situation in its
`table`. It also decides when to query the teacher. What an arm switches off is decided once, in the constructor.
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
    """The prior and the improved advice of one run.

    table:       the policies of every situation.
    evidence:    outcomes, plans and word values.
    budget:      how many situations the teacher may still be asked about in this round.
    prior_trust: the power to which the prior is raised, in [0, 1]; high where the LLM's own answers predict what works.
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
        """Return the policies (N, K) that the teacher follows in situations (N,), after querying it where that is still needed.

        optimistic: (N,) bool, True for the exploration policy, False for the imitation policy.
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
        """Set the policies of situations met for the first time, from the word values; return these situations."""
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
        """Allow at most `queries` queries in this round, and fewer with less trust in the prior."""
        self.budget.begin_round(queries, self.prior_trust, self.config.teacher.least_query_share)

    def count_visits(self, situations: Iterable[NDArray[np.int64]]) -> None:
        """Count the situations of a round's rollouts, so that queries go to those that are visited most."""
        self.grow()
        self.table.count_visits(situations, self.config.evidence.visit_decay)

    def query_most_visited(self) -> int:
        """Query the teacher about the most visited situations; return how many it answered."""
        visited = np.flatnonzero(self.table.visits > self.config.teacher.query_visits)
        return self.query(choose_queries(self.table, visited, self.budget.available, self._least_weight))

    def query(self, chosen: NDArray[np.int64]) -> int:
        """Query the teacher about these situations; return how many it answered. The others may be queried again."""
        answers = self.teacher.advise([self.situations[int(i)] for i in chosen]) if len(chosen) else []
        self.budget.spend(len(chosen))
        answered = [(int(i), answer) for i, answer in zip(chosen, answers, strict=True) if answer is not None]
        for number, answer in answered:
            self.store_answer(number, answer)
        return len(answered)

    def store_answer(self, number: int, answer: Array) -> None:
        """Store the teacher's answer as the prior of a situation, unless it is no probability distribution."""
        table = self.table
        table.asked[number] = table.answered[number] = True
        if np.isfinite(answer).all() and answer.min() >= 0.0 and abs(answer.sum() - 1.0) < 1e-6:
            table.prior[number, : len(answer)] = answer
        else:
            note(f"teacher {self.teacher.name!r}: its advice is no distribution and is left out: {np.round(answer, 3)}")

    def ask_again(self) -> None:
        """Allow new queries about every situation, because the teacher changed; old answers are used until then."""
        self.table.asked[:] = False

    # Evidence and reweighing.

    def improve(self) -> None:
        """Learn from the evidence so far, and improve the policies of all situations visited recently."""
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
        """Improve the policies of these situations by Q, (N, K) each; None: by the bounds of the word values."""
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
        """Return what the student imitates where no way to a reward is known, (N, K).

        Where no option was tried, it is the prior reweighed by the expected word values: the exploration policy would prefer the
        options about which the word values know least. Elsewhere it is the exploration policy.
        """
        if not self._guesses:
            return exploration
        untried = self.evidence.model.tries[numbers].sum(axis=1) == 0
        expected = self._reweigh(prior, np.where(prior > 0, self.evidence.words.opinions(numbers).mean, 0.0), weight)
        return np.where(untried[:, None], expected, exploration)

    def expected_prior(self, numbers: NDArray[np.int64]) -> Array:
        """Return the teacher's answers (N, K); where there is none, the distilled prior once it has seen enough answers."""
        table, settings = self.table, self.config.words
        prior = table.prior[numbers]
        if not self._distils_prior or table.answered.sum() < settings.distilled_after:
            return prior
        distilled = self.evidence.words.distilled[numbers]
        stands_in = ~table.answered[numbers] & (distilled.sum(axis=1) > 0)
        return np.where(stands_in[:, None], np.maximum(distilled, settings.distilled_floor) * (prior > 0), prior)

    def bounds(self, numbers: NDArray[np.int64]) -> tuple[Array, Array]:
        """Return the optimistic and the pessimistic value of an untried option, (N, K) each."""
        opinions = self.evidence.words.opinions(numbers)
        if not self._is_optimistic:
            return opinions.worst, opinions.worst
        power = self._prior_optimism * self.prior_trust * (1.0 - opinions.known)
        return improvement.optimistic_bound(opinions.best, opinions.mean, self.expected_prior(numbers), power), opinions.worst

    def outcomes(self, numbers: NDArray[np.int64]) -> Array:
        """Return the number of outcomes in situations (N,), including those for which certain word values count."""
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
