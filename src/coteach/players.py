"""The two players and what they know, carried from rung to rung and into checkpoints.

Teacher, student, the situations met, the abstract model counted from them, the advice looked up from both, and the
rows kept for distillation. A checkpoint holds all of it, as safetensors and JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from coteach import tasks, tensors
from coteach.advice import Advice
from coteach.config import Config
from coteach.evaluate import (
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
from coteach.evaluator import Evaluator
from coteach.evidence import AbstractModel, Outcome
from coteach.experiments.arms import ARMS
from coteach.grounding.base import Grounding, Situation, Situations
from coteach.guidance import action_targets
from coteach.machine import cores
from coteach.student.executor import Executor, LearnedControllers
from coteach.student.hints import Hinted, hint_size
from coteach.student.ppo import Learner
from coteach.student.replay import Replay
from coteach.teacher import make_teacher, telling
from coteach.teacher.base import Books, Teacher
from coteach.teacher.memory import AdviceMemory
from coteach.teacher.recorded import Record, Recorder
from coteach.teacher.scripted import OracleTeacher

Who = Literal["student", "teacher"]

MARGIN = 0.05
"""By so much of return must the student's own value in a situation beat the advice's before it stops heeding it there."""

LESSONS = 4
"""Situations taught in one tuning, for each that an optimiser step sees."""

EXAM_LEVELS, EXAM_SEED = 100, 2_000_000
"""How many levels are kept for exams, and which: the same for every run of a task, so that exams can be compared."""

SCHOOL_LESSONS = 8
"""... when a rung is over."""

SCHOOLING = 10
"""Tunings when a rung is over, at most: the first ones make the LLM's advice worse before it gets better."""

FADING = 0.9
"""Share of the outcomes of options without a controller that is kept from round to round."""

