"""`coteach train` resolves what it was told, runs the loop, and never leaves its user without a way on."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from coteach.commands import cli
from coteach.config import Config
from coteach.errors import CoteachError, RunFailed
from coteach.runs.progress import Progress
from coteach.runs.run_folder import Run

Train = Callable[[Config, Run, Callable[[Progress], None], bool], list[dict[str, Any]]]


def summary(task: str) -> dict[str, Any]:
    return {
        "task": task,
        "success": 0.975,
        "steps_to_80": 40_960,
        "steps_to_95": None,
        "teacher_success_before": 0.12,
        "teacher_success_after": 0.9,
        "llm_queries": 123, "llm_total": {"queries": 123, "calls": 40},
        "wall_seconds": 61.4, "train_seconds": 40.0, "llm_seconds": 6.0, "tune_seconds": 10.0, "peak_memory_mib": 1536,
    }  # fmt: skip


def learn(config: Config, run: Run, progress: Callable[[Progress], None], resume: bool) -> list[dict[str, Any]]:
    """A loop that logs one round a rung."""
    for rung, task in enumerate(config.tasks):
        progress(Progress(rung, len(config.tasks), task, 64, config.steps, "collect", None, 0.5, 3, 1.0, 64.0))
        run.log(
            {
                "rung": rung,
                "task": task,
                "round": 1,
                "steps": 64,
                "success_student": 0.5,
                "success_controlled": None,
                "llm_queries": 3,
            }
        )
    rungs = [summary(task) for task in config.tasks]
    run.write_json("summary.json", rungs[-1] | {"rungs": rungs})
    return rungs


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Stands in for the loop, so that only the shell around it is tested; the working directory is empty."""
    import coteach.method

    module = ModuleType("coteach.method.loop")
    module.train = learn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "coteach.method.loop", module)
    monkeypatch.setattr(coteach.method, "loop", module, raising=False)
    monkeypatch.chdir(tmp_path)
    return module


def ending_with(error: BaseException, saved: bool) -> Train:
    def train(config: Config, run: Run, progress: Callable[[Progress], None], resume: bool) -> list[dict[str, Any]]:
        if saved:
            learn(config, run, progress, resume)
            run.save_checkpoint(64, lambda folder: None)
        raise error

    return train


def dry(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert cli.main(["train", "--dry-run", *words]) == 0
    return tomllib.loads(capsys.readouterr().out)


def test_flags_and_overrides_reach_the_configuration_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    config = dry(
        capsys, "student.epochs=3", "--task", "A", "--task", "B", "--arm", "uniform", "--steps", "5000", "student.clip=0.1",
        "--envs", "8", "--seed", "3", "--threads", "1", "--device", "cpu", "--teacher", "hf:x", "--engine", "minigrid", "seed=4",
    )  # fmt: skip
    assert config["tasks"] == ["A", "B"]
    assert (config["arm"], config["steps"], config["threads"], config["engine"]) == ("uniform", 5000, 1, "minigrid")
    assert config["seed"] == 4, "an override of a field has the last word"
    assert (config["student"]["epochs"], config["student"]["clip"], config["collect"]["envs"]) == (3, 0.1, 8)
    assert config["teacher"]["spec"] == "hf:x"
    assert config["student"]["device"] == config["teacher"]["device"] == "cpu"


def test_a_dry_run_writes_nothing_and_its_json_is_json(
    loop: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["student"]["gamma"] == Config().student.gamma
    assert not list(tmp_path.iterdir())


def test_help_names_the_usual_settings_and_where_all_of_them_are(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", flag])
        assert ended.value.code == 0
        shown.append(capsys.readouterr().out)
    usual, every = shown
    assert "student.learning_rate=" in usual and "--help-all" in usual and "evidence.action_gap=" not in usual
    assert "student.learning_rate=" in every and "evidence.action_gap=" in every


def test_a_run_ends_with_a_table_of_its_rungs_and_leaves_plots(loop: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--task", "MiniGrid-Unlock-v0", "--task", "MiniGrid-UnlockPickup-v0", "--arm", "uniform"]
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    folder = Path("runs/MiniGrid-Unlock-v0+1-uniform-0")
    assert f"run directory: {folder}" in shown.err and "rung 2/2 MiniGrid-UnlockPickup-v0: 64/100,000 steps" in shown.err
    rows = [" ".join(line.split()) for line in shown.out.splitlines() if line.startswith("MiniGrid")]
    assert rows[1] == "MiniGrid-UnlockPickup-v0 12 % 90 % 97.5 % 41.0k - 123 1m01s"
    assert (folder / "plots" / "success.png").stat().st_size > 10_000
    assert str(folder) in shown.out


def test_with_json_stdout_is_json_only(loop: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--json", "--out", "here"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["run"] == "here" and answer["rungs"][0]["success"] == 0.975


def test_a_run_is_not_overwritten_and_the_way_out_is_named(loop: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--out", "here"]) == 0
    assert cli.main(["train", "--out", "here"]) == 2
    assert "here exists and is not empty: choose another --out, or go on with --resume here" in capsys.readouterr().err


def test_a_misspelt_task_is_refused_before_anything_is_made(
    loop: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--task", "MiniGrid-Unlock-v0", "--task", "MiniGrid-UnlokPickup-v0"]) == 2
    assert "did you mean 'MiniGrid-UnlockPickup-v0'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143), (RunFailed("cannot write x: disk full"), 1)]
)
def test_a_run_that_stops_after_saving_says_how_to_go_on(
    loop: ModuleType, error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    loop.train = ending_with(error, saved=True)  # type: ignore[attr-defined]
    assert exit_code(["train", "--out", "my run"]) == code
    assert "go on with: coteach train --resume 'my run'" in capsys.readouterr().err
    resumed: list[bool] = []

    def train(config: Config, run: Run, progress: Callable[[Progress], None], resume: bool) -> list[dict[str, Any]]:
        resumed.append(resume)
        return learn(config, run, progress, resume)

    loop.train = train  # type: ignore[attr-defined]
    assert exit_code(["train", "--resume", "my run"]) == 0
    assert resumed == [True]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), CoteachError("no LLM: pip install it"), RunFailed("no memory")])
def test_a_run_that_learned_nothing_leaves_nothing_so_that_the_same_command_works_again(
    loop: ModuleType, error: BaseException
) -> None:
    loop.train = ending_with(error, saved=False)  # type: ignore[attr-defined]
    assert exit_code(["train", "--out", "here"]) in (1, 2, 130)
    assert not Path("here").exists()
    loop.train = learn  # type: ignore[attr-defined]
    assert exit_code(["train", "--out", "here"]) == 0


@pytest.mark.parametrize("words", [["--arm", "uniform"], ["student.epochs=3"], ["--out", "there"], ["--task", "A"]])
def test_a_resumed_run_keeps_its_configuration(loop: ModuleType, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--out", "here"]) == 0
    assert cli.main(["train", "--resume", "here", *words]) == 2
    assert "--resume here goes on as its config.toml says" in capsys.readouterr().err


def exit_code(words: list[str]) -> int:
    try:
        return cli.main(words)
    except SystemExit as left:
        assert isinstance(left.code, int)
        return left.code
