"""Two processes that would train one run: the second is refused at once, in one line, and touches nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coteach.commands import cli
from coteach.errors import CoteachError
from coteach.runs import lock
from coteach.runs.run_folder import Run
from whole_runs import DOOR_KEY, config, fingerprint, interrupting, play

pytestmark = pytest.mark.slow

SETTINGS = (f"tasks={DOOR_KEY}", "arm=no-llm", "steps=600")


def holder(run: Path) -> int:
    """A child that holds a run as one that trains it does; it shares what this process has loaded."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with Run.open(run).held():
            os.write(writing, b".")
            time.sleep(60)
        os._exit(0)
    assert os.read(reading, 1) == b"."
    os.close(reading), os.close(writing)
    return child


def ended(child: int, number: int) -> None:
    os.kill(child, number)
    os.waitpid(child, 0)


@pytest.mark.filterwarnings("ignore:the round under way")
def test_a_run_that_is_being_trained_is_not_taken_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = play(tmp_path / "whole", *SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path / "run", *SETTINGS, display=interrupting([("collect", 1)]))
    child = holder(tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert cli.main(["train", "--resume", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"coteach: error: {tmp_path / 'run'}: process {child} is training this run; wait until it has ended, or `kill` that "
        "process (it saves first), and try again"
    ]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    ended(child, signal.SIGKILL)
    assert fingerprint(play(tmp_path / "run")) == fingerprint(whole), "the kernel took the lock from the one that died"


def test_a_run_that_has_not_learned_anything_yet_is_left_where_it_is(tmp_path: Path) -> None:
    """Where nothing was learned the folder is taken away again, but by the one that made it."""
    run = Run.create(tmp_path / "run", config(*SETTINGS)).folder
    child = holder(run)
    assert cli.main(["train", "--resume", str(run)]) == 2
    assert cli.main(["train", "--out", str(run)]) == 2
    assert (run / "config.toml").is_file()
    ended(child, signal.SIGTERM)


def test_a_run_that_is_being_trained_may_be_looked_at(tmp_path: Path) -> None:
    run = play(tmp_path / "run", *SETTINGS)
    child = holder(run)
    assert Run.open(run).metrics() and Run.open(run).latest_checkpoint()
    assert cli.main(["eval", str(run), "--episodes", "1"]) == 0
    ended(child, signal.SIGTERM)


def test_of_two_programs_that_resume_a_run_at_once_one_trains_it(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", config(*SETTINGS, "steps=1000000")).folder
    words = [sys.executable, "-m", "coteach", "train", "--resume", str(run)]
    both = [subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) for _ in range(2)]
    while all(process.poll() is None for process in both):
        time.sleep(0.02)
    refused, trains = both if both[0].poll() is not None else reversed(both)
    assert trains.poll() is None
    trains.kill()
    _, said = refused.communicate()
    trains.communicate()
    assert refused.returncode == 2 and f"process {trains.pid} is training this run" in said


@pytest.mark.parametrize(("said", "holder"), [("4711", "^process 4711$"), ("", "^another process$")])
def test_who_has_only_just_taken_a_lock_says_who_it_is_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, holder: str
) -> None:
    path = tmp_path / "lock"
    with lock.held(path, str):
        assert path.read_text() == str(os.getpid())
        path.write_text("")
        waits = iter((lambda: None, lambda: path.write_text(said)))
        monkeypatch.setattr(time, "sleep", lambda seconds: next(waits, lambda: None)())
        with pytest.raises(CoteachError, match=holder), lock.held(path, str):
            pass
    with lock.held(path, str):
        pass
