"""A run killed at any moment, or stopped by its disk, keeps a whole checkpoint to go on from."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coteach.commands import cli
from coteach.config import Config
from coteach.errors import CoteachError, RunFailed
from coteach.runs.checkpoints import intact
from coteach.runs.run_folder import Run
from killing import EVERY, killed_and_resumed, writers_killed
from whole_runs import DOOR_KEY, fingerprint, full_disk, play, rounds

pytestmark = pytest.mark.slow

SAVE_FOR_EVER = """
import sys
from pathlib import Path
from coteach.runs.run_folder import Run

def write(folder):
    for part in range(8):
        (folder / f"{part}.bin").write_bytes(bytes([part]) * 200_000)

run, step = Run.open(Path(sys.argv[1])), int(sys.argv[2])
while True:
    step += 1
    run.save_checkpoint(step, write)
    run.write_json("summary.json", {"step": step, "padding": list(range(1000))})
    print(step, flush=True)
"""


def run_code(code: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True)


def test_a_run_killed_while_it_saves_has_a_whole_checkpoint(tmp_path: Path) -> None:
    import json

    folder = Run.create(tmp_path / "run", Config()).folder
    chance, reached = random.Random(0), 0
    for _ in range(6):
        process = run_code(SAVE_FOR_EVER, str(folder), str(reached))
        assert process.stdout is not None
        reached = int(process.stdout.readline())
        time.sleep(chance.uniform(0.0, 0.2))
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        reached = int(rest.split()[-1]) if rest.split() else reached

        latest = Run.open(folder).latest_checkpoint()
        assert latest is not None and int(latest.name.removeprefix("step-")) >= reached
        assert all(intact(path) for path in (folder / "checkpoints").glob("step-*"))
        assert json.loads((folder / "summary.json").read_text())["step"] >= reached


SHORT = (f"tasks={DOOR_KEY}", "arm=no-llm", "steps=520")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `SHORT` that nothing happened to."""
    return play(tmp_path_factory.mktemp("whole") / "run", *SHORT)


def test_a_training_killed_at_random_moments_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Every kill costs at most what came after the last checkpoint, and the weights at the end are the same to the last bit."""
    settings = (f"tasks={DOOR_KEY}", "arm=no-llm", "steps=1500")
    whole = play(tmp_path / "whole", *settings)
    lost = killed_and_resumed(tmp_path / "killed", settings, kills=4, chance=random.Random(1), longest=1.2)
    assert len(lost) >= 3 and max(lost) <= EVERY + 1, "rounds lost: those since the last checkpoint, and the one that was due"
    assert rounds(tmp_path / "killed") == rounds(whole) and fingerprint(tmp_path / "killed") == fingerprint(whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_fills_up_at_any_write_costs_no_checkpoint(whole: Path, tmp_path: Path) -> None:
    with full_disk(after=10**9) as disk:
        play(tmp_path / "counted", *SHORT)
    writes = disk.written
    assert writes > 40  # counted after `whole`: the first run of a process also fills caches
    for after in (0, writes // 3, writes // 2, writes - 1):
        folder = tmp_path / str(after)
        with full_disk(after), pytest.raises(RunFailed if after else CoteachError) as failed:
            play(folder, *SHORT)
        assert str(folder) in str(failed.value)
        assert all(intact(path) for path in (folder / "checkpoints").glob("step-*"))
        play(folder, *SHORT)
        assert rounds(folder) == rounds(whole) and fingerprint(folder) == fingerprint(whole)


def test_on_a_full_disk_the_program_ends_with_one_line_and_code_1(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    latest = Run.open(folder).latest_checkpoint()
    with full_disk(after=0):
        assert cli.main(["train", "--resume", str(folder)]) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1 and str(folder) in error[0] and "No space left" in error[0] and "Traceback" not in error[0]
    assert Run.open(folder).latest_checkpoint() == latest


def test_two_writers_killed_in_turn_leave_a_memory_that_is_readable_and_right(tmp_path: Path) -> None:
    assert writers_killed(tmp_path / "answers.sqlite3", kills=6, chance=random.Random(0)) > 100
