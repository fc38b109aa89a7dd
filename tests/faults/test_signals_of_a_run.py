"""Ctrl-C and SIGTERM on a program that trains: it saves and ends in time, with the right code, even in a call that hangs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from coteach.commands import cli
from coteach.grounding.base import Situation
from coteach.method import loop, players
from coteach.runs import signals
from coteach.runs.run_folder import Run
from coteach.teacher.scripted import UniformTeacher

pytestmark = pytest.mark.slow


class Slow(UniformTeacher):
    """Stands in for an LLM: in training its calls hang where it `hangs`, in a thread that cannot be stopped."""

    name, tunable, hangs = "slow", False, False

    def advise(self, situations: Sequence[Situation]) -> Any:
        if self.hangs and sys._getframe(2).f_code.co_name == "query":
            with ThreadPoolExecutor(1) as pool:
                pool.submit(self._call_for_ever).result()
        return super().advise(situations)

    @staticmethod
    def _call_for_ever() -> None:
        print("calling", file=sys.stderr, flush=True)
        threading.Event().wait()


class Program:
    """`coteach train` as a process of its own; it shares what this one has loaded, which takes far longer than a signal."""

    def __init__(self, folder: Path, hangs: bool, grace: float = 600.0) -> None:
        """grace: seconds that a round may take to end after a signal, and the way out after that."""
        reading, writing = os.pipe()
        self.number = os.fork()
        if self.number == 0:
            signals.GRACE = signals.TEARDOWN = grace
            _train(folder, hangs, writing)
        os.close(writing)
        self.said = os.fdopen(reading, encoding="utf-8")

    def read_until(self, word: str) -> None:
        assert any(word in line for line in self.said), f"never said {word!r}"

    def signal(self, number: int) -> None:
        os.kill(self.number, number)

    def wait(self) -> tuple[int, str]:
        """Its exit code and the last that it said, when it has ended; one that hangs is killed, which is another code."""
        guard = threading.Timer(120.0, os.kill, (self.number, signal.SIGKILL))
        guard.start()
        _, status = os.waitpid(self.number, 0)
        guard.cancel()
        with self.said:
            return os.waitstatus_to_exitcode(status), self.said.read()


def _train(folder: Path, hangs: bool, stderr: int) -> NoReturn:
    """The child: what a terminal would run, a teacher put in."""
    os.dup2(stderr, 2)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Slow.hangs = hangs
    assert loop, "imported before the fork"
    players.make_teacher = lambda *given: Slow()
    words = ["--task", "MiniGrid-DoorKey-5x5-v0", "--arm", "one-way", "--engine", "minigrid", "--threads", "1"]
    sys.argv[1:] = [
        "train",
        *words,
        "--out",
        str(folder),
        "--envs",
        "8",
        "--steps",
        "1000000",
        "episodes=1",
        "evaluation.levels=1",
    ]
    try:
        cli.script()
    finally:
        os._exit(99)  # not by pytest's way out


def children(process: int) -> list[str]:
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_between_calls_saves_and_ends(number: int, code: int, tmp_path: Path) -> None:
    program = Program(tmp_path / "run", hangs=False)
    program.read_until("collect")
    time.sleep(0.3)
    before = Run.open(tmp_path / "run").metrics()
    assert not children(program.number)
    program.signal(number)
    ended, said = program.wait()
    latest = Run.open(tmp_path / "run").latest_checkpoint()
    assert ended == code
    assert latest is not None and f"go on with: coteach train --resume {tmp_path / 'run'}" in said and "Traceback" not in said
    assert int(latest.name.removeprefix("step-")) >= before[-1]["steps"], "nothing is lost"


def test_the_first_ctrl_c_ends_even_a_call_that_never_does(tmp_path: Path) -> None:
    program = Program(tmp_path / "run", hangs=True, grace=0.5)
    program.read_until("calling")
    program.signal(signal.SIGINT)
    ended, said = program.wait()
    assert ended == 130 and "Traceback" not in said and "--resume goes on from the last checkpoint" in said
    run = Run.open(tmp_path / "run")
    latest = run.latest_checkpoint()
    assert latest is None or int(latest.name.removeprefix("step-")) <= run.metrics()[-1]["steps"], "no torn round is kept"


@pytest.mark.parametrize("hangs", [True, False])
def test_the_second_ctrl_c_ends_it_at_once(hangs: bool, tmp_path: Path) -> None:
    """In a call that never ends; and in the midst of work, when the first may have it saving."""
    program = Program(tmp_path / "run", hangs)
    program.read_until("calling" if hangs else "collect")
    program.signal(signal.SIGINT)
    time.sleep(0.5 if hangs else 0.02)
    program.signal(signal.SIGINT)
    ended, said = program.wait()
    assert ended == 130 and "Traceback" not in said
