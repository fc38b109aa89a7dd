"""The ladder: tasks that get harder, climbed one after the other with everything carried over.

A rung is done when the greedy student has held 95 % and passes 200 episodes of the reference environments with it. What
the teacher has learned shows in the difference to a climb on which it begins anew on every rung, and likewise the student.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coteach.experiments.compare import Plan
from coteach.experiments.results import Result
from coteach.runs.progress import duration, percent

LADDER = (
    "BabyAI-GoToRedBallNoDists-v0",
    "BabyAI-GoToLocal-v0",
    "BabyAI-PickupLoc-v0",
    "MiniGrid-DoorKey-8x8-v0",
    "MiniGrid-Unlock-v0",
    "MiniGrid-UnlockPickup-v0",
    "BabyAI-UnlockPickupDist-v0",
    "MiniGrid-BlockedUnlockPickup-v0",
    "MiniGrid-KeyCorridorS3R3-v0",
    "MiniGrid-KeyCorridorS6R3-v0",
    "MiniGrid-ObstructedMaze-1Dlhb-v0",
    "MiniGrid-ObstructedMaze-2Dlh-v0",
    "BabyAI-PutNextLocal-v0",
    "BabyAI-GoTo-v0",
    "BabyAI-BossLevel-v0",
)

STEPS = 1_000_000
"""A rung's budget."""

COLUMNS = ("rung", "arm", "seed", "done", "steps", "student", "teacher before", "teacher after", "LLM calls", "time")


def plan(
    rungs: Sequence[str], arms: Sequence[str], seeds: Sequence[int], steps: int, fresh: str, name: str, overrides: Sequence[str],
    results: Path, runs: Path,
) -> Plan:  # fmt: skip
    """The climbs, as a comparison's runs of several rungs."""
    settings = (f"steps={steps}", "threads=1", "stop_at=0.95", f"fresh={fresh}", *overrides)
    return Plan(name, (rungs[-1],), tuple(arms), tuple(seeds), settings, results, runs, tuple(rungs[:-1]))


def rows(summaries: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Table cells of the rungs of one or more climbs, under `COLUMNS`."""
    return [
        (
            f"{rung['rung'] + 1} {rung['task']}",
            rung["arm"],
            str(rung["seed"]),
            "yes" if rung["held"] else "no",
            f"{rung['steps'] / 1000:.0f}k",
            percent(rung["success"]),
            percent(rung["teacher_success_before"]),
            percent(rung["teacher_success_after"]),
            str(rung["llm_queries"]),
            duration(rung["wall_seconds"]),
        )
        for rung in summaries
    ]


def by_rung(results: Iterable[Result]) -> list[Mapping[str, Any]]:
    """The summaries of all rungs of all climbs, rung by rung."""
    rungs = [rung for result in results for rung in result["summary"]["rungs"]]
    return sorted(rungs, key=lambda rung: (rung["rung"], rung["arm"], rung["seed"]))


def markdown(results: Sequence[Result]) -> str:
    """The table for GitHub, with the commands that made it."""
    lines = [" | ".join(cells) for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows(by_rung(results)))]
    commands = sorted({f"`{result['command']}` (revision {result['revision']})" for result in results})
    return "\n".join([*(f"| {line} |" for line in lines), "", *commands]) + "\n"
