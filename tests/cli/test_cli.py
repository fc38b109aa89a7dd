"""The command line as a whole: it starts fast, answers wrong use with one line, and tells failure by its exit code."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from coteach.commands import cli, tasks
from coteach.errors import CoteachError, RunFailed


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


def test_help_lists_every_verb_and_imports_nothing_slow() -> None:
    code = """
import sys
sys.argv[1:] = ["--help"]
try:
    from coteach import __main__
    __main__.script()
finally:
    print("slow:", *({"torch", "numpy", "rich", "matplotlib"} & sys.modules.keys()))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert all(re.search(rf"^    {verb}\s", answer.stdout, re.MULTILINE) for verb in cli.VERBS)
    assert answer.stdout.splitlines()[-1].strip() == "slow:"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_with_an_example_json_and_a_seed(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([verb, "--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0
    assert f"coteach {verb}" in shown.partition("example")[2]
    assert "--json" in shown and "--seed" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "unknown verb 'trian': did you mean 'train'?"),
        ([], "arguments are required: VERB"),
        (["eval"], "arguments are required: RUN"),
        (["train", "--stps", "3"], "unknown flag '--stps': did you mean '--steps'?"),
        (["tasks", "a", "b=c"], "unrecognised: b=c"),
        (["train", "--dry-run", "student.epchs=3"], "did you mean 'student.epochs'"),
        (["eval", "nowhere"], "nowhere is not a run"),
        (["watch", "nowhere", "--who", "techer"], "did you mean 'teacher'"),
        (["eval", "nowhere", "--episodes", "0"], "--episodes 0: expected a whole number in [1..100000]"),
        (["tasks", "no-such-task"], "no task id contains 'no-such-task'"),
        (["ask"], "--situation is missing"),
        (["ask", "--situation", "A door.", "--option", "open"], "expected at least two options"),
        (["ask", "--situation", "A door.", "--option", "open", "--option", "open"], "'open' was given twice"),
        (["ask", "--situation", "7"], "--situation 7: expected the number of one of the run's 0 situations"),
    ],
)
def test_wrong_use_is_one_line_on_stderr_and_exit_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("coteach: error: ") and said in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(("error", "code"), [(CoteachError("wrong"), 2), (RunFailed("disk full"), 1), (KeyboardInterrupt(), 130)])
def test_the_exit_code_says_what_happened(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "run", raising(error))
    assert cli.main(["tasks"]) == code


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "run", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["tasks"])


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m coteach tasks | head -n 1"
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, env=os.environ)
    assert answer.stdout.startswith("task") and "Error" not in answer.stderr


def test_tasks_shows_what_the_options_can_express(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tasks, "shares", lambda: {"MiniGrid-Unlock-v0": tasks.Share(0.985, 50, "minigrid")})
    assert cli.main(["tasks", "unlock-"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["task", "oracle", "episodes", "engine"]
    assert ["MiniGrid-Unlock-v0", "98.5", "%", "50", "minigrid"] in lines
    assert ["BabyAI-Unlock-v0", "-", "-", "-"] in lines, "a task without a share is listed all the same"
    assert cli.main(["tasks", "unlock-", "--json"]) == 0
    row = {"task": "MiniGrid-Unlock-v0", "oracle": 0.985, "episodes": 50, "engine": "minigrid", "note": ""}
    assert row in json.loads(capsys.readouterr().out)


def test_tasks_marks_what_cannot_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from coteach.envs.levels import unplayable_ids

    assert len(unplayable_ids()) in (0, 6), "the levels made from images: the wheels of minigrid lack them all"
    monkeypatch.setattr("coteach.envs.levels.unplayable_ids", lambda: ["MiniGrid-WFC-MazeSimple-v0"])
    assert cli.main(["tasks", "WFC-MazeSimple", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["oracle"] is None and "cannot run" in row["note"]


def test_the_package_has_a_share_for_every_task() -> None:
    from coteach.envs.levels import task_ids

    shares = tasks.shares()
    assert set(shares) == set(task_ids())
    assert all(0.0 <= share.oracle <= 1.0 for share in shares.values())


@pytest.mark.parametrize(
    "task",
    ["MiniGrid-Unlock-v0", "MiniGrid-MultiRoom-N4-S5-v0", "BabyAI-OpenDoorsOrderN4Debug-v0", "MiniGrid-Dynamic-Obstacles-6x6-v0"],
)
def test_a_share_is_what_measuring_it_again_gives(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tasks", "--measure", task, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert tasks.Share(row["oracle"], row["episodes"], row["engine"]) == tasks.shares()[task]


def test_another_measure_has_other_episodes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tasks", "--measure", "MiniGrid-Unlock-v0", "--episodes", "3", "--seed", "5", "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)[0]["episodes"] == 3
