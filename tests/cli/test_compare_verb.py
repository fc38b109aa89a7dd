"""`coteach compare` makes every run once, whatever interrupts it, and has no table before all of them are there."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from comparisons import keep, learner, result
from coteach.arms import ARMS
from coteach.commands import cli, compare
from coteach.experiments import pool
from coteach.experiments.pool import Standing, State
from coteach.experiments.results import key_of, read_results, write_results

pytestmark = pytest.mark.slow

TASK = "MiniGrid-UnlockPickup-v0"

FAKE = (sys.executable, str(Path(__file__).parents[1] / "fake_train.py"))

WORDS = ("compare", "--task", TASK, "--arms", "mutual,no-llm", "--seeds", "2", "--jobs", "2", "--steps", "100000")

RUNS = [f"{arm}-{seed}" for arm in ("mutual", "no-llm") for seed in (0, 1)]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pool, "PROGRAM", FAKE)
    monkeypatch.setattr(pool, "POLL", 0.02)


def began(run: str, name: str = TASK) -> str:
    """How often a run was begun, and how."""
    path = Path("runs/compare", name, TASK, run, "began.txt")
    return path.read_text() if path.exists() else ""


def results() -> set[str]:
    keys = [key_of(result) for result in read_results(Path("results", TASK))]
    return {f"{key.arm}-{key.seed}" for key in keys}


def test_all_runs_are_made_once_and_end_in_a_table_and_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*WORDS]) == 0
    shown = capsys.readouterr()
    assert results() == set(RUNS)
    assert all(f"{run.rpartition('-')[0]}-{run[-1]} on {TASK}: finished" in shown.err for run in RUNS)
    assert shown.out.startswith(f"{TASK}\narm ") and "P(mutual better)" in shown.out
    files = {path.name for path in Path("results", TASK).iterdir()} - {".lock"}
    assert files == {"results.jsonl", "table.md", "success.png", "steps.png", "better.png"}
    kept = read_results(Path("results", TASK))[0]
    assert kept["command"].startswith(f"coteach train --task {TASK} --arm mutual --seed 0 ")
    assert kept["config"]["seed"] == 0 and kept["summary"]["curve"] and "cores" in kept["machine"]

    assert cli.main([*WORDS]) == 0
    assert capsys.readouterr().out == shown.out, "the same results say the same"
    assert [began(run) for run in RUNS] == ["anew\n"] * 4


def test_more_seeds_are_added_to_those_that_are_there() -> None:
    assert cli.main([*WORDS, "--seeds", "1"]) == 0
    assert cli.main([*WORDS]) == 0
    assert [began(run) for run in RUNS] == ["anew\n"] * 4


def test_a_run_that_fails_says_why_and_leaves_the_others_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_TRAIN", "mutual-0=fail")
    assert cli.main([*WORDS]) == 1
    shown = capsys.readouterr()
    assert f"mutual-0 on {TASK}: exit code 1: coteach: error: the disk is full" in shown.err
    assert "runs that failed: 1;" in shown.err and shown.out == ""
    assert results() == set(RUNS) - {"mutual-0"} and not Path("results", TASK, "table.md").exists()

    monkeypatch.setenv("FAKE_TRAIN", "")
    assert cli.main([*WORDS]) == 0
    assert [began(run) for run in RUNS] == ["anew\nresumed\n", *["anew\n"] * 3]


def test_a_run_that_was_over_when_the_comparison_died_is_only_kept() -> None:
    assert cli.main([*WORDS]) == 0
    others = [kept for kept in read_results(Path("results", TASK)) if key_of(kept) != (TASK, "no-llm", 1)]
    write_results(Path("results", TASK), others)
    assert cli.main([*WORDS]) == 0
    assert results() == set(RUNS) and began("no-llm-1") == "anew\n"


def start(**fates: str) -> subprocess.Popen[str]:
    """The same comparison in a process of its own, with its stand-in for training."""
    patch = f"from coteach.experiments import pool; pool.PROGRAM = {FAKE!r}"
    code = f"import sys; from coteach.commands import cli; {patch}; sys.exit(cli.main())"
    environment = os.environ | {"FAKE_TRAIN": ",".join(f"{run.replace('_', '-')}={fate}" for run, fate in fates.items())}
    return subprocess.Popen([sys.executable, "-c", code, *WORDS], stderr=subprocess.PIPE, text=True, env=environment)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_the_runs_save_once_and_the_same_command_goes_on(number: signal.Signals, code: int) -> None:
    folder = Path("runs/compare", TASK, TASK)
    process = start(mutual_0="wait", no_llm_0="wait")
    until(lambda: all((folder / run / "waiting").exists() for run in ("mutual-0", "no-llm-0")))
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and "the same command goes on" in said and "the 2 runs under way" in said
    assert [(folder / run / "signals.txt").read_text() for run in ("mutual-0", "no-llm-0")] == [f"{int(number)}\n"] * 2

    assert cli.main([*WORDS]) == 0
    assert [began(run) for run in RUNS] == ["anew\nresumed\n", "anew\n", "anew\nresumed\n", "anew\n"]


def test_runs_that_outlive_their_comparison_are_not_run_beside_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("runs/compare", TASK, TASK)
    process = start(mutual_0="wait")
    until(lambda: (folder / "mutual-0" / "waiting").exists() and (folder / "mutual-0" / "waiting").read_text() != "")
    process.kill()
    process.wait()
    assert cli.main([*WORDS]) == 2
    assert "another comparison of this name is under way, or a run of it" in capsys.readouterr().err
    os.kill(int((folder / "mutual-0" / "waiting").read_text()), signal.SIGTERM)
    until(lambda: (folder / "mutual-0" / "signals.txt").exists())


def test_no_more_runs_go_on_at_once_than_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(compare.Board, "__call__", lambda board, standing: seen.append(len(standing.running)))
    assert cli.main([*WORDS, "--jobs", "1"]) == 0
    assert max(seen) == 1 and results() == set(RUNS)


# From results alone


def test_tables_and_figures_are_redrawn_without_runs(capsys: pytest.CaptureFixture[str]) -> None:
    keep(Path("results/mine"), *(result(TASK, arm, s, learner(2.0)) for arm in ("mutual", "oracle") for s in (0, 4)))
    assert cli.main(["compare", "--redraw", "--name", "mine", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(v["arm"], v["runs"], v["success"]["value"]) for v in shown["verdicts"]] == [("mutual", 2, 1.0), ("oracle", 2, 1.0)]
    assert "--seeds 0,4" in shown["command"] and shown["command"] in Path(shown["table"]).read_text()
    assert all(Path(path).stat().st_size > 0 for path in shown["figures"])
    assert not Path("runs").exists()


def test_seeds_that_one_arm_lacks_are_refused_when_redrawing(capsys: pytest.CaptureFixture[str]) -> None:
    keep(Path("results/mine"), *(result(TASK, arm, s, learner(2.0)) for arm, s in (("mutual", 0), ("mutual", 1), ("oracle", 0))))
    assert cli.main(["compare", "--redraw", "--name", "mine"]) == 2
    assert "lacks oracle-1" in capsys.readouterr().err
    assert cli.main(["compare", "--redraw", "--name", "mine", "--seeds", "1"]) == 0


# Wrong use


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--task is missing"),
        (["--task", "MiniGrid-UnlokPickup-v0"], "did you mean 'MiniGrid-UnlockPickup-v0'"),
        (["--task", TASK, "--arms", "mutual,no-lm"], "unknown arm 'no-lm': did you mean 'no-llm'"),
        (["--task", TASK, "--seeds", "none"], "--seeds none: expected a whole number"),
        (["--task", TASK, "--seeds", "0,x"], "--seeds x: expected a whole number"),
        (["--task", TASK, "--seeds", "0,1", "--seed", "3"], "leave out --seed 3"),
        (["--task", TASK, "--steps", "0"], "--steps 0: expected a whole number"),
        (["--task", TASK, "--jobs", "0"], "--jobs 0: expected a whole number"),
        (["--task", TASK, "--name", "a/b"], "--name a/b: expected the name of a folder"),
        (["--task", TASK, "seed=3"], "seed=3: a comparison sets this field itself; use --seeds"),
        (["--task", TASK, "student.epchs=3"], "did you mean 'student.epochs'"),
        (["--redraw", "--name", "nowhere"], "results/nowhere has no results"),
        (["--redraw", "--name", "nowhere", "--steps", "5"], "--redraw takes the results as they are"),
        (["--task", TASK, "--results", "/dev/null/x"], "choose another --results"),
    ],
)
def test_wrong_use_is_one_line_before_anything_is_run(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", *words]) == 2
    shown = capsys.readouterr()
    assert said in shown.err and shown.err.count("\n") == 1 and shown.out == ""
    assert not list(Path("runs").rglob("*.toml"))


# What is seen of it


def test_the_board_has_a_row_for_each_run_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    jobs = compare._plan(cli._parse([*WORDS])).jobs()
    standing = Standing([State(job, 50_000, 100_000, 0.5, 1000.0) for job in jobs[:2]], 3, 9, jobs[2:], 2)
    screen = io.StringIO()
    Console(file=screen, width=100).print(compare._board(standing))
    assert "3 of 9 runs done, at most 2m30s left" in screen.getvalue()
    assert all(f"{run}  {TASK}  50k of 100k" in screen.getvalue() for run in ("mutual-0", "no-llm-0"))


def test_a_real_run_becomes_a_result(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pool, "PROGRAM", (sys.executable, "-m", "coteach"))
    words = ["--task", "MiniGrid-Empty-5x5-v0", "--arms", "ppo", "--seeds", "7,", "--steps", "500", "--json"]
    assert cli.main(["compare", *words, "episodes=5", "evaluation.levels=5", "collect.envs=8"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (verdict,) = answer["verdicts"]
    assert (verdict["arm"], verdict["runs"], verdict["budget"]) == ("ppo", 1, 500)
    assert f"- `ppo`: {ARMS['ppo'].description}" in Path(answer["table"]).read_text().splitlines()
