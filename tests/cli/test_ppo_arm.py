"""A run of the arm `ppo` is a run like any other: evaluated, exported, compared; its teacher, which it has not, is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from coteach.arms import ARMS
from coteach.commands import cli
from coteach.commands.common import load_players
from coteach.envs import levels
from coteach.grounding.base import Situations
from coteach.grounding.minigrid.raw import RawGrounding
from coteach.runs.run_folder import Run

TASK = "BabyAI-GoToRedBallNoDists-v0"
SMALL = ["--task", TASK, "--envs", "8", "--threads", "1", "--steps", "256", "episodes=2", "collect.horizon=32"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main(["train", *SMALL, "--arm", "ppo", "--out", str(folder)]) == 0
    return folder


def test_its_summary_has_no_teacher_and_its_evaluation_is_repeatable(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["arm"] == "ppo" and summary["teacher_success_before"] is summary["teacher_success_after"] is None
    assert summary["llm_queries"] == 0 and summary["situations"] == 1
    capsys.readouterr()
    assert cli.main(["eval", str(finished), "--episodes", "2", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["success"], row["return"]) == (summary["success"], summary["return"])


@pytest.mark.parametrize("verb", ["eval", "watch"])
def test_its_teacher_is_refused_in_a_line(verb: str, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, str(finished), "--who", "teacher"]) == 2
    said = capsys.readouterr().err
    assert "the arm 'ppo'" in said and "expected --who student" in said and said.count("\n") == 1


def test_its_student_is_filmed(finished: Path, tmp_path: Path) -> None:
    assert cli.main(["watch", str(finished), "--out", str(tmp_path / "film.gif")]) == 0
    assert (tmp_path / "film.gif").stat().st_size > 0


@pytest.mark.slow
def test_its_exported_student_acts_on_the_raw_observation(finished: Path, tmp_path: Path) -> None:
    assert cli.main(["export", str(finished), "--to", str(tmp_path / "out")]) == 0
    about = json.loads((tmp_path / "out/student/student.json").read_text())
    assert about["feature_layout"] == RawGrounding.feature_layout() and about["feature_size"] == RawGrounding.layout.size
    level = levels.find(TASK)
    shown = level.pack([level.new().reset(seed=seed)[0] for seed in range(20)])
    now = RawGrounding(20, Situations()).observe(shown, None, np.ones(20, dtype=np.bool_))
    session = onnxruntime.InferenceSession(tmp_path / "out/student/student.onnx")
    logits = session.run(["logits"], {"features": now.features})[0]
    with Run.open(finished) as run:
        learner = load_players(run).students[0].learner
    assert np.array_equal(logits.argmax(axis=1), learner.greedy(now.features))


def test_help_has_every_arm_once_in_a_line_that_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    shown = capsys.readouterr().out
    listed = shown.partition("\narms:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split(maxsplit=1) for line in listed] == [[name, arm.description] for name, arm in ARMS.items()]
    assert all(shown.count(name) == 1 for name in ARMS if "-" in name)
