"""The players and what they know, which are carried over from rung to rung.

There is one teacher, with the situations met and the improved advice, and one student, or one for each task if the tasks are
trained on together. `checkpoint` saves all of it; `examiner` evaluates either player alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coteach.arms import ARMS
from coteach.config import Config
from coteach.envs import tasks
from coteach.grounding.base import Grounding, Situations
from coteach.grounding.outcomes import Outcome
from coteach.method.advice import Advice
from coteach.method.lessons import make_experiences, make_lessons
from coteach.runs.machine import cores
from coteach.student.executor import LearnedControllers
from coteach.student.guidance import action_targets
from coteach.student.hints import HintedGrounding
from coteach.student.student import Student
from coteach.teacher import feedback
from coteach.teacher.answer_cache import AnswerCache
from coteach.teacher.base import Teacher
from coteach.teacher.make import make_teacher
from coteach.teacher.recorded import Record, Recorder
from coteach.teacher.scripted import OracleTeacher


class Players:
    """Everything that is carried over from rung to rung.

    teacher, advice: the LLM or its stand-in, and its advice improved by the evidence.
    students:        one, or one for each task if these are trained on together.
    situations:      all situations met so far.
    rng:             the source of all further seeds.
    """

    def __init__(self, config: Config, record: Path | None = None) -> None:
        """record: the file in which the LLM's answers are recorded; None: nowhere."""
        torch.set_num_threads(config.threads or cores())
        self.config, self.arm = config, ARMS[config.arm]
        self.family = tasks.common_family(config.tasks, self.arm.raw)
        self.rng = np.random.default_rng(config.seed)
        self.situations = Situations()
        self.record = Record(record) if record is not None and self.arm.prior == "llm" else None
        self.begin_teacher(config.seed)
        self.begin_students(config.seed)

    def begin_teacher(self, seed: int) -> None:
        """Make a new teacher, with its original weights, no evidence and no advice."""
        config, family = self.config, self.family
        scripted = self.arm.prior != "llm"
        spec, cache = (self.arm.prior, None) if scripted else (config.teacher.spec, AnswerCache.default())
        teacher = make_teacher(spec, config.teacher, cache, family.instruction)
        if isinstance(teacher, OracleTeacher):
            for task in config.tasks:
                tasks.check_expert(task, teacher.name)
        self.teacher: Teacher = Recorder(teacher, self.record) if self.record else teacher
        self.advice = Advice(config, self.arm, family, self.situations, self.teacher, seed)

    def begin_students(self, seed: int) -> None:
        """Make new students: one, or one for each task if these are trained on together."""
        others = len(self.config.tasks) - 1 if self.config.together else 0
        seeds = [seed, *(self.draw_seed() for _ in range(others))]
        self.students = [Student(self.config, self.family, self.situations, seed) for seed in seeds]

    def student_of(self, task: str) -> Student:
        """Return the student that is trained on `task`; the last student if none is."""
        names = self.config.tasks
        return self.students[names.index(task) if self.config.together and task in names else -1]

    def next_rung(self) -> None:
        """Replace the player that the configuration does not carry over to the next rung."""
        if self.config.fresh == "teacher":
            spent = self.teacher.usage
            self.begin_teacher(self.draw_seed())
            self.teacher.usage = spent
        elif self.config.fresh == "student":
            self.begin_students(self.draw_seed())

    def draw_seed(self) -> int:
        """Draw a seed from the run's random number generator."""
        return int(self.rng.integers(0, 2**31 - 1))

    @property
    def repeatable(self) -> bool:
        """Whether replaying the same episodes restores a grounding; not if it draws random numbers or learns."""
        return self.students[0].executor is None and not self.config.guidance.hint

    def ground(
        self, task: str, num_envs: int, num_actions: int, learn: bool = False, situations: Situations | None = None
    ) -> Grounding:
        """Make a grounding for `num_envs` environments of `task`.

        learn: for training: the student learns to carry out options without a controller, and may get hints.
        situations: where the situations are numbered; None: together with all others.
        """
        grounding = self.family.ground(num_envs, self.situations if situations is None else situations, num_actions)
        executor = self.student_of(task).executor if situations is None else None
        if executor is not None:
            grounding = LearnedControllers(grounding, executor, learn)
        if not self.config.guidance.hint:
            return grounding
        if not learn:
            return HintedGrounding(grounding)
        return HintedGrounding(grounding, self._hint, self.config.guidance.hint, np.random.default_rng(self.draw_seed()))

    def _hint(self, situation: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the imitation policies (N, K) of situations (N,)."""
        return self.advice.follow(situation, np.zeros(len(situation), dtype=np.bool_))

    def add_outcomes(self, outcomes: Iterable[Outcome]) -> None:
        """Add outcomes to the evidence; in an arm with shuffled evidence, each to a situation drawn at random."""
        for outcome in outcomes:
            self.advice.evidence.add_outcome(self._shuffled(outcome) if self.arm.shuffle else outcome)

    def _shuffled(self, outcome: Outcome) -> Outcome:
        """Return the outcome with its situation replaced by one drawn at random."""
        wrong = int(self.rng.integers(len(self.situations)))
        return replace(outcome, situation=wrong, slot=outcome.slot % len(self.situations[wrong].options))

    def learn_options(self, student: Student) -> dict[str, float]:
        """Train a student's executor and return its metrics; the counts of the options that it carries out fade."""
        if student.executor is None:
            return {}
        self.advice.evidence.model.fade(student.executor.met, self.config.evidence.fading)
        return student.executor.learn()

    def targets(
        self, student: Student, situation: NDArray[np.int64], controls: NDArray[np.int8]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the targets q (B, A) and a mask (B,) of the rows that imitate: where the student does not surpass the advice."""
        table = self.advice.table
        q, there = action_targets(table.imitation[situation], controls, len(self.family.action_names))
        return q, there & ~student.surpasses(situation, table.value[situation])

    def give_feedback(self) -> None:
        """Put what the evidence shows into the LLM's prompt; if the prompt changes, allow new queries everywhere."""
        settings, teacher = self.config.teacher, self.teacher
        if settings.feedback == "nothing":
            return
        composed = feedback.compose(settings, make_experiences(self.advice), teacher.feedback)
        if teacher.give_feedback(composed):
            self.advice.ask_again()

    def tune(self, met: NDArray[np.float64] | None = None) -> dict[str, Any]:
        """Tune the LLM towards the imitation policy where a way to a reward is known; return the metrics.

        Afterwards new queries about every situation are allowed. A teacher whose weights cannot be changed is left as it is,
        and is corrected by the evidence alone.

        met: (S,) how often it chose in each situation when it acted alone; None if that is not known.
        """
        if not self.teacher.tunable:
            return {}
        settings = self.config.teacher
        limit = (settings.lessons if met is None else settings.schooling_lessons) * settings.tune_situations
        lessons = make_lessons(self.advice, limit, self.rng, met)
        if not lessons:
            return {}
        report = self.teacher.tune(lessons, seed=self.draw_seed())
        self.advice.ask_again()
        return {
            "tune_loss_before": report.loss_before,
            "tune_loss_after": report.loss_after,
            "tune_drift": report.drift,
            "tune_lessons": report.lessons,
        }
