"""The command line on machines of every kind: it works there, or says in one line what is missing and how to mend it."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import coteach
from coteach.runs.run_folder import Run

pytestmark = pytest.mark.slow

ROOT = os.name == "posix" and os.getuid() == 0
TINY = [
    "--task",
    "MiniGrid-Empty-5x5-v0",
    "--arm",
    "no-llm",
    "--engine",
    "minigrid",
    "--steps",
    "64",
    "--envs",
    "4",
    "--threads",
    "1",
]
TINY += ["collect.horizon=8", "episodes=2", "evaluation.levels=2"]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that any user may enter and write."""
    folder = Path(tempfile.mkdtemp(prefix="coteach-machine-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """A finished run."""
    config = coteach.load(
        overrides=[
            "tasks=MiniGrid-Empty-5x5-v0", "arm=no-llm", "engine=minigrid", "steps=64", "collect.envs=4", "collect.horizon=8",
            "threads=1", "episodes=2", "evaluation.levels=2",
        ]
    )  # fmt: skip
    with Run.create(place / "trained", config) as run:
        coteach.train(config, run)
    return place / "trained"


def call(
    words: list[str], shell: str = "", before: str = "", unset: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Start `coteach` in a process of its own; shell: redirections; before: what the shell does first."""
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    command = f'{before} exec "$@" {shell}'
    return subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-m", "coteach", *words],
        env={**kept, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        timeout=300,
        check=False,
        cwd="/tmp",
    )


@dataclass(frozen=True)
class Machine:
    """What is special; error: what standard error must say, and code: the exit code."""

    env: dict[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    shell: str = ""
    before: str = ""
    code: int = 0
    error: str = ""


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
MACHINES = {
    "ASCII locale": Machine(env=ASCII),
    "narrow terminal": Machine(env={"COLUMNS": "20", "FORCE_COLOR": "1"}),
    "dumb terminal": Machine(env={"TERM": "dumb"}),
    "no terminal type": Machine(unset=("TERM",)),
    "no home": Machine(unset=("HOME", "COTEACH_CACHE", "XDG_CACHE_HOME")),
    "home that cannot be written": Machine(env={"HOME": "/proc/1"}, unset=("COTEACH_CACHE", "XDG_CACHE_HOME")),
    "closed input": Machine(shell="<&-"),
    "closed output": Machine(shell=">&-"),
    "closed errors": Machine(shell="2>&-"),
    "all closed": Machine(shell="<&- >&- 2>&-"),
    "full output": Machine(
        shell=">/dev/full", code=1, error="coteach: error: cannot write standard output: No space left on device"
    ),
    "full disk": Machine(before="ulimit -f 4;", code=1, error="coteach: error: cannot write"),
    "full errors": Machine(shell="2>/dev/full"),
    "a reader that leaves": Machine(shell="> >(true)"),
}
COMMANDS = {"memory": ["memory"], "doctor": ["doctor"], "train": ["train", *TINY], "eval": ["eval"]}
ONLY = {
    "memory": tuple(name for name in MACHINES if name != "full disk"),
    "doctor": ("home that cannot be written", "full output"),
    "eval": ("ASCII locale", "no home", "closed output"),
}
"""Where commands other than `train` are started too."""


@pytest.mark.parametrize(
    ("name", "command"),
    [(name, command) for name in MACHINES for command in COMMANDS if name in ONLY.get(command, MACHINES)],
)
def test_it_works_on_every_machine(name: str, command: str, trained: Path, tmp_path: Path) -> None:
    machine = MACHINES[name]
    words = list(COMMANDS[command])
    if command == "train":
        words += ["--out", str(tmp_path / "rün")]
    if command == "eval":
        words += [str(trained), "--episodes", "2"]
    done = call(words, machine.shell, machine.before, machine.unset, **machine.env)
    said = done.stdout + done.stderr
    assert b"Traceback" not in said and b"Exception ignored" not in said, said.decode(errors="replace")
    if name == "a reader that leaves":
        assert done.returncode in (0, 1)
    else:
        broken = name == "home that cannot be written" and command == "doctor"  # the LLM cannot be kept there, and it says so
        assert done.returncode == (1 if broken else machine.code), said.decode(errors="replace")
    assert machine.error in done.stderr.decode()
    if command == "train" and machine.code == 0:
        assert (tmp_path / "rün" / "summary.json").is_file()


def test_a_user_without_a_name_or_a_home_trains_and_evaluates(tmp_path: Path) -> None:
    """As in containers: nothing says where the home is. Played by taking the entry of this user away."""
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "COTEACH_CACHE", "XDG_CACHE_HOME", "USER")}
    nobody = "import pwd, sys\ndef none(uid): raise KeyError(uid)\npwd.getpwuid = none\n"
    program = nobody + "from coteach.commands.cli import script\nscript()"
    folder = str(tmp_path / "run")
    for words in (["train", *TINY, "--out", folder], ["eval", folder, "--episodes", "2"], ["memory"], ["doctor"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            env={**env, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    done = subprocess.run(
        [sys.executable, "-c", program, "eval", "~/run"], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2 and "set HOME" in done.stderr


@pytest.mark.skipif(ROOT and not shutil.which("setpriv"), reason="root can write everywhere, and setpriv is not there")
def test_an_installation_that_cannot_be_written_is_enough(place: Path) -> None:
    installed = place / "installed"
    shutil.copytree(Path(coteach.__file__).parents[1], installed, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [installed, *installed.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    done = as_reader(["train", *TINY, "--out", str(place / "elsewhere")], PYTHONPATH=str(installed))
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    for path in [installed, *installed.rglob("*")]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def as_reader(words: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    """Start `coteach` as a user who may not write what is marked as read-only; root gives up its right to do so."""
    before = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"] if ROOT else []
    return subprocess.run(
        [*before, sys.executable, "-m", "coteach", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd="/tmp",
    )


READING = {
    "eval": (["eval", "RUN", "--episodes", "2"], 0),
    "watch": (["watch", "RUN"], 1),
    "resume": (["train", "--resume", "RUN"], 1),
    "ask": (["ask", "RUN", "--situation", "1"], 0),
}


@pytest.mark.skipif(ROOT and not shutil.which("setpriv"), reason="root can write everywhere, and setpriv is not there")
@pytest.mark.parametrize(("words", "code"), READING.values(), ids=list(READING))
def test_a_run_folder_that_cannot_be_written_is_read_or_named(words: list[str], code: int, trained: Path, place: Path) -> None:
    folder = place / ("unfinished" if "--resume" in words else "finished")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained, folder)
    if "--resume" in words:
        (folder / "config.toml").write_text((folder / "config.toml").read_text().replace("steps = 64\n", "steps = 640\n"))
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    done = as_reader([word.replace("RUN", str(folder)) for word in words])
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    if code:
        assert len(done.stderr.strip().splitlines()) <= 2 and str(folder) in done.stderr and "Permission denied" in done.stderr
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_run_folder_elsewhere_is_the_same_run(how: str, trained: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    shutil.copytree(trained, tmp_path / "copy")
    (tmp_path / "copy").rename(elsewhere) if how == "moved" else shutil.copytree(tmp_path / "copy", elsewhere)
    here, there = (call(["eval", str(folder), "--episodes", "3", "--json"]) for folder in (trained, elsewhere))
    assert here.returncode == there.returncode == 0, there.stderr
    rows = [json.loads(done.stdout)["rows"] for done in (here, there)]
    assert rows[0] == rows[1]
    resumed = call(["train", "--resume", str(elsewhere)])
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((elsewhere / "summary.json").read_text())["rungs"][0]["steps"] >= 64


def test_settings_are_refused_when_a_run_goes_on(trained: Path) -> None:
    for setting in ("collect.envs=8", "threads=2"):
        done = call(["train", "--resume", str(trained), setting])
        assert done.returncode == 2 and b"goes on as its config.toml says" in done.stderr


def test_a_home_is_expanded_wherever_a_path_is_given(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_bytes(b'\xef\xbb\xbfarm = "no-llm"\n')
    done = call(["train", "--config=~/my.toml", *TINY, "--out=~/runs/x"], HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "x" / "summary.json").is_file() and not Path("/tmp/~").exists()
    assert call(["eval", "~/runs/x", "--episodes", "1"], HOME=str(tmp_path)).returncode == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        assert Run.create("~/runs/y", coteach.load()).folder == tmp_path / "runs" / "y" == Run.open("~/runs/y").folder


def test_a_home_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = call(["eval", "~nobody-of-this-name/run"])
    assert done.returncode == 2 and b"there is no home that ~ could stand for" in done.stderr
