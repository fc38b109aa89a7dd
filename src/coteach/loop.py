"""The loop: a teacher (LLM) and a student (PPO) that make each other better, round by round.

`Loop.play_round` is the whole idea, in the order of the design: collect, advise, evidence, reweigh, guide, tune. An arm
switches channels off; everything else here serves the round: `train` climbs the rungs of a configuration and
carries both players over from one to the next. It implements the framework of arXiv 2401.06603.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from coteach import guidance, tasks
from coteach.config import Config
from coteach.curve import Curve
from coteach.players import Players
from coteach.progress import Progress
from coteach.report import rung_summary, write_artifacts, write_video
from coteach.run import Run
from coteach.signals import Signals
from coteach.student.ppo import Batch, Imitation, gae
from coteach.student.rollout import Collector, Rollout
from coteach.teacher.base import Books

CHECKPOINT_ROUNDS = 20

UNLIMITED = 2**31
"""Calls of a teacher that costs nothing."""


class Rung:
    """One task being climbed: its environments and its learning curve."""

    def __init__(self, index: int, config: Config, players: Players, state: dict[str, Any] | None = None) -> None:
        self.index, self.task, self.config = index, config.tasks[index], config
        self.curve, self.rounds, self.seconds = Curve(), 0, 0.0
        self.held = False
        """The student alone has held the success at which the rung may end."""
        self.before: dict[str, float] = {}
        """Success and return of the teacher alone when the rung began."""
        self.books: Books | None = None
        """What the teacher had cost by then."""
        self._began = time.perf_counter()
        self.environments = tasks.make(self.task, config.engine, config.collect.envs, players.draw_seed())
        grounding = players.ground(config.collect.envs, self.environments.num_actions, learn=True)
        self.collector = Collector(self.environments, grounding, config.collect.option_patience, players.rng)
        if state is not None:
            self.rounds, self.collector.steps, self.seconds = state["rounds"], state["steps"], state["seconds"]
            self.before, self.books = state["before"], state["books"] and Books(**state["books"])
            self.curve.restore(state["curve"])
            self._began -= state["age"]
        self.collector.assign_all(config.collect.led_share_max if players.arm.lead else 0.0)

    @property
    def steps(self) -> int:
        """Environment steps taken on this rung, over all environments."""
        return self.collector.steps

    @property
    def over(self) -> bool:
        """The student alone has held the success asked for, or the budget is spent."""
        return self.held or self.steps >= self.config.steps

    @property
    def age(self) -> float:
        """Seconds spent on it, evaluations included (`seconds` counts training alone)."""
        return time.perf_counter() - self._began

    @property
    def rate(self) -> float:
        """Environment steps per second so far, everything included."""
        return self.steps / max(self.age, 1e-9)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it; episodes under way are not."""
        return {
            "index": self.index,
            "before": self.before,
            "books": self.books and self.books.totals(),
            "rounds": self.rounds,
            "steps": self.steps,
            "seconds": self.seconds,
            "age": self.age,
            "curve": self.curve.state(),
        }


