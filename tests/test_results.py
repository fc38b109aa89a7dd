"""The results of a comparison are one file, a line a run: sorted, replaced as a whole, and refused where a line is no result."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from comparisons import keep, learner, result
from coteach.errors import CoteachError
from coteach.experiments.pool import locked
from coteach.experiments.results import FIELDS, FILE, GLAM, by_key, key_of, make_result, read_results, write_results

TASK, OTHER = "MiniGrid-UnlockPickup-v0", "BabyAI-GoToLocal-v0"


def some() -> list[dict[str, Any]]:
    return [
        result(task, arm, seed, learner(1.0)) for task in (TASK, OTHER) for arm in ("no-llm", "mutual") for seed in (2, 0, 11)
    ]


def glam(seed: int) -> dict[str, Any]:
    summary = {"task": TASK, "arm": GLAM, "seed": seed, "budget": 100_000, "success": 0.5, "curve": []}
    return make_result(["case-study"], None, {}, {"task": TASK}, summary)


def lines(folder: Path) -> list[str]:
    return (folder / FILE).read_text(encoding="utf-8").splitlines()


def test_a_line_a_run_by_task_arm_and_seed_in_whatever_order_they_finished(tmp_path: Path) -> None:
    assert read_results(tmp_path / "none") == []
    keep(tmp_path, *some(), glam(0))
    assert [key_of(json.loads(line)) for line in lines(tmp_path)] == [
        *((OTHER, arm, seed) for arm in ("mutual", "no-llm") for seed in (0, 2, 11)),
        *((TASK, arm, seed) for arm in ("mutual", "no-llm") for seed in (0, 2, 11)),
        (TASK, GLAM, 0),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {FILE}


def test_every_line_says_by_itself_what_made_it(tmp_path: Path) -> None:
    keep(tmp_path, *some())
    for line in lines(tmp_path):
        kept = json.loads(line)
        assert set(kept) == set(FIELDS)
        assert kept["command"].startswith("coteach ") and kept["config"]["collect"] and kept["summary"]["curve"]


def test_what_is_read_is_what_was_kept(tmp_path: Path) -> None:
    ours = some()
    ours[0]["machine"]["processor"] = "Prozessor\u2028für „Tests“\n"
    keep(tmp_path, *ours)
    kept = by_key(read_results(tmp_path), "x")
    assert all(kept[key_of(entry)] == entry for entry in ours) and len(kept) == len(ours)


def test_a_run_that_is_made_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    keep(tmp_path, *some(), result(TASK, "mutual", 2, learner(0.5)))
    assert len(lines(tmp_path)) == len(some())
    again = by_key(read_results(tmp_path), "x")[key_of(result(TASK, "mutual", 2, learner(1.0)))]
    assert again["summary"]["success"] == 0.5


def test_a_disk_that_fails_leaves_the_results_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path, *some())
    before = (tmp_path / FILE).read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        keep(tmp_path, result(TASK, "oracle", 0, learner(1.0)))
    assert (tmp_path / FILE).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {FILE}


def changed(**fields: Any) -> str:
    """A result in which the summary says something else."""
    entry = result(TASK, "mutual", 0, learner(1.0))
    return json.dumps(entry | {"summary": entry["summary"] | fields})


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", "[" * 100_000, '{"config": {"arm": "mutual"}, "summary": {"curve": []}}']
    + [changed(curve=[]), changed(arm="mutal"), changed(success=None), changed(seed="one"), changed(budget=None)],
)
def test_a_line_that_is_no_result_is_named(tmp_path: Path, text: str) -> None:
    keep(tmp_path, *some())
    (tmp_path / FILE).write_text("\n".join([*lines(tmp_path)[:2], text, *lines(tmp_path)[2:]]) + "\n")
    with pytest.raises(CoteachError, match="results.jsonl, line 3, is not the result of a run: delete the line"):
        read_results(tmp_path)


def test_two_results_of_one_run_are_refused(tmp_path: Path) -> None:
    write_results(tmp_path, [*some(), result(TASK, "mutual", 2, learner(0.5))])
    with pytest.raises(CoteachError, match=f"line 9, is a second result of mutual-2 on {TASK}: delete the one or the other"):
        read_results(tmp_path)


def test_runs_that_differ_in_their_budget_alone_are_kept_but_not_compared(tmp_path: Path) -> None:
    keep(tmp_path, *some(), result(TASK, "mutual", 2, learner(1.0), ("steps=5000",)))
    assert len(read_results(tmp_path)) == len(some()) + 1
    with pytest.raises(CoteachError, match=f"'x' has mutual-2 on {TASK} with budgets of 5000 and 100000 steps"):
        by_key(read_results(tmp_path), "x")


def test_an_arm_whose_student_does_not_learn_needs_no_curve(tmp_path: Path) -> None:
    advice = result(TASK, "llm-only", 0, learner(1.0), success=0.3)
    advice["summary"]["curve"] = []
    keep(tmp_path, advice)
    assert read_results(tmp_path) == [advice]


def test_one_comparison_at_a_time_writes_results_even_with_runs_elsewhere(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "runs", tmp_path / "results"),
        pytest.raises(CoteachError, match=r"results: another comparison of this name is under way.*process \d+ began it"),
        locked(tmp_path / "elsewhere", tmp_path / "results"),
    ):
        raise AssertionError("both hold it")
    with locked(tmp_path / "runs", tmp_path / "results"), locked(tmp_path / "other", tmp_path / "other") as lock:
        assert lock.name == str(tmp_path / "other" / ".lock")
