"""Results of runs that never were, for tests of comparisons."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from coteach import config as configuration
from coteach.experiments.results import keep_result

STEPS = 100_000


def summary(task: str, curve: list[list[float]], **changed: Any) -> dict[str, Any]:
    """What the loop writes of one rung with this learning curve."""
    reached = {level: next((steps for steps, share in curve if share >= level / 100), None) for level in (80, 95)}
    costs = {"llm_queries": 100, "llm_tokens": 2000, "llm_seconds": 8.0, "tune_seconds": 4.0, "wall_seconds": 60.0}
    return {
        "task": task, "engine": "envpool", "success": curve[-1][1], "curve": curve,
        "steps_to_80": reached[80], "steps_to_95": reached[95],
    } | costs | changed  # fmt: skip


def result(
    task: str, arm: str, seed: int, curve: list[list[float]], overrides: tuple[str, ...] = (), **changed: Any
) -> dict[str, Any]:
    """A kept result. `overrides`: settings; `changed`: fields of the summary."""
    settings = [f"steps={STEPS}", "threads=1", "stop_at=0.95", *overrides]
    config = configuration.load(None, [*settings, f"tasks={json.dumps([task])}", f"arm={arm}", f"seed={seed}"])
    rung = summary(task, curve, arm=arm, seed=seed, budget=config.steps) | changed
    return {
        "command": "coteach train",
        "revision": "abc1234",
        "version": "0.1.0",
        "machine": {"processor": "a processor", "cores": 2},
        "config": dataclasses.asdict(config),
        "summary": rung | {"rungs": [rung]},
        "finished": "2026-01-01T00:00:00+00:00",
    }


def keep(folder: Path, *results: dict[str, Any]) -> None:
    """Lay results down as a comparison does."""
    for entry in results:
        keep_result(folder, entry)


def learner(speed: float, ceiling: float = 1.0) -> list[list[float]]:
    """A curve that rises in a line to its ceiling and stays there."""
    return [[steps, round(min(ceiling, speed * steps / STEPS), 3)] for steps in range(0, STEPS + 1, 4000)]