SCHOOLED = 0.95
"""Success of the LLM alone at which it has learned enough."""


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
        self.spoken = Record(record) if record is not None and self.arm.prior == "llm" else None
        self.begin_teacher(config.seed)
        self.begin_student(config.seed)

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

    def begin_student(self, seed: int) -> None:
        """A student that has learned nothing."""
        family, layout, habits = self.family, self.family.layout, self.family.habits
        if self.config.guidance.hint:
            more = hint_size(len(family.action_names))
            layout = layout.widened(more)
            habits = None if habits is None else np.pad(habits, ((0, more), (0, 0)))
        self.student = Learner(self.config.student, layout, len(family.action_names), seed, habits)
        self.executor: Executor | None = None
        if family.unscripted or self.config.student.learned_options:
            self.executor = Executor(
                family.layout,
                len(family.action_names),
                self.config.student.hidden,
                seed,
                self.situations,
                self.config.student.learned_options,
            )
        self.replay = Replay(self.config.guidance.replay_rows, layout, family.max_options)
        self._own_value, self._own_rows = np.zeros(0), np.zeros(0)

    def next_rung(self) -> None:
        """What the configuration does not carry over to the next rung begins anew."""
        if self.config.fresh == "teacher":
            spent = self.teacher.books
            self.begin_teacher(self.draw_seed())
            self.teacher.books = spent
        elif self.config.fresh == "student":
            self.begin_student(self.draw_seed())

    @property
    def repeatable(self) -> bool:
        """Whether a grounding that is shown the same episodes again ends up as it was: not where it draws or learns."""
        return self.executor is None and not self.config.guidance.hint

    def ground(self, num_envs: int, num_actions: int, learn: bool = False) -> Grounding:
        """A grounding for `num_envs` environments that numbers situations together with all others.

        learn: the student learns there: to carry out options that have no controller, and with hints.
        """
        return self._extended(self.family.ground(num_envs, self.situations, num_actions), learn)

    def _extended(self, grounding: Grounding, learn: bool = False) -> Grounding:
        """A grounding with what the configuration adds to it: learned controllers, hints (none but where the student learns)."""
        if self.executor is not None:
            grounding = LearnedControllers(grounding, self.executor, learn)
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

    def learn_options(self) -> dict[str, float]:
        """The student learns to carry out the options without a controller; what is known of these fades, as it changes."""
        if self.executor is None:
            return {}
        self.model.fade(self.executor.met, FADING)
        return self.executor.learn()

    def observe_returns(self, situation: NDArray[np.int64], returns: NDArray[np.floating]) -> None:
        """Keep what the student's own rows returned in each situation, older rounds fading."""
        size = len(self.situations)
        grown = size - len(self._own_value)
        self._own_value = 0.8 * np.append(self._own_value, np.zeros(grown)) + np.bincount(situation, returns, size)
        self._own_rows = 0.8 * np.append(self._own_rows, np.zeros(grown)) + np.bincount(situation, minlength=size)

    def targets(self, situation: NDArray[np.int64], controls: NDArray[np.int8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """q (B, A), and which rows should heed it: those with a q where the student's own value is below the advice's."""
        q, there = action_targets(self.advice.shown[situation], controls, len(self.family.action_names))
        known = self._own_rows[situation] >= 20
        own = self._own_value[situation] / np.maximum(self._own_rows[situation], 1.0)
        value = self.advice.value[situation]
        surpassed = known & (value > 0) & (own > value + MARGIN)
        return q, there & ~surpassed

    def tell(self) -> None:
        """Say in the LLM's prompt what the evidence shows; where that changes it, its answers are asked for again."""
        what, teacher = self.config.teacher.tell, self.teacher
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

    def school(self, task: str) -> None:
        """When a rung is over: the LLM plays it alone, and is tuned where that leads it, until it is good enough.

        Advice is followed blindly, so one wrong situation that everyone passes through decides; which one that is shows
        only where the LLM itself goes, now and before (DAgger: Ross et al. 2011, arXiv 1011.0686). Its best weights are kept.
        """
        if not (self.arm.tune and self.teacher.tunable):
            return
        best, kept, met = -1.0, self.teacher.snapshot(), np.zeros(0)
        for lesson in range(SCHOOLING + 1):
            success, now = self.practise(task)
            met = np.append(met, np.zeros(len(now) - len(met))) + now
            if success > best:
                best, kept = success, self.teacher.snapshot()
            if best >= SCHOOLED or lesson == SCHOOLING or not self.tune(met):
                break
        if success < best:
            self.teacher.restore(kept)
            self.advice.forget()

    def practise(self, task: str) -> tuple[float, NDArray[np.float64]]:
        """The LLM's advice alone on levels kept for nothing else: its success, and how often it chose in each situation (S,)."""
        levels = min(EXAM_LEVELS, self.config.episodes)
        environments = tasks.make(task, self.config.engine, levels, self.draw_seed())
        grounding = self.ground(levels, environments.num_actions)
        alone = TeacherAlone(self.teacher.advise, grounding, environments, self.config.collect.option_patience, self.draw_seed())
        success = examine(alone, environments, grounding)
        self.advice.acquaint(np.array(sorted(alone.chosen), dtype=np.int64))
        met = np.zeros(len(self.situations))
        met[list(alone.chosen)] = list(alone.chosen.values())
        return success, met

    def evaluate(self, who: Who, task: str, episodes: int | None = None, seed: int = SEED) -> Evaluation:
        """One player alone on the reference environments: the greedy student, or the teacher's own advice, no evidence in it."""
        episodes = episodes or self.config.episodes
        if who == "student":
            return evaluate_student(self.student, task, self.ground, episodes, seed)
        return evaluate_teacher(self.teacher.advise, task, self.ground, self.config.collect.option_patience, episodes, seed)

    def examine(self, task: str) -> float:
        """Success of the student alone, greedy, on the levels kept for exams, stepped by the engine that trains."""
        environments = tasks.make(task, self.config.engine, EXAM_LEVELS, EXAM_SEED)
        grounding = self._extended(self.family.ground(EXAM_LEVELS, self._exam_situations, environments.num_actions))
        return examine(StudentAlone(self.student), environments, grounding)

    def record(self, who: Who, task: str, seed: int = SEED) -> list[NDArray[np.uint8]]:
        """The frames of one episode of `evaluate`."""
        if who == "student":
            return record_student(self.student, task, self.ground, seed)
        return record_teacher(self.teacher.advise, task, self.ground, self.config.collect.option_patience, seed)

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
        self.student.save(folder / "student")
        self.replay.save(folder / "student" / "replay.safetensors")
        if self.executor is not None:
            self.executor.save(folder / "student")
        self.teacher.save(folder / "teacher")
        knowledge = {
            "situations": [[s.text, s.options, s.expert] for s in self.situations],
            "evidence": self.model.state(),
            "credit": self.advice.credit,
            "books": self.teacher.books.totals(),
            "said": self.spoken.said if self.spoken else 0,
            "own": [self._own_value.tolist(), self._own_rows.tolist()],
            "generator": self.rng.bit_generator.state,
        }
        (folder / "knowledge.json").write_text(json.dumps(knowledge), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote: these players then go on as those would have."""
        self.student.load(folder / "student")
        self.replay.load(folder / "student" / "replay.safetensors")
        if self.executor is not None:
            self.executor.load(folder / "student")
        if (folder / "teacher").is_dir():
            self.teacher.load(folder / "teacher")
        knowledge = json.loads((folder / "knowledge.json").read_text(encoding="utf-8"))
        for text, options, expert in knowledge["situations"]:
            self.situations.number(Situation(text, tuple(options), expert))
        self.model.restore(knowledge["evidence"])
        self.advice.restore({name: value.numpy() for name, value in tensors.read(folder / "advice.safetensors").items()})
        self._own_value, self._own_rows = (np.array(values) for values in knowledge["own"])
        self.advice.credit = knowledge["credit"]
        self.teacher.books = Books(**knowledge["books"])
        if isinstance(self.teacher, Recorder):
            self.teacher.go_on(knowledge["said"])
        self.rng.bit_generator.state = knowledge["generator"]
        self.advice.evaluator.load(folder / "evaluator")
