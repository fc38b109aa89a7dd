"""Runs of a comparison as processes: so many at once, watched through their metrics, stopped so that they can go on.

Each run is one `coteach train`. A signal that ends the comparison is passed on to the runs, which save and are waited for.
One comparison of a name goes on at a time: a lock that its runs hold as well, should they outlive it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from coteach.experiments.compare import Job
from coteach.runs import jsonl
from coteach.runs.lock import held
from coteach.runs.signals import Signals

PROGRAM = (sys.executable, "-m", "coteach")

POLL = 0.5
"""Seconds between two looks at the runs."""


@dataclass(frozen=True)
class State:
    """Where a run stands. `steps` of `total` count all its rungs; `rate` is in steps per second, None before its first round."""

    job: Job
    steps: int
    total: int
    success: float | None
    rate: float | None


@dataclass(frozen=True)
class Standing:
    """Where the comparison stands: runs under way, runs done of all, and how many wait."""

    running: Sequence[State]
    done: int
    total: int
    waiting: Sequence[Job]
    workers: int

    @property
    def seconds_left(self) -> float | None:
        """At most this long, at the present rates; None while no run has one."""
        rates = [state.rate for state in self.running if state.rate]
        if not rates:
            return None
        steps = sum(state.total - state.steps for state in self.running) + sum(_budget(job) for job in self.waiting)
        return steps / (sum(rates) / len(rates)) / min(self.workers, len(self.running) + len(self.waiting))


@dataclass(frozen=True)
class Ended:
    """A run that is over: `error` is None, or why it failed."""

    job: Job
    error: str | None


class Pool:
    """Runs jobs, `workers` at once; `report` is called at every look, `ended` for each run that is over."""

    def __init__(self, workers: int, report: Callable[[Standing], None], ended: Callable[[Ended], None]) -> None:
        self.workers, self.report, self.ended = workers, report, ended
        self.running: dict[Job, subprocess.Popen[bytes]] = {}

    def run(self, jobs: Sequence[Job], done: int, lock: IO[str]) -> None:
        """Run all `jobs`; `done` others were done before. On Ctrl-C or SIGTERM the runs save, are waited for, and it raises."""
        waiting, total = deque(jobs), done + len(jobs)
        signals = Signals()
        with signals.handled():
            try:
                while waiting or self.running:
                    with signals.deferred():  # no run may begin and not be known of, nor end and not be kept
                        done += self._reap()
                        while waiting and len(self.running) < self.workers:
                            job = waiting.popleft()
                            self.running[job] = _start(job, lock)
                    self.report(Standing([_state(job) for job in self.running], done, total, list(waiting), self.workers))
                    if self.running:
                        time.sleep(POLL)
            finally:
                self._stop(signal.SIGTERM if isinstance(sys.exception(), SystemExit) else signal.SIGINT)

    def _reap(self) -> int:
        """Report the runs that are over; returns how many."""
        over = [job for job, process in self.running.items() if process.poll() is not None]
        for job in over:
            code = self.running.pop(job).returncode
            self.ended(Ended(job, None if code == 0 else f"exit code {code}: {_last_words(job)}"))
        return len(over)

    def _stop(self, number: int) -> None:
        """Pass the signal on to whatever still runs, and wait; a second Ctrl-C is passed on too."""
        while self.running:
            print(f"waiting until the {len(self.running)} runs under way have saved", file=sys.stderr, flush=True)
            for process in self.running.values():
                process.send_signal(number)
            try:
                for process in self.running.values():
                    process.wait()
                self.running.clear()
            except KeyboardInterrupt:
                continue


@contextmanager
def locked(runs: Path, results: Path) -> Iterator[IO[str]]:
    """Hold a comparison's folder of runs and its folder of results, made if need be; yields the lock that the runs hold too.

    Nobody else writes to either meanwhile: `CoteachError` where another process holds one.
    """
    with ExitStack() as stack:
        distinct = {folder.resolve(): folder for folder in (runs, results)}
        yield [stack.enter_context(_held(folder)) for folder in distinct.values()][0]


def _held(folder: Path) -> AbstractContextManager[IO[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    under_way = f"{folder}: another comparison of this name is under way, or a run of it"
    return held(folder / ".lock", lambda holder: f"{under_way} ({holder} began it); wait for it, or choose another --name")


def _start(job: Job, lock: IO[str]) -> subprocess.Popen[bytes]:
    """Begin or resume a run. In a process group of its own, it hears Ctrl-C from here only: twice would tear its round."""
    log = _log(job)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        return subprocess.Popen(
            [*PROGRAM, *job.command()],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            process_group=0,
            pass_fds=(lock.fileno(),),
        )


def _log(job: Job) -> Path:
    """What the run says; beside its folder, which a run that learned nothing takes away again."""
    return job.folder.with_name(f"{job.folder.name}.log")


def _last_words(job: Job) -> str:
    """The last line that says what went wrong, and where the others are."""
    lines = [line.strip() for line in _log(job).read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line] or lines or ["it said nothing"]
    return f"{errors[-1]} (all of it: {_log(job)})"


def _state(job: Job) -> State:
    row = jsonl.last(job.folder / "metrics.jsonl")
    steps = min(row.get("steps", 0), job.config.steps)
    # Rungs that are climbed side by side are about equally far.
    steps = steps * len(job.config.tasks) if job.config.together else row.get("rung", 0) * job.config.steps + steps
    return State(job, steps, _budget(job), row.get("success_student"), row.get("steps_per_second"))


def _budget(job: Job) -> int:
    return job.config.steps * len(job.config.tasks)
