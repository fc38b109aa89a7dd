"""One small real run without an LLM, and every verb that looks at a run, as a user would type them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coteach.commands import cli
from coteach.runs.run_folder import Run

pytestmark = pytest.mark.slow

TASK = "BabyAI-GoToRedBallNoDists-v0"
SETTINGS = ["episodes=10", "evaluation.levels=10", "collect.horizon=32", "stop_at=1.01"]
SMALL = ["--task", TASK, "--arm", "uniform", "--envs", "16", "--threads", "1", *SETTINGS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    assert cli.main(["train", *SMALL, "--steps", "2000", "--out", str(folder)]) == 0
    return folder


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_leaves_what_the_design_promises(finished: Path) -> None:
    for name in ("config.toml", "environment.json", "metrics.jsonl", "advice.jsonl", "summary.json", "plots/success.png"):
        assert (finished / name).stat().st_size > 0, name
    assert list(finished.glob("events.out.tfevents*"))
    run = Run.open(finished)
    assert run.latest_checkpoint() is not None
    rounds = run.metrics()
    assert [row["round"] for row in rounds] == list(range(1, len(rounds) + 1))
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == rounds[-1]["steps"] >= 2000
    assert 0.0 <= summary["success"] <= 1.0 and summary["llm_queries"] == 0


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_eval_is_repeatable_and_counts_what_was_asked_for(finished: Path, who: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", str(finished), "--who", who, "--episodes", "8"]
    first = answer(capsys, *words)
    assert first["episodes"] == 8 and first["task"] == TASK and 0.0 <= first["success"] <= 1.0
    assert answer(capsys, *words) == first
    assert answer(capsys, *words, "--seed", "5")["seed"] == 5


def test_eval_shows_a_row_for_people(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", str(finished), "--episodes", "2", "--task", "MiniGrid-Unlock-v0"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("MiniGrid-Unlock-v0  student  ")


def test_watch_films_an_episode(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import imageio.v3 as imageio

    film = answer(capsys, "watch", str(finished), "--out", str(tmp_path / "a" / "film.gif"))
    assert len(imageio.imread(film["file"])) == film["frames"] > 1
    film = answer(capsys, "watch", str(finished), "--who", "teacher", "--seed", "3")
    assert Path(film["file"]) == finished / "videos" / f"{TASK}-teacher-3.gif"


def test_ask_shows_the_situations_of_a_run_and_the_evidence(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = answer(capsys, "ask", str(finished))
    assert listed and sum(listed[0]["tries"]) == max(sum(row["tries"]) for row in listed)
    one = answer(capsys, "ask", str(finished), "--situation", "1")
    assert one["situation"] == listed[0]["situation"] and one["tries"] == listed[0]["tries"]
    assert sum(one["untuned"]) == pytest.approx(1.0)
    assert answer(capsys, "ask", str(finished), "--situation", listed[0]["situation"]) == one
    assert cli.main(["ask", str(finished), "--situation", "1"]) == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in one["options"]) and "tried" in shown


def test_ask_needs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ask", "--teacher", "uniform", "--situation", "A door.", "--option", "open it", "--option", "explore"]
    assert answer(capsys, *words)["untuned"] == [0.5, 0.5]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_saved_and_resumed_to_its_end(number: signal.Signals, code: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [sys.executable, "-m", "coteach", "train", *SMALL, "--steps", "8000", "--out", str(folder)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None and not (folder / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert f"coteach train --resume {folder}" in said and "Traceback" not in said
    done = len(Run.open(folder).metrics())
    assert done > 0

    assert cli.main(["train", "--resume", str(folder)]) == 0
    rounds = Run.open(folder).metrics()
    assert [row["round"] for row in rounds] == list(range(1, len(rounds) + 1)), "none is missing, none was logged twice"
    assert len(rounds) > done and rounds[-1]["steps"] >= 8000