class Loop:
    """Two players, rung by rung, round by round."""

    def __init__(self, config: Config, run: Run, report: Callable[[Progress], None] | None = None) -> None:
        self.config, self.run, self.report = config, run, report
        self.players, self.signals = Players(config), Signals()
        self.summaries: list[dict[str, Any]] = []
        self.began = time.perf_counter()

    def play_round(self, rung: Rung) -> dict[str, Any]:
        """One round of the game; returns its metrics."""
        config, players, arm = self.config, self.players, self.players.arm
        advice = players.advice
        heed = guidance.heed(rung.curve.student, rung.curve.led)

        # 1. Collect: the student leads most environments, the teacher a share that shrinks as the student catches up.
        share = guidance.led_share(config.collect, heed) if arm.lead else 0.0
        advice.allow(config.teacher.queries_per_round if arm.prior == "llm" else UNLIMITED)
        rollout = rung.collector.collect(config.collect.horizon, players.student, advice.lead, share)
        rung.curve.add(rollout.episodes, rung.collector.under_way)

        # 2. Advise: the LLM is asked about the situations met most; the rest of the time its advice is looked up.
        advice.visit(rollout.situation)
        if arm.taught:
            self.tell(rung, "advise")
            advice.ask()

        # 3. Evidence: what became of options, whoever brought it about.
        players.count(rollout.outcomes)

        # 4. Reweigh (student -> teacher, at once): the evidence overrules the advice.
        advice.improve()

        # 5. Guide (teacher -> student): PPO on the student's own rows, drawn towards the advice there and on replayed rows.
        weight = heed * config.guidance.weight if arm.guide else 0.0
        metrics: dict[str, Any] = self.guide(rollout, weight) if arm.learn else {}
        metrics |= players.learn_options()

        # 6. Tell and tune (student -> teacher's prompt and weights): what proved right becomes what the LLM says by itself.
        if (rung.rounds + 1) % config.teacher.tune_every == 0:
            if arm.tell:
                players.tell()
            if arm.tune:
                self.tell(rung, "tune")
                metrics |= players.tune()
        return metrics | {"led_share": share, "guidance_weight": weight, "credit": advice.credit}

    def guide(self, rollout: Rollout, weight: float) -> dict[str, float]:
        """One update of the student; `weight` is lambda. Teacher-led rows never enter PPO's ratio."""
        players, config = self.players, self.config.student
        potential = players.advice.value[rollout.situation] * self.config.guidance.subgoal
        rewards = guidance.shaped(rollout.rewards, potential, rollout.terminated, config.gamma)
        advantages, returns = gae(
            rewards, rollout.values, rollout.terminated, rollout.truncated, rollout.valid, config.gamma, config.gae_lambda
        )
        own, led = rollout.valid & ~rollout.led, rollout.valid & rollout.led
        players.observe_returns(rollout.situation[:-1][own], (returns + potential[:-1])[own])
        target, heeded = players.targets(rollout.situation[:-1][own], rollout.controls[:-1][own])
        batch = Batch(
            features=rollout.features[:-1][own],
            actions=rollout.actions[own],
            logprobs=rollout.logprobs[own],
            values=rollout.values[:-1][own],
            advantages=advantages[own],
            returns=returns[own],
            target=target,
            weight=(weight * heeded).astype(np.float32),
            value_features=rollout.features[:-1][led],
            value_returns=returns[led],
        )
        players.replay.add(rollout)
        distil = weight > 0 and players.arm.replay and self.config.guidance.replay > 0 and players.replay.filled > 0
        return players.student.update(batch, (lambda rows: self.imitation(rows, weight)) if distil else None)

    def imitation(self, rows: int, weight: float) -> Imitation:
        """Replayed rows beside `rows` of PPO's, relabelled with today's advice."""
        replay = self.players.replay
        at = replay.sample(round(rows * self.config.guidance.replay), self.players.rng)
        target, heeded = self.players.targets(replay.situation[at], replay.controls[at])
        return Imitation(replay.features[at], target, (weight * heeded).astype(np.float32))

    def examine(self, rung: Rung) -> dict[str, float]:
        """Where an exam is due: how the student alone fares. Where it has held out, the reference environments decide."""
        if not self.players.arm.learn or not rung.curve.due(rung.steps):
            return {}
        success = self.players.examine(rung.task)
        rung.curve.examined(rung.steps, success)
        if rung.curve.holds(self.config.stop_at):
            self.tell(rung, "evaluate")
            rung.held = self.players.alone("student", rung.task)["success"] >= self.config.stop_at
        return {"success_alone": success}

    def climb(self, rung: Rung) -> dict[str, Any]:
        """Train on one rung until it is over; returns its summary."""
        if rung.books is None:
            self.tell(rung, "evaluate")
            rung.before = self.players.alone("teacher", rung.task)
            self.log_calls(rung)
            rung.books = self.players.teacher.books.copy()
        while not rung.over:
            began = time.perf_counter()
            with self.signals.deferred():
                metrics = self.play_round(rung)
                rung.rounds += 1
                rung.seconds += time.perf_counter() - began
                self.log(rung, metrics | self.examine(rung))
            if rung.rounds % CHECKPOINT_ROUNDS == 0:
                self.save(rung)
            self.tell(rung, "collect")
        self.tell(rung, "tune")
        began = time.perf_counter()
        self.players.school(rung.task)
        rung.seconds += time.perf_counter() - began
        spent = self.players.teacher.books.since(rung.books)
        rung.environments.close()
        self.tell(rung, "evaluate")
        summary = rung_summary(rung, self.config, self.players, spent)
        self.log_calls(rung)
        return summary

    def train(self, resumed: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Climb all rungs; returns one summary a rung. On Ctrl-C or SIGTERM everything is saved first."""
        for index in range(len(self.summaries), len(self.config.tasks)):
            state = resumed if resumed and resumed["index"] == index else None
            if index > 0 and state is None:
                self.players.next_rung()
            rung = Rung(index, self.config, self.players, state)
            try:
                self.summaries.append(self.climb(rung))
            except (KeyboardInterrupt, SystemExit):
                self.save(rung)
                raise
            self.save(rung)
            write_artifacts(self.run, self.players, self.summaries)
            write_video(self.run, self.players, rung)
        return self.summaries

    def save(self, rung: Rung) -> None:
        """Keep a checkpoint: both players, what they know, and how far they are."""

        def write(folder: Path) -> None:
            self.players.save(folder)
            progress = {"rung": rung.state(), "summaries": self.summaries, "total_steps": self.total_steps(rung)}
            (folder / "progress.json").write_text(json.dumps(progress), encoding="utf-8")

        self.run.save_checkpoint(self.total_steps(rung), write)

    def take_up(self, checkpoint: Path | None) -> dict[str, Any] | None:
        """Go on from a checkpoint, or from the beginning where there is none yet; returns the state of its rung."""
        if checkpoint is None:
            self.run.rewind(0, 0)
            return None
        saved = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
        self.players.load(checkpoint)
        self.summaries = saved["summaries"]
        state: dict[str, Any] = saved["rung"]
        self.run.rewind(state["index"], state["rounds"])
        return state

    def total_steps(self, rung: Rung) -> int:
        """Environment steps over all rungs so far."""
        return rung.steps + sum(int(summary["steps"]) for summary in self.summaries if summary["rung"] != rung.index)

    def log_calls(self, rung: Rung) -> None:
        """A line of calls.jsonl for each of the LLM's calls since the last time."""
        self.run.log_calls(rung.index, rung.rounds, self.players.teacher.books.take_journal())

    def log(self, rung: Rung, metrics: dict[str, Any]) -> None:
        """One line of metrics.jsonl, and the LLM's calls since the last."""
        seconds, books = time.perf_counter() - self.began, self.players.teacher.books
        self.log_calls(rung)
        self.run.log(
            {
                "rung": rung.index,
                "task": rung.task,
                "round": rung.rounds,
                "steps": rung.steps,
                "success_student": rung.curve.student,
                "success_teacher": rung.curve.led,
                "situations": len(self.players.situations),
                "llm_queries": books.queries,
                "llm_tokens": books.tokens,
                "llm_money": books.money,
                "llm_failures": books.failures,
                "wall_seconds": seconds,
                "steps_per_second": rung.rate,
            }
            | metrics
        )

    def tell(self, rung: Rung, phase: str) -> None:
        """Show where the run stands."""
        books = self.players.teacher.books
        if self.report is not None:
            self.report(
                Progress(
                    rung.index,
                    len(self.config.tasks),
                    rung.task,
                    rung.steps,
                    self.config.steps,
                    phase,
                    rung.curve.student,
                    rung.curve.led,
                    books.queries,
                    time.perf_counter() - self.began,
                    rung.rate,
                    books.tokens,
                    books.money,
                    books.failures,
                )
            )


def train(
    config: Config, run: Run, progress: Callable[[Progress], None] | None = None, resume: bool = False
) -> list[dict[str, Any]]:
    """Train teacher and student as `config` says, leaving everything in `run`; returns a summary per rung.

    resume: go on from the run's latest checkpoint (episodes under way begin anew). Raises KeyboardInterrupt or
    SystemExit(143) after saving.
    """
    loop = Loop(config, run, progress)
    state = loop.take_up(run.latest_checkpoint()) if resume else None
    with loop.signals.handled():
        return loop.train(state)
