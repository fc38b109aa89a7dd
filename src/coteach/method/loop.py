"""The loop: a teacher (LLM) and a student (PPO) that make each other better, round by round.

`Loop.play_round` is the whole idea, in the order of the design: collect, advise, evidence, reweigh, guide, tune. An arm
switches channels off; everything else here serves the round: `train` climbs the rungs of a configuration and
carries both players over from one to the next, or climbs them all side by side (`together`), one teacher with a student on
each. It implements the framework of arXiv 2401.06603.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from coteach.config import Config
from coteach.errors import NotFinite, note, require_finite
from coteach.method.players import Players
from coteach.method.report import progress, round_metrics, rung_summaries, write_artifacts, write_video
from coteach.method.rung import Rung, Turn, blamed, failed
from coteach.runs.checkpoints import understood
from coteach.runs.progress import Progress
from coteach.runs.run_folder import Run
from coteach.runs.signals import Signals
from coteach.student import guidance
from coteach.student.batch import Batch, Imitation
from coteach.student.ppo import gae
from coteach.teacher.recorded import RECORD

CHECKPOINT_ROUNDS, CHECKPOINT_SECONDS = 20, 30.0
"""So many rounds or seconds after a checkpoint the next one is due, whichever comes first."""

MOST_SKIPPED = 3
"""Rounds in a row from which the student cannot learn because numbers in them are not finite: the last of them ends the run."""

UNLIMITED = 2**31
"""Calls of a teacher that costs nothing."""


class Loop:
    """Teacher and student, rung by rung, round by round."""

    def __init__(self, config: Config, run: Run, report: Callable[[Progress], None] | None = None) -> None:
        self.config, self.run, self.report = config, run, report
        self.players, self.signals = Players(config, run.folder / RECORD), Signals(hurry=True)
        self.rungs: list[Rung] = []
        """Those being climbed: one, or all where the tasks are trained on together."""
        self.whole = True
        """False in the middle of a round: what there is then must not be saved."""
        self.summaries: list[dict[str, Any]] = []
        self.began = time.perf_counter()
        self.best = (0, -1.0)
        """Rung and success of the best exam so far; its checkpoint is kept."""
        self.saved = (0, self.began)
        """At which round, and when, a checkpoint was last made."""

    def play_round(self, rungs: Sequence[Rung]) -> list[dict[str, Any]]:
        """One round of the game on a rung, or on several side by side; returns the metrics of each."""
        config, players, arm = self.config, self.players, self.players.arm
        advice = players.advice

        # 1. Collect: the student leads most environments, the teacher a share that shrinks as the student catches up.
        advice.allow(config.teacher.queries_per_round if arm.prior == "llm" else UNLIMITED)
        turns = [self.collect(rung, others=len(rungs) - turn) for turn, rung in enumerate(rungs, start=1)]

        # 2. Advise: the LLM is asked about the situations met most; the rest of the time its advice is looked up.
        advice.visit(turn.rollout.situation for turn in turns)
        if arm.taught:
            self.tell("advise")
            advice.ask()

        # 3. Evidence: what became of options, whoever brought it about.
        for turn in turns:
            players.count(turn.rollout.outcomes)

        # 4. Reweigh (student -> teacher, at once): the evidence overrules the advice.
        with blamed(*rungs):
            advice.improve()

        # 5. Guide (teacher -> student): PPO on the student's own rows, drawn towards the advice there and on replayed rows.
        rows = [(self.learn(turn) if arm.learn else {}) | players.learn_options(turn.rung.student) for turn in turns]

        # 6. Tell and tune (student -> teacher's prompt and weights): what proved right becomes what the LLM says by itself.
        tuned = self.teach() if self.teaches(rungs) else {}
        return [row | tuned | turn.shares | {"credit": advice.credit} for row, turn in zip(rows, turns, strict=True)]

    def collect(self, rung: Rung, others: int) -> Turn:
        """The rung's rows of this round; so many `others` collect theirs later, and are left as much of the LLM's time."""
        config, advice, arm = self.config, self.players.advice, self.players.arm
        heed = guidance.heed(rung.curve.student, rung.curve.led)
        led_share = guidance.led_share(config.collect, heed) if arm.lead else 0.0
        advice.take_turns(others)
        with blamed(rung):
            rollout = rung.collector.collect(config.collect.horizon, rung.student.learner, advice.lead, led_share)
        rung.curve.add(rollout.episodes, rung.collector.under_way)
        return Turn(rung, rollout, led_share, heed * config.guidance.weight if arm.guide else 0.0)

    def teaches(self, rungs: Sequence[Rung]) -> bool:
        """Whether the round under way ends with the teacher being told and tuned."""
        return (rungs[0].rounds + 1) % self.config.teacher.tune_every == 0

    def teach(self) -> dict[str, Any]:
        """Tell the teacher what the students found out, and tune it, as far as the arm does; returns the tuning's metrics."""
        if self.players.arm.tell:
            self.players.tell()
        if not self.players.arm.tune:
            return {}
        self.tell("tune")
        return self.players.tune()

    def learn(self, turn: Turn) -> dict[str, Any]:
        """`guide`, unless what it would learn from is broken: then the student stays as it is, a few rounds in a row at most."""
        rung = turn.rung
        try:
            metrics = self.guide(turn)
        except NotFinite as error:
            rung.skipped += 1
            if rung.skipped == MOST_SKIPPED:
                raise failed(error, rung) from error
            note(f"{rung.where}: {error}; the student does not learn from this round")
            return {}
        rung.skipped = 0
        return metrics

    def guide(self, turn: Turn) -> dict[str, Any]:
        """One update of a student. Teacher-led rows never enter PPO's ratio."""
        players, config, student, rollout = self.players, self.config.student, turn.rung.student, turn.rollout
        potential = players.advice.value[rollout.situation] * self.config.guidance.subgoal
        rewards = guidance.shaped(rollout.rewards, potential, rollout.terminated, config.gamma)
        advantages, returns = gae(
            rewards, rollout.values, rollout.terminated, rollout.truncated, rollout.valid, config.gamma, config.gae_lambda
        )
        require_finite(advantages=advantages, returns=returns)
        own, led = rollout.valid & ~rollout.led, rollout.valid & rollout.led
        student.observe_returns(rollout.situation[:-1][own], (returns + potential[:-1])[own], len(players.situations))
        target, heeded = players.targets(student, rollout.situation[:-1][own], rollout.controls[:-1][own])
        require_finite(advice=target)
        batch = Batch(
            features=rollout.features[:-1][own],
            actions=rollout.actions[own],
            logprobs=rollout.logprobs[own],
            values=rollout.values[:-1][own],
            advantages=advantages[own],
            returns=returns[own],
            target=target,
            weight=(turn.weight * heeded).astype(np.float32),
            value_features=rollout.features[:-1][led],
            value_returns=returns[led],
        )
        student.replay.add(rollout)
        distil = turn.weight > 0 and players.arm.replay and self.config.guidance.replay > 0 and student.replay.filled > 0
        return student.learner.update(batch, (lambda rows: self.imitation(turn, rows)) if distil else None)

    def imitation(self, turn: Turn, rows: int) -> Imitation:
        """Replayed rows beside `rows` of PPO's, relabelled with today's advice."""
        student, replay = turn.rung.student, turn.rung.student.replay
        at = replay.sample(round(rows * self.config.guidance.replay), self.players.rng)
        target, heeded = self.players.targets(student, replay.situation[at], replay.controls[at])
        require_finite(advice=target)
        return Imitation(replay.features[at], target, (turn.weight * heeded).astype(np.float32))

    def examine(self, rung: Rung) -> dict[str, float]:
        """Where an exam is due: how the student alone fares. Where it has held out, the reference environments decide."""
        if not self.players.arm.learn or not rung.curve.due(rung.steps):
            return {}
        success = self.players.examine(rung.task)
        rung.curve.examined(rung.steps, success)
        if rung.curve.holds(self.config.stop_at):
            self.tell("evaluate")
            rung.held = self.players.alone("student", rung.task)["success"] >= self.config.stop_at
        return {"success_alone": success}

    def climb(self) -> list[dict[str, Any]]:
        """Train on the rungs until all are over; returns their summaries."""
        self.begin()
        while playing := [rung for rung in self.rungs if not rung.over]:
            if self.due(playing):
                self.save()
            with self.signals.deferred():
                self.whole = False
                self.advance(playing)
                self.whole = True
            self.tell("collect")
        self.school()
        self.tell("evaluate")
        summaries = rung_summaries(self.rungs, self.config, self.players)
        self.log_calls(self.rungs[0])
        return summaries

    def begin(self) -> None:
        """Before the first round: how the teacher fares alone."""
        if self.rungs[0].books is not None:
            return
        for rung in self.rungs:
            self.tell("evaluate")
            rung.before = self.players.alone("teacher", rung.task)
            self.log_calls(rung)
        for rung in self.rungs:
            rung.books = self.players.teacher.books.copy()

    def advance(self, playing: Sequence[Rung]) -> None:
        """Play a round, examine the students where that is due, write it all down."""
        began = time.perf_counter()
        rows = self.play_round(playing)
        seconds = (time.perf_counter() - began) / len(playing)
        for rung, row in zip(playing, rows, strict=True):
            rung.rounds += 1
            rung.seconds += seconds
            self.log(rung, row | self.examine(rung))

    def school(self) -> None:
        """The rungs are over: teach the LLM the rest. Saved after each practice and each tuning: these take minutes."""
        if self.rungs[0].schooled:
            return
        self.save()
        more = True
        while more:
            self.tell("school", self.players.schooling.standing() if self.players.schooling else "")
            began = time.perf_counter()
            self.whole = False
            more = self.players.school([rung.task for rung in self.rungs])
            seconds = (time.perf_counter() - began) / len(self.rungs)
            for rung in self.rungs:
                rung.seconds += seconds
                rung.schooled = not more
            self.whole = True
            self.save()

    def train(self, resumed: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
        """Climb all rungs; returns one summary a rung. On Ctrl-C or SIGTERM everything is saved first.

        resumed: the states of the rungs under way, as `take_up` gives them.
        """
        states = {state["index"]: state for state in resumed}
        for climbed in self.ahead():
            if climbed[0] > 0 and climbed[0] not in states:
                self.players.next_rung()
            self.rungs = [Rung(index, self.config, self.players, states.get(index)) for index in climbed]
            self.saved = self.rounds, time.perf_counter()
            try:
                self.summaries += self.climb()
            except (KeyboardInterrupt, SystemExit):
                if self.whole:
                    self.save()
                else:
                    note(f"what was under way is lost: resumed, the run goes on after round {self.saved[0]}")
                raise
            for rung in self.rungs:
                write_video(self.run, self.players, rung)
            write_artifacts(self.run, self.players, self.summaries)
            self.save()
        return self.summaries

    def ahead(self) -> list[list[int]]:
        """The rungs that are not over, in lists of those that are climbed side by side."""
        rest = list(range(len(self.summaries), len(self.config.tasks)))
        return [rest] if self.config.together and rest else [[index] for index in rest]

    @property
    def rounds(self) -> int:
        """Rounds played on the rungs being climbed."""
        return max(rung.rounds for rung in self.rungs)

    def due(self, playing: Sequence[Rung]) -> bool:
        """Whether to make a checkpoint now: it is time, or a round begins that is long because the LLM is tuned in it."""
        tunes = self.players.arm.tune and self.teaches(playing)
        rounds, seconds = self.rounds - self.saved[0], time.perf_counter() - self.saved[1]
        return rounds > 0 and (tunes or rounds >= CHECKPOINT_ROUNDS or seconds >= CHECKPOINT_SECONDS)

    def save(self) -> None:
        """Keep a checkpoint: the players, what they know, and how far they are."""
        success = sum(rung.curve.alone or 0.0 for rung in self.rungs) / len(self.rungs)
        exam = (self.rungs[-1].index, success)
        best, self.best = exam >= self.best, max(exam, self.best)
        seconds = time.perf_counter() - self.began

        def write(folder: Path) -> None:
            self.players.save(folder)
            states = [rung.state() for rung in self.rungs]
            how_far = {"rungs": states, "summaries": self.summaries, "best": self.best, "seconds": seconds}
            (folder / "progress.json").write_text(json.dumps(how_far), encoding="utf-8")

        self.run.save_checkpoint(self.total_steps(), write, best)
        self.saved = self.rounds, time.perf_counter()

    def take_up(self, checkpoint: Path | None) -> list[dict[str, Any]]:
        """Go on from a checkpoint, or from the beginning where there is none yet; returns the states of its rungs."""
        if checkpoint is None:
            self.run.rewind({})
            return []
        with understood(checkpoint):
            saved = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
            self.players.load(checkpoint)
            self.summaries, self.best = saved["summaries"], tuple(saved["best"])
            self.began -= saved["seconds"]
            # Before there were several, the only rung stood by itself.
            states: list[dict[str, Any]] = saved["rungs"] if "rungs" in saved else [saved["rung"]]
            rounds = {state["index"]: state["rounds"] for state in states}
        self.run.rewind(rounds)
        return states

    def total_steps(self) -> int:
        """Environment steps over all rungs so far."""
        climbed = {rung.index: rung.steps for rung in self.rungs}
        return sum(({summary["rung"]: int(summary["steps"]) for summary in self.summaries} | climbed).values())

    def log_calls(self, rung: Rung) -> None:
        """A line of calls.jsonl for each of the LLM's calls since the last time."""
        self.run.log_calls(rung.index, rung.rounds, map(asdict, self.players.teacher.books.take_journal()))

    def log(self, rung: Rung, metrics: dict[str, Any]) -> None:
        """One line of metrics.jsonl, and the LLM's calls since the last."""
        self.log_calls(rung)
        self.run.log(round_metrics(rung, self.players, time.perf_counter() - self.began) | metrics)

    def tell(self, phase: str, detail: str = "") -> None:
        """Show where the run stands."""
        if self.report is not None:
            books, seconds = self.players.teacher.books, time.perf_counter() - self.began
            self.report(progress(self.rungs, self.config, books, phase, seconds, detail))


def train(
    config: Config, run: Run, progress: Callable[[Progress], None] | None = None, resume: bool = False
) -> list[dict[str, Any]]:
    """Train teacher and student as `config` says, leaving everything in `run`; returns a summary per rung.

    resume: go on from the run's latest checkpoint, exactly as the run would have gone on had it not been stopped (with EnvPool,
    whose episodes cannot be saved, from new ones). Raises KeyboardInterrupt or SystemExit(143) after saving, and CoteachError
    where another process trains this run.
    """
    with run.held():
        loop = Loop(config, run, progress)
        states = loop.take_up(run.latest_checkpoint()) if resume else []
        with loop.signals.handled():
            return loop.train(states)
