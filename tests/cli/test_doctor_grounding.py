"""`coteach doctor --grounding` tells whether what a user wrote keeps the contract; `coteach tasks` lists what packages add."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import worlds
from coteach.commands import cli
from coteach.envs import levels
from coteach.envs import registration as environments

MINE = """\
import coteach, worlds
LINE = worlds.environment()
MUTE = worlds.environment(describe=lambda seen: None)
BOX = worlds.environment(make=worlds.line(actions=__import__("gymnasium").spaces.Box(0, 1)))
NUMBER = 3
"""


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A module in the current folder, which the interpreter does not search by itself."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environments, "_registered", {})
    yield


def test_a_sound_environment_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--grounding", "mine:LINE"]) == 0
    assert re.search(r"^Line-v0: 1204 observations, 5 situations, .* the contract is kept\n$", capsys.readouterr().out)


def test_a_breach_is_a_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--grounding", "mine:MUTE"]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("breach: task 'Line-v0': describe gave None for the observation 0: expected a text")
    assert last.endswith("the contract is broken")
    assert cli.main(["doctor", "--grounding", "mine:MUTE", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["kept"] and report["findings"][0]["kind"] == "breach"


def test_a_grounding_class_is_checked_on_the_task_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    name = "coteach.grounding.minigrid:MiniGridGrounding"
    assert cli.main(["doctor", "--grounding", name, "--task", "MiniGrid-Unlock-v0"]) == 0
    assert "MiniGrid-Unlock-v0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "CartPole-v1"], "--task CartPole-v1 without --grounding"),
        (["--grounding", "mine"], "--grounding mine: expected MODULE:NAME"),
        (["--grounding", "mine:NOBODY"], "--grounding mine:NOBODY: cannot be loaded (AttributeError"),
        (["--grounding", "yours:LINE"], "--grounding yours:LINE: cannot be loaded (ModuleNotFoundError"),
        (["--grounding", "mine:NUMBER"], "--grounding mine:NUMBER: is a int: expected an Environment or a Grounding"),
        (["--grounding", "mine:LINE", "--task", "x"], "--task x: mine:LINE is an Environment with a task of its own (Line-v0)"),
        (["--grounding", "worlds:Line"], "--grounding worlds:Line: say with --task ID which task"),
        (["--grounding", "mine:BOX"], "task 'Line-v0': its action space Box is not discrete"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", *words]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and message in told.err


def test_a_registered_tasks_expert_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    environments.add(worlds.environment(expert=lambda place: "go right"))
    assert cli.main(["tasks", "--measure", "Line-v0", "--episodes", "3", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["oracle"], row["episodes"], row["engine"]) == (1.0, 3, "gymnasium")


def test_registered_tasks_are_listed_and_have_no_expert_unless_given_one(capsys: pytest.CaptureFixture[str]) -> None:
    environments.add(worlds.environment())
    assert cli.main(["tasks", "line-v0", "--json"]) == 0
    assert [row["task"] for row in json.loads(capsys.readouterr().out)] == ["Line-v0"]
    assert "Line-v0" in levels.task_ids()
    assert cli.main(["tasks", "--measure", "Line-v0"]) == 2
    assert "teacher 'oracle': no expert plays task 'Line-v0': say what one would choose" in capsys.readouterr().err
