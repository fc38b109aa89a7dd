"""The ladder is one climb over all rungs, and its table says on which of them the student was done."""

from __future__ import annotations

from pathlib import Path

import pytest

from coteach.commands import cli
from coteach.envs import tasks
from coteach.experiments import ladder
from coteach.experiments.ladder import LADDER


def rung(number: int, **changed: object) -> dict[str, object]:
    return {
        "rung": number, "task": LADDER[number], "arm": "mutual", "seed": 0, "held": True, "steps": 12_000, "success": 0.97,
        "teacher_success_before": 0.4, "teacher_success_after": None, "llm_queries": 12, "wall_seconds": 75.0,
    } | changed  # fmt: skip


def test_every_rung_of_the_ladder_can_be_played() -> None:
    for task in LADDER:
        tasks.check(task)


def test_a_climb_is_one_run_over_all_rungs(tmp_path: Path) -> None:
    plan = ladder.plan(LADDER[:3], ("mutual", "no-llm"), (0, 1), 5_000, "teacher", "name", ["episodes=20"], tmp_path, tmp_path)
    configs = [job.config for job in plan.jobs()]
    assert len(configs) == 4 and all(config.tasks == list(LADDER[:3]) for config in configs)
    assert {(c.fresh, c.steps, c.stop_at, c.episodes) for c in configs} == {("teacher", 5_000, 0.95, 20)}


def test_rungs_stand_side_by_side_and_say_whether_they_are_done() -> None:
    results = [
        {"command": f"coteach {arm}", "revision": "abc", "summary": {"rungs": [rung(0, arm=arm), rung(1, arm=arm, held=False)]}}
        for arm in ("no-llm", "mutual")
    ]
    cells = ladder.rows(ladder.by_rung(results))
    assert [(row[0][0], row[1], row[3]) for row in cells] == [
        ("1", "mutual", "yes"), ("1", "no-llm", "yes"), ("2", "mutual", "no"), ("2", "no-llm", "no"),
    ]  # fmt: skip
    text = ladder.markdown(results)
    assert all(len(line.split("|")) == len(ladder.COLUMNS) + 2 for line in text.splitlines() if line.startswith("|"))
    assert "`coteach mutual` (revision abc)" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fresh", "techer"], "techer"),
        (["--arms", "mutal"], "mutal"),
        (["--rungs", "99"], "--rungs 99"),
        (["--name", "a/b"], "--name a/b"),
        (["--task", "MiniGrid-Nowhere-v0"], "MiniGrid-Nowhere-v0"),
    ],
)
def test_wrong_use_is_answered_in_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["ladder", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (tmp_path / "results").exists()
