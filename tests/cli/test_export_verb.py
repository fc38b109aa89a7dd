"""`coteach export`: what it says of what it wrote, and that wrong use is refused before anything is loaded or written."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from coteach.commands import cli

pytestmark = pytest.mark.slow

TASK = "BabyAI-GoToRedBallNoDists-v0"
SETTINGS = ["episodes=2", "evaluation.levels=4", "collect.horizon=32"]
SMALL = ["--task", TASK, "--envs", "8", "--threads", "1", "--steps", "256", *SETTINGS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main(["train", *SMALL, "--arm", "student-only", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coteach.commands.export.load_players", lambda run: pytest.fail("the players were loaded"))


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["export", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("coteach: error: ") and said.count("\n") == 1
    return said


def test_an_arm_without_an_llm_exports_its_student_and_says_so(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(finished), "--to", str(tmp_path / "out"), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["teacher"] == {"folder": None, "says": "the teacher 'uniform' is not a local language model"}
    assert found["student"]["folder"] == str(tmp_path / "out" / "student") and f"on {TASK}" in found["student"]["says"]
    assert found["files"].keys() == {f"student/student.{kind}" for kind in ("json", "onnx", "safetensors")}
    assert all((tmp_path / "out" / name).stat().st_size == size > 0 for name, size in found["files"].items())


def test_people_are_told_what_is_where(finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(finished), "--to", str(tmp_path / "out")]) == 0
    shown = capfd.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].startswith("no teacher: ") and lines[1].startswith("student: success rate of the student alone ")
    assert str(tmp_path / "out" / "student" / "student.onnx") in shown.out
    assert shown.err == "", "the exporter's own talk is not the user's concern"


@pytest.mark.usefixtures("not_loaded")
def test_a_folder_that_is_not_empty_is_refused_and_left_alone(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert f"{tmp_path} exists and is not empty: choose another --to" in refusal(capsys, str(finished), "--to", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("not_loaded")
def test_a_run_that_is_not_finished_is_refused(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = tmp_path / "half"
    shutil.copytree(finished, half)
    config = (half / "config.toml").read_text()
    (half / "config.toml").write_text(config.replace(f'tasks = ["{TASK}"', f'tasks = ["{TASK}", "MiniGrid-Unlock-v0"'))
    said = refusal(capsys, str(half), "--to", str(tmp_path / "out"))
    assert f"{half} is not finished: 1 of 2 rungs are done; continue with `coteach train --resume {half}`" in said
    (half / "summary.json").unlink()
    assert "0 of 2 rungs are done" in refusal(capsys, str(half), "--to", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_checkpoint_is_refused(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(finished, bare, ignore=shutil.ignore_patterns("step-*"))
    assert "has no whole checkpoint" in refusal(capsys, str(bare), "--to", str(tmp_path / "out"))


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
@pytest.mark.usefixtures("not_loaded")
def test_without_onnx_it_says_what_to_install(
    package: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    said = refusal(capsys, str(finished), "--to", str(tmp_path / "out"))
    assert f"needs the package {package}: pip install 'coteach[export]'" in said and not (tmp_path / "out").exists()


def test_a_run_with_neither_has_nothing_to_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "run")
    assert cli.main(["train", *SMALL, "--arm", "llm-only", "--teacher", "oracle", "--out", folder]) == 0
    capsys.readouterr()
    said = refusal(capsys, folder, "--to", str(tmp_path / "out"))
    assert "nothing to export: the teacher 'oracle' is not a local language model, and the arm 'llm-only' trains" in said


def test_a_place_that_cannot_be_written_is_a_failure(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(finished), "--to", "/proc/nowhere/out"]) == 1
    assert "cannot write /proc/nowhere/out: " in capsys.readouterr().err
