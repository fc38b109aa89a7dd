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

from coteach import finite, guidance
from coteach.config import Config
from coteach.errors import RunFailed, note
from coteach.finite import NotFinite
from coteach.players import Players
from coteach.progress import Progress
from coteach.report import rung_summary, write_artifacts, write_video
from coteach.run import Run, understood
from coteach.rung import Rung
from coteach.signals import Signals
from coteach.student.ppo import Batch, Imitation, gae
from coteach.student.rollout import Rollout
from coteach.teacher.recorded import RECORD

CHECKPOINT_ROUNDS, CHECKPOINT_SECONDS = 20, 30.0
"""So many rounds or seconds after a checkpoint the next one is due, whichever comes first."""

MOST_SKIPPED = 3
"""Rounds in a row from which the student cannot learn because numbers in them are not finite: the last of them ends the run."""

UNLIMITED = 2**31
"""Calls of a teacher that costs nothing."""


class Loop:
    """Two players, rung by rung, round by round."""

    def __init__(self, config: Config, run: Run, report: Callable[[Progress], None] | None = None) -> None:
        self.config, self.run, self.report = config, run, report
        self.players, self.signals = Players(config, run.folder / RECORD), Signals(hurry=True)
        self.summaries: list[dict[str, Any]] = []
        self.began = time.perf_counter()
        self.best = (0, -1.0)
        """Rung and success of the best exam so far; its checkpoint is kept."""
        self.saved = (0, self.began)
        """At which round, and when, a checkpoint was last made."""

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
        metrics: dict[str, Any] = self.learn(rung, rollout, weight) if arm.learn else {}
        metrics |= players.learn_options()

        # 6. Tell and tune (student -> teacher's prompt and weights): what proved right becomes what the LLM says by itself.
        if (rung.rounds + 1) % config.teacher.tune_every == 0:
            if arm.tell:
                players.tell()
            if arm.tune:
                self.tell(rung, "tune")
                metrics |= players.tune()
        return metrics | {"led_share": share, "guidance_weight": weight, "credit": advice.credit}

    def attempt(self, rung: Rung) -> dict[str, Any]:
        """`play_round`; numbers that are not finite end the run, which can be resumed from before they came in."""
        try:
            return self.play_round(rung)
        except NotFinite as error:
            raise RunFailed(
                f"{rung.where}: {error}; the last checkpoint was made before: mend the cause and use --resume"
            ) from error

    def learn(self, rung: Rung, rollout: Rollout, weight: float) -> dict[str, float]:
        """`guide`, unless what it would learn from is broken: then the student stays as it is, a few rounds in a row at most."""
        try:
            metrics = self.guide(rollout, weight)
        except NotFinite as error:
            rung.skipped += 1
            if rung.skipped == MOST_SKIPPED:
                raise
            note(f"{rung.where}: {error}; the student does not learn from this round")
            return {}
        rung.skipped = 0
        return metrics

    def guide(self, rollout: Rollout, weight: float) -> dict[str, float]:
        """One update of the student; `weight` is lambda. Teacher-led rows never enter PPO's ratio."""
        players, config = self.players, self.config.student
        potential = players.advice.value[rollout.situation] * self.config.guidance.subgoal
        rewards = guidance.shaped(rollout.rewards, potential, rollout.terminated, config.gamma)
        advantages, returns = gae(
            rewards, rollout.values, rollout.terminated, rollout.truncated, rollout.valid, config.gamma, config.gae_lambda
        )
        finite.require(advantages=advantages, returns=returns)
        own, led = rollout.valid & ~rollout.led, rollout.valid & rollout.led
        players.observe_returns(rollout.situation[:-1][own], (returns + potential[:-1])[own])
        target, heeded = players.targets(rollout.situation[:-1][own], rollout.controls[:-1][own])
        finite.require(advice=target)
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
        finite.require(advice=target)
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
            if self.due(rung):
                self.save(rung)
            began = time.perf_counter()
            with self.signals.deferred():
                rung.whole = False
                metrics = self.attempt(rung)
                rung.rounds += 1
                rung.seconds += time.perf_counter() - began
                self.log(rung, metrics | self.examine(rung))
                rung.whole = True
            self.tell(rung, "collect")
        self.school(rung)
        spent = self.players.teacher.books.since(rung.books)
        rung.environments.close()
        self.tell(rung, "evaluate")
        summary = rung_summary(rung, self.config, self.players, spent)
        self.log_calls(rung)
        return summary

    def school(self, rung: Rung) -> None:
        """The rung is over: teach the LLM the rest. Saved before and after: whoever is interrupted in between does it again."""
        if rung.schooled:
            return
        self.save(rung)
        self.tell(rung, "tune")
        began = time.perf_counter()
        rung.whole = False
        self.players.school(rung.task)
        rung.seconds += time.perf_counter() - began
        rung.schooled = rung.whole = True
        self.save(rung)

    def train(self, resumed: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Climb all rungs; returns one summary a rung. On Ctrl-C or SIGTERM everything is saved first."""
        for index in range(len(self.summaries), len(self.config.tasks)):
            state = resumed if resumed and resumed["index"] == index else None
            if index > 0 and state is None:
                self.players.next_rung()
            rung = Rung(index, self.config, self.players, state)
            self.saved = rung.rounds, time.perf_counter()
            try:
                self.summaries.append(self.climb(rung))
            except (KeyboardInterrupt, SystemExit):
                if rung.whole:
                    self.save(rung)
                else:
                    note(f"the round under way is lost: resumed, the run goes on after round {self.saved[0]}")
                raise
            write_video(self.run, self.players, rung)
            write_artifacts(self.run, self.players, self.summaries)
            self.save(rung)
        return self.summaries

    def due(self, rung: Rung) -> bool:
        """Whether to make a checkpoint now: it is time, or a round begins that is long because the LLM is tuned in it."""
        tunes = self.players.arm.tune and (rung.rounds + 1) % self.config.teacher.tune_every == 0
        rounds, seconds = rung.rounds - self.saved[0], time.perf_counter() - self.saved[1]
        return rounds > 0 and (tunes or rounds >= CHECKPOINT_ROUNDS or seconds >= CHECKPOINT_SECONDS)

    def save(self, rung: Rung) -> None:
        """Keep a checkpoint: both players, what they know, and how far they are."""
        exam = (rung.index, rung.curve.alone or 0.0)
        best, self.best = exam >= self.best, max(exam, self.best)
        seconds = time.perf_counter() - self.began

        def write(folder: Path) -> None:
            self.players.save(folder)
            progress = {"rung": rung.state(), "summaries": self.summaries, "best": self.best, "seconds": seconds}
            (folder / "progress.json").write_text(json.dumps(progress), encoding="utf-8")

        self.run.save_checkpoint(self.total_steps(rung), write, best)
        self.saved = rung.rounds, time.perf_counter()

    def take_up(self, checkpoint: Path | None) -> dict[str, Any] | None:
        """Go on from a checkpoint, or from the beginning where there is none yet; returns the state of its rung."""
        if checkpoint is None:
            self.run.rewind(0, 0)
            return None
        with understood(checkpoint):
            saved = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
            self.players.load(checkpoint)
            self.summaries, self.best = saved["summaries"], tuple(saved["best"])
            self.began -= saved["seconds"]
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

    resume: go on from the run's latest checkpoint, exactly as the run would have gone on had it not been stopped (with EnvPool,
    whose episodes cannot be saved, from new ones). Raises KeyboardInterrupt or SystemExit(143) after saving.
    """
    loop = Loop(config, run, progress)
    state = loop.take_up(run.latest_checkpoint()) if resume else None
    with loop.signals.handled():
        return loop.train(state)
