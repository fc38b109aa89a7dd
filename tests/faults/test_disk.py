"""Disks that refuse, for real: folders that may not be written, places where none can be made, files that may not grow."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coteach.commands import cli
from coteach.runs.checkpoints import intact
from coteach.runs.run_folder import Run
from whole_runs import DOOR_KEY, fingerprint, interrupting, play, small

pytestmark = pytest.mark.slow

SETTINGS = (f"tasks={DOOR_KEY}", "arm=no-llm", "steps=520")
_CAPABILITIES = 0x20080522  # the version of the interface: linux/capability.h


def _as_anybody() -> None:
    """Root may write everywhere: give that up."""
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, none) == 0


def _small_files() -> None:
    """No file may grow beyond 40 kB; a checkpoint has larger ones."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


def coteach(prepare: Callable[[], None], said: Path, *words: str) -> tuple[int, list[str]]:
    """Run the program in a child that has made itself ready so; its exit code, and what it said of errors."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            sys.stderr = said.open("w", encoding="utf-8", buffering=1)
            prepare()
            with small([DOOR_KEY]):
                code = cli.main(list(words))
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    lines = said.read_text().splitlines()
    assert not any("Traceback" in line for line in lines)
    return os.waitstatus_to_exitcode(status), [line for line in lines if "error:" in line]


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        yield
    finally:
        for path in folders:
            path.chmod(0o755)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return play(tmp_path_factory.mktemp("whole") / "run", *SETTINGS)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run that was stopped after its first round."""
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path / "run", *SETTINGS, display=interrupting([("collect", 1)]))
    return tmp_path / "run"


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_a_run_in_a_folder_that_may_not_be_written_fails_in_one_line_and_can_be_resumed(
    begun: Path, whole: Path, tmp_path: Path
) -> None:
    with read_only(begun):
        code, errors = coteach(_as_anybody, tmp_path / "said", "train", "--resume", str(begun))
    assert code == 1 and len(errors) == 1
    assert f"cannot write {begun}/" in errors[0] and "Permission denied; mend that and use --resume" in errors[0]
    assert fingerprint(play(begun)) == fingerprint(whole)


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_a_run_that_may_not_be_written_may_still_be_looked_at(whole: Path, tmp_path: Path) -> None:
    with read_only(whole):
        assert coteach(_as_anybody, tmp_path / "said", "eval", str(whole), "--episodes", "1") == (0, [])


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities, and /proc, are Linux's")
def test_where_no_folder_can_be_made_it_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "file").write_text("")
    with read_only(tmp_path / "closed"):
        for place, why in (
            (tmp_path / "closed", "Permission denied"),
            (tmp_path / "file", "Not a directory"),
            (Path("/proc/self"), "No such file or directory"),
        ):
            code, errors = coteach(_as_anybody, tmp_path / "said", "train", "--task", DOOR_KEY, "--out", str(place / "run"))
            assert code == 2 and errors == [f"coteach: error: cannot make {place / 'run'}: {why}; choose another --out"]


def test_files_that_may_not_grow_end_the_run_in_one_line_and_cost_no_checkpoint(begun: Path, whole: Path, tmp_path: Path) -> None:
    latest = Run.open(begun).latest_checkpoint()
    assert latest is not None and max(path.stat().st_size for path in latest.rglob("*")) > 40_000
    code, errors = coteach(_small_files, tmp_path / "said", "train", "--resume", str(begun))
    assert code == 1 and len(errors) == 1
    assert f"cannot write {begun / 'checkpoints'}" in errors[0] and "File too large; mend that and use --resume" in errors[0]
    assert Run.open(begun).latest_checkpoint() == latest and intact(latest)
    assert not list((begun / "checkpoints").glob(".partial-*"))
    assert fingerprint(play(begun)) == fingerprint(whole)
