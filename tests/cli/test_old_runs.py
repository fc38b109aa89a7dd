"""A run of an older version is refused by every verb in one line: what it is, and the version that reads it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from coteach import config
from coteach.commands import cli
from coteach.errors import CoteachError
from coteach.runs.run_folder import FORMAT, Run
from coteach.version import __version__

REVISION = "c42cf0bbb936f0d3d45f4381a18a472a47f52186"

ENVIRONMENT = {
    "python": "3.11.7", "packages": {"coteach": "0.1.0", "torch": "2.13.0+cpu"}, "system": "Linux", "processor": "a processor",
    "cores": 2, "threads": 1, "engine": "auto", "revision": REVISION,
}  # fmt: skip

SETTINGS = 'tasks = ["MiniGrid-UnlockPickup-v0"]\narm = "no-llm"\nsteps = 300\n'
"""Every version so far has these."""

TOLD = '\n[teacher]\ntell = "both"\ntell_tokens = 256\n'
"""Settings that had these names in 0.1.0."""

VERBS = {
    "resume": ["train", "--resume", "RUN"],
    "eval": ["eval", "RUN", "--episodes", "1"],
    "ask": ["ask", "RUN", "--situation", "0"],
    "watch": ["watch", "RUN"],
    "export": ["export", "RUN", "--to", "exported"],
}


def old_run(folder: Path, settings: str = SETTINGS, checkpoint: bool = True) -> Path:
    """A run folder as coteach 0.1.0 left it, with the least that it has in it."""
    folder.mkdir()
    (folder / "config.toml").write_text(settings)
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (folder / "metrics.jsonl").write_text('{"rung": 0, "round": 1, "steps": 300, "success_alone": 0.1}\n')
    (folder / "advice.jsonl").write_text('{"situation": "You see a door.", "options": ["open"], "tries": [1]}\n')
    if checkpoint:
        path = folder / "checkpoints" / "step-000000000300"
        path.mkdir(parents=True)
        (path / "progress.json").write_text("{}")
        sums = {"progress.json": hashlib.sha256(b"{}").hexdigest()}
        (path / "manifest.json").write_text(json.dumps({"format": 3, "coteach": "0.1.0", "files": sums}))
    return folder


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("settings", "checkpoint"), [(SETTINGS, True), (SETTINGS, False), (SETTINGS + TOLD, True)])
def test_a_run_of_0_1_is_refused_with_the_version_that_reads_it(
    verb: str,
    settings: str,
    checkpoint: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    old_run(tmp_path / "old", settings, checkpoint)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert cli.main(["old" if word == "RUN" else word for word in VERBS[verb]]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.splitlines() == [
        f"coteach: error: old: made by coteach 0.1.0 (revision {REVISION}), in format 3 or older; "
        f"this is coteach {__version__} and reads format {FORMAT}: use coteach 0.1.0, which made it"
    ]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before, "nothing is changed in it"


def made_by(folder: Path, **changed: object) -> Path:
    """A run of this version, but for what its environment.json says."""
    path = Run.create(folder, config.load(None, ["seed=5"])).folder / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    return folder


def test_a_run_of_a_later_format_is_refused_too(tmp_path: Path) -> None:
    run = made_by(tmp_path / "run", format=FORMAT + 1, coteach="9.0", revision=None)
    with pytest.raises(CoteachError, match=rf"made by coteach 9.0, in format {FORMAT + 1}; .*: use coteach 9.0, which made it"):
        Run.open(run)


def test_another_version_of_the_same_format_is_read(tmp_path: Path) -> None:
    assert Run.open(made_by(tmp_path / "run", coteach="9.0")).config.seed == 5


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"packages": 3}', "[" * 100_000])
def test_a_run_that_does_not_say_what_made_it_is_refused(text: str | None, tmp_path: Path) -> None:
    path = made_by(tmp_path / "run") / "environment.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(CoteachError, match="run: its environment.json is missing or damaged, .* another --out$"):
        Run.open(tmp_path / "run")


def test_the_version_is_said_in_one_place(capsys: pytest.CaptureFixture[str]) -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "coteach.version.__version__"}
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == f"coteach {__version__}"
