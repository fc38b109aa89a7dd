"""The players and what they know, carried from rung to rung and into checkpoints.

One teacher, with the situations met, the abstract model counted from them and the advice looked up from both; one student, or
one for each task where these are trained on together. A checkpoint holds all of it, as safetensors and JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from coteach.arms import ARMS
from coteach.config import Config
from coteach.envs import tasks
from coteach.evaluation.episodes import (
    SEED,
    Evaluation,
    StudentAlone,
    TeacherAlone,
    evaluate_student,
    evaluate_teacher,
    examine,
    record_student,
    record_teacher,
)
from coteach.grounding.base import Grounding, Situation, Situations
from coteach.grounding.outcomes import Outcome
from coteach.method.abstract_model import AbstractModel
from coteach.method.advice_table import Advice
from coteach.method.schooling import School
from coteach.method.word_values import Evaluator
from coteach.runs import tensors
from coteach.runs.machine import cores
from coteach.student.executor import LearnedControllers
from coteach.student.guidance import action_targets
from coteach.student.hints import Hinted
from coteach.student.student import StudentSide
from coteach.teacher import feedback as telling
from coteach.teacher.answer_cache import AdviceMemory
from coteach.teacher.base import Teacher
from coteach.teacher.costs import Books
from coteach.teacher.make import make_teacher
from coteach.teacher.recorded import Record, Recorder
from coteach.teacher.scripted import OracleTeacher

Who = Literal["student", "teacher"]

LESSONS, SCHOOL_LESSONS = 4, 40
"""Situations taught in one tuning, for each that an optimiser step sees: between rounds, and when a rung is over."""

EXAM_LEVELS, EXAM_SEED = 100, 2_000_000
"""How many levels are kept for exams, and which: the same for every run of a task, so that exams can be compared."""

PATIENCE = 3
"""Tunings in a row that make the LLM's advice no better, after which it is enough: the first ones make it worse."""

PRACTICE_LEVELS = 60
"""Levels on which it practises."""

PRACTISED = 1500
"""Situations, counted anew in each practice, after which it is enough: where they hardly recur, these are minutes of asking."""

SCHOOLED = 0.95
"""Success of the LLM alone at which it has learned enough."""

FADING = 0.9
"""Share of the outcomes of options without a controller that is kept from round to round."""


