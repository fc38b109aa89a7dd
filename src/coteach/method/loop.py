"""The loop over rungs and rounds: checkpoints, greedy evaluations, the end of a rung, and resuming a run.

`round.play_round` is the algorithm. The rungs are trained on one after the other, with both players carried over, or side by side
(`together`), with one teacher and a student for each rung.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from coteach.config import Config
from coteach.errors import note
from coteach.method import checkpoint as checkpoints
from coteach.method import steps
from coteach.method.examiner import Examiner
from coteach.method.players import Players
from coteach.method.report import Reporter, rung_summaries
from coteach.method.round import play_round
from coteach.method.rung import Rung
from coteach.method.schooling import Schooling
from coteach.runs.checkpoints import reading
from coteach.runs.progress import Progress
from coteach.runs.run_folder import Run
from coteach.runs.signals import Signals
from coteach.teacher.recorded import RECORD

CHECKPOINT_ROUNDS, CHECKPOINT_SECONDS = 20, 30.0
"""The next checkpoint is due after so many rounds or seconds, whichever comes first."""


class Loop:
    """Trains teacher and student, rung by rung and round by round.

    rungs:     the present rung, or all rungs if the tasks are trained on together.
    summaries: of the rungs that are over.
    """

    def __init__(self, config: Config, run: Run, display: Callable[[Progress], None] | None = None) -> None:
        self.config, self.run = config, run
        self.players, self.signals = Players(config, run.folder / RECORD), Signals(time_limit=True)
        self.examiner = Examiner(self.players)
        self.schooling = Schooling(self.players, self.examiner)
        self.reporter = Reporter(run, self.players, display)
        self.rungs: list[Rung] = []
        self.summaries: list[dict[str, Any]] = []
        self._whole = True
        """False in the middle of a round, when the state is inconsistent and must not be saved."""
        self._best = (0, -1.0)
        """Rung and success of the best greedy evaluation at a checkpoint; that checkpoint is kept."""
        self._saved = (0, time.perf_counter())
        """Round and time of the last checkpoint."""

    def train(self, resumed: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
        """Train on all rungs; return one summary for each rung. Ctrl-C or SIGTERM saves everything before it ends the run.

        resumed: the states of the rungs under way, as `take_up` returns them.
        """
        states = {state["index"]: state for state in resumed}
        for climbed in self._ahead():
            if climbed[0] > 0 and climbed[0] not in states:
                self.players.next_rung()
            self.rungs = [Rung(index, self.config, self.players, states.get(index)) for index in climbed]
            self._saved = self.rounds, time.perf_counter()
            try:
                self.summaries += self._climb()
            except (KeyboardInterrupt, SystemExit):
                if self._whole:
                    self.save()
                else:
                    note(f"what was under way is lost: resumed, the run goes on after round {self._saved[0]}")
                raise
            for rung in self.rungs:
                self.reporter.write_video(self.examiner, rung)
            self.reporter.write_artifacts(self.summaries)
            self.save()
        return self.summaries

    def _ahead(self) -> list[list[int]]:
        """Return the rungs that are not over, in lists of those that are trained on side by side."""
        rest = list(range(len(self.summaries), len(self.config.tasks)))
        return [rest] if self.config.together and rest else [[index] for index in rest]

    def _climb(self) -> list[dict[str, Any]]:
        """Train on the rungs until all are over; return their summaries."""
        self._begin()
        while playing := [rung for rung in self.rungs if not rung.over]:
            if self._checkpoint_due(playing):
                self.save()
            with self.signals.deferred():
                self._whole = False
                self.advance(playing)
                self._whole = True
            self.show("collect")
        self._school()
        self.show("evaluate")
        summaries = rung_summaries(self.rungs, self.players, self.examiner)
        self.reporter.log_calls(self.rungs[0])
        return summaries

    def _begin(self) -> None:
        """Evaluate the teacher alone before the first round."""
        if self.rungs[0].usage_before is not None:
            return
        before = []
        for rung in self.rungs:
            self.show("evaluate")
            before.append(self.examiner.success_and_return("teacher", rung.task))
            self.reporter.log_calls(rung)
        for rung, alone in zip(self.rungs, before, strict=True):
            rung.begin(alone, self.players.teacher.usage)

    def advance(self, playing: Sequence[Rung]) -> None:
        """Play a round, evaluate the students where that is due, and log the metrics."""
        began = time.perf_counter()
        rows = play_round(self.players, playing, self.show)
        seconds = (time.perf_counter() - began) / len(playing)
        for rung, row in zip(playing, rows, strict=True):
            rung.add_round(seconds)
            self.reporter.log_round(rung, row | self._evaluate_greedily(rung))

    def _evaluate_greedily(self, rung: Rung) -> dict[str, float]:
        """Evaluate the greedy student if that is due; confirm a success that was held on the reference environments."""
        if not self.players.arm.learn or not rung.curve.evaluation_due(rung.steps):
            return {}
        success = self.examiner.greedy_success(rung.task)
        rung.curve.add_evaluation(rung.steps, success)
        if rung.curve.holds(self.config.stop_at):
            self.show("evaluate")
            rung.confirm(self.examiner.success_and_return("student", rung.task)["success"])
        return {"success_greedy": success}

    def _school(self) -> None:
        """Fine-tune the LLM after the rungs, with a checkpoint after each step, as a step can take minutes."""
        if self.rungs[0].schooled:
            return
        self.save()
        more = True
        while more:
            self.show("schooling", self.schooling.describe())
            began = time.perf_counter()
            self._whole = False
            more = self.schooling.advance([rung.task for rung in self.rungs])
            seconds = (time.perf_counter() - began) / len(self.rungs)
            for rung in self.rungs:
                rung.add_schooling(seconds, over=not more)
            self._whole = True
            self.save()

    @property
    def rounds(self) -> int:
        """The number of rounds played on the present rungs."""
        return max(rung.rounds for rung in self.rungs)

    def _checkpoint_due(self, playing: Sequence[Rung]) -> bool:
        """Return whether to save now: a checkpoint is due, or the next round is long because it tunes the LLM."""
        tunes = self.players.arm.tune and steps.teaches(self.players, playing)
        rounds, seconds = self.rounds - self._saved[0], time.perf_counter() - self._saved[1]
        return rounds > 0 and (tunes or rounds >= CHECKPOINT_ROUNDS or seconds >= CHECKPOINT_SECONDS)

    def save(self) -> None:
        """Save a checkpoint."""
        success = sum(rung.curve.greedy or 0.0 for rung in self.rungs) / len(self.rungs)
        evaluated = (self.rungs[-1].index, success)
        best, self._best = evaluated >= self._best, max(evaluated, self._best)
        seconds = self.reporter.seconds

        def write(folder: Path) -> None:
            states = [rung.state() for rung in self.rungs]
            progress = {"rungs": states, "summaries": self.summaries, "best": self._best, "seconds": seconds}
            checkpoints.save(folder, self.players, self.schooling, progress)

        self.run.save_checkpoint(self._total_steps(), write, best)
        self._saved = self.rounds, time.perf_counter()

    def take_up(self, checkpoint: Path | None) -> list[dict[str, Any]]:
        """Restore a checkpoint, or begin anew if there is none yet; return the states of its rungs."""
        if checkpoint is None:
            self.run.rewind({})
            return []
        with reading(checkpoint):
            progress = checkpoints.load(checkpoint, self.players, self.schooling)
            self.summaries, self._best = progress["summaries"], tuple(progress["best"])
            self.reporter.go_on(progress["seconds"])
            states: list[dict[str, Any]] = progress["rungs"]
            rounds = {state["index"]: state["rounds"] for state in states}
        self.run.rewind(rounds)
        return states

    def _total_steps(self) -> int:
        """Return the environment steps over all rungs so far."""
        climbed = {rung.index: rung.steps for rung in self.rungs}
        return sum(({summary["rung"]: int(summary["steps"]) for summary in self.summaries} | climbed).values())

    def show(self, phase: str, detail: str = "") -> None:
        """Show the progress of the run."""
        self.reporter.show(self.rungs, phase, detail)


def train(
    config: Config, run: Run, progress: Callable[[Progress], None] | None = None, resume: bool = False
) -> list[dict[str, Any]]:
    """Train teacher and student as `config` says, write everything into `run`, and return one summary for each rung.

    resume: continue from the run's latest checkpoint, exactly as the run would have continued without the interruption (with
    EnvPool, whose episodes cannot be saved, new episodes begin). Raises KeyboardInterrupt or SystemExit(143) after saving, and
    CoteachError if another process trains this run.
    """
    with run.held():
        loop = Loop(config, run, progress)
        states = loop.take_up(run.latest_checkpoint()) if resume else []
        with loop.signals.handled():
            return loop.train(states)
