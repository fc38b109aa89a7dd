"""What the LLM is taught: lessons for tuning its weights, and experiences for its prompt.

Both are only about situations from which a way to a reward is known. Optimistic values are never taught.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coteach.config import TeacherConfig
from coteach.method.abstract_model import AbstractModel
from coteach.method.advice import Advice
from coteach.method.advice_table import AdviceTable
from coteach.teacher.base import Lesson
from coteach.teacher.feedback import Experience

Array = NDArray[np.float64]


def make_lessons(advice: Advice, limit: int, rng: np.random.Generator, met: Array | None = None) -> list[Lesson]:
    """Return at most `limit` lessons, after querying the present teacher about their situations.

    met: (S,) how often the teacher chose in each situation when it acted alone: its errors there are the ones that cost success.
    None: the number of outcomes of recently visited situations is used instead, and there are no lessons once the teacher
    agrees with the advice.
    """
    table, settings = advice.table, advice.config.teacher
    outcomes = advice.outcomes(np.arange(len(table)))
    often = np.sqrt(outcomes * (table.visits > 0) if met is None else met)
    known = (table.value > advice.config.evidence.least_promise) & table.has_choice()
    chosen = choose_lessons(table, known, outcomes, often, limit, settings, rng)
    if not len(chosen):
        return []
    advice.query(chosen[~table.asked[chosen]])
    divergence = disagreement(table)[chosen]
    if met is None and divergence.mean() <= settings.lesson_disagreement:
        return []
    table.taught[chosen] = True
    weights = lesson_weight(often[chosen], divergence, settings)
    return [lesson(table, int(number), float(weight)) for number, weight in zip(chosen, weights, strict=True)]


def make_experiences(advice: Advice) -> list[Experience]:
    """Return experiences for the prompt: recently visited situations with a choice and a known way to a reward."""
    table, settings = advice.table, advice.config.evidence
    recent = (table.visits > settings.forgotten_visits) & (table.value > settings.least_promise) & table.has_choice()
    return [experience(table, advice.evidence.model, int(number)) for number in np.flatnonzero(recent)]


def choose_lessons(
    table: AdviceTable,
    known: NDArray[np.bool_],
    outcomes: Array,
    often: Array,
    limit: int,
    settings: TeacherConfig,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw at most `limit` situations to teach; frequent situations in which the LLM is wrong are more likely.

    known: (S,) whether a way to a reward is known and there is a choice; outcomes: (S,) number of outcomes; often: (S,) how often
    the situation is met. Situations with fewer than `lesson_outcomes` outcomes are used only if there are not enough others:
    tuning on a handful of lessons would overfit and damage what the LLM knew before.
    """
    known = known & (outcomes >= settings.lesson_fewest_outcomes) & (often > 0)
    well_known = known & (outcomes >= settings.lesson_outcomes)
    known = well_known if well_known.sum() >= limit else known
    weight = np.where(known, lesson_weight(often, disagreement(table), settings), 0.0)
    count = min(limit, int(known.sum()))
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    return rng.choice(np.arange(len(table)), count, replace=False, p=weight / weight.sum())


def lesson_weight(often: Array, divergence: Array, settings: TeacherConfig) -> Array:
    """Return the weights of lessons (N,): how often the situation is met, times the divergence of the LLM from the target.

    `lesson_rehearsal` is the weight where the LLM already agrees, so that tuning elsewhere does not make it forget.
    """
    return often * (settings.lesson_rehearsal + np.minimum(divergence, settings.lesson_most_disagreement))


def lesson(table: AdviceTable, number: int, weight: float) -> Lesson:
    """Return the lesson of a situation: the imitation policy as target, and pessimistic Q."""
    situation = table.situations[number]
    count = len(situation.options)
    return Lesson(situation, table.imitation[number, :count].copy(), weight, table.pessimistic_q[number, :count].copy())


def disagreement(table: AdviceTable) -> Array:
    """Return KL(imitation policy || prior) of every situation, (S,) in nats."""
    ratio = np.log(np.maximum(table.imitation, 1e-9) / np.maximum(table.prior, 1e-9))
    divergence: Array = (table.imitation * ratio).sum(axis=1)
    return divergence


def experience(table: AdviceTable, model: AbstractModel, number: int) -> Experience:
    """Return the experience of one situation, for the LLM's prompt."""
    situation = table.situations[number]
    at = (number, slice(len(situation.options)))
    said = table.prior[at] if table.answered[number] else None
    return Experience(
        situation,
        said,
        table.imitation[at],
        model.tries[at],
        model.failures[at],
        table.pessimistic_q[at],
        float(table.visits[number]),
    )
