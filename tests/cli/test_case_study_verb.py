"""`coteach case-study` makes the runs that are missing, prints one table, and refuses what it does not know."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tiny_lm
from coteach.commands import cli
from coteach.experiments import case_study, glam, pool
from coteach.experiments.compare import Job
from coteach.runs.run_folder import Run


def finish(job: Job) -> None:
    """What a run of the loop leaves in its folder."""
    figures = {"success": 0.9, "return": 0.8, "wall_seconds": 30.0, "llm_tokens": 0, "curve": [[0, 0.9]]}
    about = {"task": job.task, "arm": job.config.arm, "seed": job.config.seed, "budget": job.config.steps}
    summary = figures | about | {"steps": job.config.steps}
    Run.create(job.folder, job.config).write_json("summary.json", summary | {"rungs": [summary]})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Runs of the loop are stood in for; those made are listed. The working directory is empty, the model tiny."""
    made: list[str] = []

    class Runs(pool.Pool):
        def run(self, jobs: Any, done: int, lock: Any) -> None:
            for job in jobs:
                made.append(f"{job.config.arm}-{job.config.seed}")
                if job.config.seed == 13:
                    self.ended(pool.Ended(job, "exit code 1: disk full"))
                else:
                    finish(job)
                    self.ended(pool.Ended(job, None))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pool, "Pool", Runs)
    monkeypatch.setattr(case_study, "load_model", lambda _: tiny_lm.loaded())
    monkeypatch.setattr(glam, "cores", lambda: 1)
    monkeypatch.setattr(case_study, "ENVS", 2)
    monkeypatch.setattr(case_study, "HORIZON", 8)
    monkeypatch.setattr(case_study, "ITERATION", 16)
    return made


def test_it_makes_what_is_missing_once_and_ends_with_a_table(
    made: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["case-study", "--budgets", "1", "--seeds", "2", "--arms", "mutual,student-only"]
    assert cli.main(words) == 0
    table = capsys.readouterr().out
    assert made == ["mutual-0", "student-only-0", "mutual-1", "student-only-1"]
    assert "90 %" in table
    assert "student-only" in (tmp_path / "results/case-study/table.md").read_text()
    assert cli.main([*words, "--json"]) == 0
    assert len(made) == 4
    answer = json.loads(capsys.readouterr().out)
    assert [line["arm"] for line in answer["lines"]] == ["mutual", "student-only"]


def test_redraw_shows_what_there_is_and_makes_nothing(
    made: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["case-study", "--redraw"]) == 2
    assert "no finished run in results/case-study" in capsys.readouterr().err
    assert cli.main(["case-study", "--budgets", "1", "--seeds", "1", "--arms", "mutual"]) == 0
    (tmp_path / "results/case-study/table.md").unlink()
    assert cli.main(["case-study", "--budgets", "1", "--redraw"]) == 0
    assert made == ["mutual-0"]
    assert cli.main(["case-study", "--redraw", "--jobs", "2"]) == 2
    assert "--redraw makes no runs: leave out --jobs" in capsys.readouterr().err
    assert "| mutual | 1 | 0 |" in (tmp_path / "results/case-study/table.md").read_text()


def test_glam_is_an_arm_among_the_others(
    made: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_study, "Study", partial(case_study.Study, episodes=2))
    assert cli.main(["case-study", "--budgets", "1", "--seeds", "1", "--json"]) == 0
    lines = {line["arm"]: line for line in json.loads(capsys.readouterr().out)["lines"]}
    assert list(lines) == ["mutual", "one-way", "student-only", "glam"]
    assert lines["glam"]["iterations"] == [1]
    assert lines["glam"]["tokens"][0] > 0


def test_a_run_that_fails_is_told_and_not_in_the_table(made: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["case-study", "--budgets", "1", "--seed", "13", "--seeds", "1", "--arms", "mutual"]) == 1
    said = capsys.readouterr()
    assert "disk full" in said.err
    assert "90 %" not in said.out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--arms", "glm"], "did you mean 'glam'"),
        (["--arms", "oracle"], "unknown arm 'oracle'"),
        (["--budgets", "40,many"], "--budgets many"),
        (["--seeds", "0"], "--seeds 0"),
        (["--glam-minutes", "-1"], "--glam-minutes -1"),
        (["--glam-minutes", "nan"], "--glam-minutes nan"),
        (["--teacher", "uniform"], "uniform"),
    ],
)
def test_wrong_use_is_answered_with_one_line(
    made: list[str], words: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["case-study", *words]) == 2
    error = capsys.readouterr().err
    assert part in error
    assert len(error.splitlines()) == 1
    assert made == []
