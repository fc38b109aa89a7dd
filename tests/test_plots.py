"""The picture of a run shows what was logged, and only that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coteach.experiments.plots import LLM, STUDENT, TEACHER, plot_run

ROUNDS = [
    {"rung": rung, "task": f"Task-{rung}", "round": round, "steps": 4096 * round, "llm_queries": 10 * round}
    | {"success_student": None if round < 3 else round / 12, "success_controlled": round / 24 if rung else None}
    | ({"success_greedy": round / 13} if round % 2 == 0 else {})
    | ({"tune_loss_before": 1.0, "tune_loss_after": 0.5} if round % 4 == 0 else {})
    for rung in (0, 1)
    for round in range(1, 13)
]


def draw(folder: Path, rounds: list[dict[str, Any]], rungs: list[dict[str, Any]] | None = None) -> Any:
    import imageio.v3 as imageio

    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rounds))
    if rungs is not None:
        (folder / "summary.json").write_text(json.dumps({"rungs": rungs}))
    (path,) = plot_run(folder)
    assert path == folder / "plots" / "success.png"
    return imageio.imread(path)


def shows(picture: Any, colour: str) -> int:
    """How many pixels have exactly this colour."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture[..., :3].astype(int) - rgb).max(axis=-1) <= 2).sum())


def test_a_run_without_rounds_has_no_picture(tmp_path: Path) -> None:
    assert plot_run(tmp_path) == []


@pytest.mark.parametrize(("rungs", "width"), [(1, 1050), (2, 1410)])
def test_each_rung_has_its_panel(tmp_path: Path, rungs: int, width: int) -> None:
    assert draw(tmp_path, ROUNDS[: 12 * rungs]).shape[1] == width


def test_rungs_that_took_turns_are_drawn_as_if_one_had_followed_the_other(tmp_path: Path) -> None:
    turns = [row for pair in zip(ROUNDS[:12], ROUNDS[12:], strict=True) for row in pair]
    assert (draw(tmp_path, turns) == draw(tmp_path, ROUNDS)).all()


def test_who_controlled_no_episode_has_no_curve(tmp_path: Path) -> None:
    without = draw(tmp_path, ROUNDS[:12])
    both = draw(tmp_path, ROUNDS[12:])
    assert shows(without, TEACHER) == 0 < shows(both, TEACHER)
    assert min(shows(without, STUDENT), shows(both, STUDENT), shows(both, LLM)) > 0


def test_the_levels_reached_are_marked(tmp_path: Path) -> None:
    never = draw(tmp_path, ROUNDS[:12], [{"steps_to_80": None, "steps_to_95": None}])
    reached = draw(tmp_path, ROUNDS[:12], [{"steps_to_80": 41_000, "steps_to_95": 47_000}])
    assert (never != reached).any()


def test_a_run_under_way_is_drawn_as_far_as_it_is(tmp_path: Path) -> None:
    picture = draw(tmp_path, ROUNDS[:13], [{"steps_to_80": 41_000, "steps_to_95": None}])
    assert picture.shape[1] == 1410