class Players:
    """Everything that outlives a rung."""

    def __init__(self, config: Config, record: Path | None = None) -> None:
        """record: the file in which what an LLM says is written down."""
        torch.set_num_threads(config.threads or cores())
        self.config, self.arm = config, ARMS[config.arm]
        self.family = tasks.common_family(config.tasks)
        self.rng = np.random.default_rng(config.seed)
        self.situations = Situations()
        self._exam_situations = Situations()
        """Those met in exams: they are not experience."""
        self.schooling: School | None = None
        """How far the schooling under way has come."""
        self.spoken = Record(record) if record is not None and self.arm.prior == "llm" else None
        self.begin_teacher(config.seed)
        self.begin_students(config.seed)

    def begin_teacher(self, seed: int) -> None:
        """A teacher that has learned nothing: its weights as they came, no evidence, no advice."""
        config, family = self.config, self.family
        scripted = self.arm.prior != "llm"
        spec, memory = (self.arm.prior, None) if scripted else (config.teacher.spec, AdviceMemory.default())
        teacher = make_teacher(spec, config.teacher, memory, family.instruction)
        if isinstance(teacher, OracleTeacher):
            for task in config.tasks:
                tasks.check_expert(task, teacher.name)
        self.teacher: Teacher = Recorder(teacher, self.spoken) if self.spoken else teacher
        self.model = AbstractModel(family.max_options, config.student.gamma, family.typical_duration)
        evaluator = Evaluator(self.situations, family.max_options, seed)
        self.advice = Advice(
            self.situations, self.teacher, self.arm, config.evidence, config.guidance.sharpness, self.model, evaluator
        )

    def begin_students(self, seed: int) -> None:
        """Students that have learned nothing: one, or one for each task where these are trained on together."""
        others = len(self.config.tasks) - 1 if self.config.together else 0
        seeds = [seed, *(self.draw_seed() for _ in range(others))]
        self.students = [StudentSide(self.config, self.family, self.situations, seed) for seed in seeds]

    def student_of(self, task: str) -> StudentSide:
        """The student that is trained on `task`; of a task that none is trained on, the last one."""
        names = self.config.tasks
        return self.students[names.index(task) if self.config.together and task in names else -1]

    def next_rung(self) -> None:
        """What the configuration does not carry over to the next rung begins anew."""
        if self.config.fresh == "teacher":
            spent = self.teacher.books
            self.begin_teacher(self.draw_seed())
            self.teacher.books = spent
        elif self.config.fresh == "student":
            self.begin_students(self.draw_seed())

    @property
    def repeatable(self) -> bool:
        """Whether a grounding that is shown the same episodes again ends up as it was: not where it draws or learns."""
        return self.students[0].executor is None and not self.config.guidance.hint

    def ground(self, task: str, num_envs: int, num_actions: int, learn: bool = False) -> Grounding:
        """A grounding for `num_envs` environments of `task` that numbers situations together with all others.

        learn: the student learns there: to carry out options that have no controller, and with hints.
        """
        grounding = self.family.ground(num_envs, self.situations, num_actions)
        executor = self.student_of(task).executor
        if executor is not None:
            grounding = LearnedControllers(grounding, executor, learn)
        return self._hinted(grounding, learn)

    def _hinted(self, grounding: Grounding, learn: bool = False) -> Grounding:
        """A grounding with room for hints, where the configuration has any (there are none but where the student learns)."""
        if not self.config.guidance.hint:
            return grounding
        if not learn:
            return Hinted(grounding)
        return Hinted(grounding, self._hint, self.config.guidance.hint, np.random.default_rng(self.draw_seed()))

    def _hint(self, situation: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N, K) what the student would be shown in these situations."""
        return self.advice.lead(situation, np.zeros(len(situation), dtype=np.bool_))

    def draw_seed(self) -> int:
        """A seed for something new, from the one generator."""
        return int(self.rng.integers(0, 2**31 - 1))

    def count(self, outcomes: Iterable[Outcome]) -> None:
        """Add outcomes to the evidence (shuffled feedback: each to a situation drawn at random)."""
        for outcome in outcomes:
            if self.arm.shuffle:
                wrong = int(self.rng.integers(len(self.situations)))
                outcome = replace(outcome, situation=wrong, slot=outcome.slot % len(self.situations[wrong].options))
            self.advice.witness(outcome)

    def learn_options(self, student: StudentSide) -> dict[str, float]:
        """A student learns to carry out the options without a controller; what is known of these fades, as it changes."""
        if student.executor is None:
            return {}
        self.model.fade(student.executor.met, FADING)
        return student.executor.learn()

    def targets(
        self, student: StudentSide, situation: NDArray[np.int64], controls: NDArray[np.int8]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """q (B, A), and which rows should heed it: those with a q where the student's own value is below the advice's."""
        q, there = action_targets(self.advice.shown[situation], controls, len(self.family.action_names))
        return q, there & ~student.surpasses(situation, self.advice.value[situation])

    def tell(self) -> None:
        """Say in the LLM's prompt what the evidence shows; where that changes it, its answers are asked for again."""
        what, teacher = self.config.teacher.feedback, self.teacher
        if what != "nothing" and teacher.tell(telling.compose(what, self.advice.experiences(), teacher.told)):
            self.advice.forget()

    def tune(self, met: NDArray[np.float64] | None = None) -> dict[str, Any]:
        """Move the LLM towards the advice that proved right; its other answers are asked for again where they still matter.

        A teacher whose weights are out of reach is left as it is: it is corrected by the evidence alone.

        met: (S,) how often it came by each situation when it acted alone, if that is known.
        """
        if not self.teacher.tunable:
            return {}
        limit = (LESSONS if met is None else SCHOOL_LESSONS) * self.config.teacher.tune_situations
        lessons = self.advice.lessons(limit, self.rng, met)
        if not lessons:
            return {}
        report = self.teacher.tune(lessons, seed=self.draw_seed())
        self.advice.forget()
        return {
            "tune_loss_before": report.loss_before,
            "tune_loss_after": report.loss_after,
            "tune_drift": report.drift,
            "tune_lessons": report.lessons,
        }

    def school(self, climbed: Sequence[str]) -> bool:
        """When rungs are over: one practice of the LLM or one tuning, by turns, until it is good enough; whether there is more.

        It plays the tasks alone, and is tuned where that leads it. Advice is followed blindly, so one wrong situation that
        everyone passes through decides; which one that is shows only where the LLM itself goes, now and before (DAgger: Ross et
        al. 2011, arXiv 1011.0686). Its best weights are kept: those with which it does best on all of the tasks `climbed`.
        """
        limit = self.config.teacher.schooling
        if not (limit and self.arm.tune and self.teacher.tunable):
            return False
        school = self.schooling = self.schooling or School(self.teacher.snapshot())
        if not school.practised:
            school.practice(*self.practise(climbed), self.teacher.snapshot())
            return True
        enough = school.best >= SCHOOLED or school.tunings >= limit or school.in_vain == PATIENCE or school.asked >= PRACTISED
        if not enough and self.tune(school.met):
            school.tuned()
            return True
        if school.success < school.best:
            self.teacher.restore(school.kept)
            self.advice.forget()
        self.schooling = None
        return False

    def practise(self, climbed: Sequence[str]) -> tuple[float, NDArray[np.float64]]:
        """The LLM's advice alone on levels kept for nothing else: mean success, and how often it chose in each situation (S,)."""
        grades, chosen = [], Counter[int]()
        for task in climbed:
            levels = min(PRACTICE_LEVELS, self.config.episodes)
            environments = tasks.make(task, self.config.engine, levels, self.draw_seed())
            grounding = self.ground(task, levels, environments.num_actions)
            patience = self.config.collect.option_patience
            alone = TeacherAlone(self.teacher.advise, grounding, environments, patience, self.draw_seed())
            grades.append(examine(alone, environments, grounding))
            chosen += alone.chosen
        self.advice.acquaint(np.array(sorted(chosen), dtype=np.int64))
        met = np.zeros(len(self.situations))
        met[list(chosen)] = list(chosen.values())
        return sum(grades) / len(grades), met

    def evaluate(self, who: Who, task: str, episodes: int | None = None, seed: int = SEED) -> Evaluation:
        """One player alone on the reference environments: the greedy student, or the teacher's own advice, no evidence in it."""
        episodes = episodes or self.config.episodes
        ground = partial(self.ground, task)
        if who == "student":
            return evaluate_student(self.student_of(task).learner, task, ground, episodes, seed)
        return evaluate_teacher(self.teacher.advise, task, ground, self.config.collect.option_patience, episodes, seed)

    def examine(self, task: str) -> float:
        """Success of the student alone, greedy, on the levels kept for exams, stepped by the engine that trains."""
        environments = tasks.make(task, self.config.engine, EXAM_LEVELS, EXAM_SEED)
        grounding = self._hinted(self.family.ground(EXAM_LEVELS, self._exam_situations, environments.num_actions))
        return examine(StudentAlone(self.student_of(task).learner), environments, grounding)

    def record(self, who: Who, task: str, seed: int = SEED) -> list[NDArray[np.uint8]]:
        """The frames of one episode of `evaluate`."""
        ground = partial(self.ground, task)
        if who == "student":
            return record_student(self.student_of(task).learner, task, ground, seed)
        return record_teacher(self.teacher.advise, task, ground, self.config.collect.option_patience, seed)

    def alone(self, who: Who, task: str) -> dict[str, float]:
        """Success and return of `evaluate`; empty for the teacher of an arm without one."""
        if who == "teacher" and not self.arm.taught:
            return {}
        result = self.evaluate(who, task)
        return {"success": result.success, "return": result.mean_return}

    def save(self, folder: Path) -> None:
        """Write everything into `folder`."""
        tensors.write(folder / "advice.safetensors", self.advice.state())
        self.advice.evaluator.save(folder / "evaluator")
        for student, home in self._homes(folder):
            student.save(home)
        self.teacher.save(folder / "teacher")
        if self.schooling is not None:
            self.schooling.save(folder)
        knowledge = {
            "situations": [[s.text, s.options, s.expert] for s in self.situations],
            "evidence": self.model.state(),
            "credit": self.advice.credit,
            "books": self.teacher.books.totals(),
            "said": self.spoken.said if self.spoken else 0,
            "own": [own.tolist() for student in self.students for own in (student.own_value, student.own_rows)],
            "generator": self.rng.bit_generator.state,
        }
        (folder / "knowledge.json").write_text(json.dumps(knowledge), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote: these players then go on as those would have."""
        for student, home in self._homes(folder):
            student.load(home)
        if (folder / "teacher").is_dir():
            self.teacher.load(folder / "teacher")
        self.schooling = School.load(folder)
        knowledge = json.loads((folder / "knowledge.json").read_text(encoding="utf-8"))
        for text, options, expert in knowledge["situations"]:
            self.situations.number(Situation(text, tuple(options), expert))
        self.model.restore(knowledge["evidence"])
        self.advice.restore({name: value.numpy() for name, value in tensors.read(folder / "advice.safetensors").items()})
        own = map(np.array, knowledge["own"])
        for student in self.students:
            student.own_value, student.own_rows = next(own), next(own)
        self.advice.credit = knowledge["credit"]
        self.teacher.books = Books(**knowledge["books"])
        if isinstance(self.teacher, Recorder):
            self.teacher.go_on(knowledge["said"])
        self.rng.bit_generator.state = knowledge["generator"]
        self.advice.evaluator.load(folder / "evaluator")

    def _homes(self, folder: Path) -> list[tuple[StudentSide, Path]]:
        """Where a checkpoint in `folder` keeps each student: student, student-2, ..."""
        names = ["student", *(f"student-{number}" for number in range(2, len(self.students) + 1))]
        return [(student, folder / name) for student, name in zip(self.students, names, strict=True)]
