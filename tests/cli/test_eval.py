"""`coteach eval`: what a run's LLM has learned, on tasks it was tuned on and others, and what that cost it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_lm
from coteach.commands import cli
from coteach.commands.evaluate import TEACHER_COLUMNS
from coteach.runs.run_folder import Run

pytestmark = pytest.mark.slow

TUNED, OTHER = "BabyAI-GoToRedBallNoDists-v0", "MiniGrid-Unlock-v0"
SETTINGS = ["episodes=2", "evaluation.levels=4", "collect.horizon=32"]
SMALL = ["--task", TUNED, "--envs", "8", "--threads", "1", "--steps", "1000", *SETTINGS]
TEACHER = ["teacher.tune_every=2", "teacher.tune_steps=2", "teacher.tune_situations=2", "teacher.lora_learning_rate=0.05"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `mutual` whose LLM, a tiny one, was tuned."""
    folder = tmp_path_factory.mktemp("runs")
    tiny_lm.model(dtype=torch.float32).save_pretrained(folder / "tiny")
    tiny_lm.tokenizer().save_pretrained(folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COTEACH_CACHE", str(folder / "cache"))
        words = ["train", *SMALL, *TEACHER, "--teacher", f"hf:{folder / 'tiny'}", "--out", str(folder / "run")]
        assert cli.main(words) == 0
    assert any("tune_lessons" in row for row in Run.open(folder / "run").metrics())
    return folder / "run"


@pytest.fixture(autouse=True)
def cache(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTEACH_CACHE", str(finished.parent / "cache"))


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(list(words)) == 2
    return capsys.readouterr().err


def test_the_teacher_is_shown_before_and_after_on_tasks_told_apart(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", str(finished), "--who", "teacher", "--task", TUNED, "--task", OTHER, "--task", TUNED, "--episodes", "4"]
    found = answer(capsys, *words)
    assert [(row["task"], row["tuned_on"], row["renamed"]) for row in found["rows"]] == [
        (TUNED, True, None),
        (OTHER, False, None),
    ]
    assert found["episodes"] == 4 and "success" not in found, "several tasks have no figure in common"
    assert answer(capsys, *words) == found
    summary = json.loads((finished / "summary.json").read_text())
    one = answer(capsys, "eval", str(finished), "--who", "teacher", "--episodes", "2")
    assert one["task"] == TUNED and one["success"] == one["rows"][0]["success"]
    assert (one["success_before"], one["success"]) == (summary["teacher_success_before"], summary["teacher_success_after"])


def test_renamed_options_have_rows_of_their_own(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = answer(capsys, "eval", str(finished), "--who", "teacher", "--synonyms", "--episodes", "4")["rows"]
    told = [name + also for name in ("verbs", "verbs and nouns") for also in ("", ", told all names")]
    assert [row["renamed"] for row in rows] == [None, *told]
    read = rows[2]["synonym_map"]
    assert {"look around", "walk"} <= read.keys() and len(set(read.values())) == len(read), "one for one"
    assert rows[0]["lost"] is None
    for row in rows[1:]:
        whole = rows[0]["success"]
        assert row["lost"] == (pytest.approx(1 - row["success"] / whole) if whole else None)


def test_forgetting_is_measured_before_and_after_tuning(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "eval", str(finished), "--who", "teacher", "--forgetting", "--episodes", "1")["forgetting"]
    assert found["perplexity"] != found["perplexity_before"] and found["questions"] >= 20
    assert 0.0 <= found["right"] <= 1.0 and 0.0 <= found["right_before"] <= 1.0


def test_a_table_for_people(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", str(finished), "--who", "teacher", "--synonyms", "--forgetting", "--episodes", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.split(" {2,}", lines[0]) == [name for name in TEACHER_COLUMNS if name != "by chance"]
    assert [line.split()[1] for line in lines[1:6]] == ["yes"] * 5 and "verbs and nouns, told all names" in lines[5]
    assert lines[-2].startswith("perplexity of neutral prose") and "general questions right" in lines[-1]
    assert cli.main(["eval", str(finished), "--who", "teacher", "--task", OTHER, "--episodes", "1"]) == 0
    plain = capsys.readouterr().out
    assert "renamed" not in plain and "lost" not in plain and plain.splitlines()[1].split()[1] == "no"


def test_the_student_too_takes_several_tasks(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "eval", str(finished), "--task", OTHER, "--task", TUNED, "--episodes", "2")
    assert [row["task"] for row in found["rows"]] == [OTHER, TUNED]


def test_options_drawn_are_shown_beside_chance(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", str(finished), "--who", "teacher", "--episodes", "4"]
    drawn, greedy = answer(capsys, *words, "--sample"), answer(capsys, *words)
    assert drawn["sample"] and not greedy["sample"] and greedy["chance"] is None
    # The red ball is the only thing there to go to, and there is time to come by it at random.
    assert drawn["chance"] == 1.0
    # The tiny LLM's first choices are not all it ever draws.
    assert (greedy["length"], greedy["length_before"]) != (drawn["length"], drawn["length_before"])
    assert answer(capsys, *words, "--sample") == drawn, "episodes are drawn from the same seeds"
    assert cli.main([*words, "--sample"]) == 0
    table = capsys.readouterr().out
    assert re.split(" {2,}", table.splitlines()[0])[2] == "by chance" and "options drawn from its advice" in table


@pytest.mark.parametrize("flag", ["--sample", "--synonyms", "--forgetting"])
def test_what_is_the_teachers_is_not_asked_of_the_student(finished: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "eval", str(finished), flag)
    assert f"{flag} looks at the teacher: expected --who teacher, not --who student" in said


def test_a_wrong_task_is_found_before_anything_is_played(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coteach.commands.evaluate.load_players", lambda run: pytest.fail("began"))
    assert "MiniGrid-Unlok-v0" in refusal(capsys, "eval", str(finished), "--task", TUNED, "--task", "MiniGrid-Unlok-v0")
    for verb in ("eval", "watch"):
        assert "one student cannot play both" in refusal(capsys, verb, str(finished), "--task", "TidyUp-v0")


def test_forgetting_needs_a_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "run")
    assert cli.main(["train", *SMALL, "--arm", "uniform", "--out", folder]) == 0
    capsys.readouterr()
    said = refusal(capsys, "eval", folder, "--who", "teacher", "--forgetting")
    assert "teacher 'uniform' is no language model on this machine: leave --forgetting out" in said
