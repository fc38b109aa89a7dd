"""The command line as a whole: it starts fast, answers wrong use with one line, and tells failure by its exit code."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from coteach import cli
from coteach.commands import tasks
from coteach.errors import CoteachError, RunFailed


def coteach(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "coteach", *words], capture_output=True, text=True, timeout=120)


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


def test_help_lists_every_verb_at_once() -> None:
    began = time.perf_counter()
    answer = coteach("--help")
    seconds = time.perf_counter() - began
    assert answer.returncode == 0
    assert all(f"    {verb} " in answer.stdout for verb in cli.VERBS)
    assert seconds < 3, "importing torch alone takes two seconds: nothing slow may be imported for --help"


def test_the_command_line_imports_nothing_slow() -> None:
    code = "import sys, coteach.cli; print([m for m in ('torch', 'numpy', 'rich', 'matplotlib') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"


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
        (["eval", "nowhere", "--episodes", "0"], "--episodes 0: expected a whole number, at least 1"),
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
    monkeypatch.setattr(tasks, "oracle_shares", lambda: {"MiniGrid-Unlock-v0": 0.985})
    assert cli.main(["tasks", "unlock-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["task", "oracle"]
    assert "MiniGrid-Unlock-v0" in lines[-1] and lines[-1].endswith("98.5 %")
    assert cli.main(["tasks", "unlock-", "--json"]) == 0
    assert {"task": "MiniGrid-Unlock-v0", "oracle": 0.985} in json.loads(capsys.readouterr().out)


def test_the_shares_that_come_with_the_package_are_shares_of_tasks_that_exist() -> None:
    from coteach.tasks import task_ids

    shares = tasks.oracle_shares()
    assert set(shares) <= set(task_ids())
    assert all(0.0 <= share <= 1.0 for share in shares.values())
