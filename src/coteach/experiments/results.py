"""The results of a comparison: results/NAME/results.jsonl, one line a finished run, from which tables and figures are made.

A result is self-contained: the command, revision, version and machine that made the run, its whole configuration, and its
summary with the learning curve. Lines are sorted by task, budget, arm and seed, and the file is always replaced as a whole.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from coteach.arms import ARMS
from coteach.errors import CoteachError
from coteach.runs.files import replace_text
from coteach.version import __version__

Result = dict[str, Any]

FILE = "results.jsonl"

GLAM = "glam"
"""The baseline of the case study: the one arm that is not a set of switches of the loop."""

ORDER = (*ARMS, GLAM)

FIELDS = ("command", "revision", "version", "machine", "config", "summary", "finished")


class Key(NamedTuple):
    """What a run is about, within a comparison."""

    task: str
    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.arm}-{self.seed} on {self.task}"


def make_result(
    words: Sequence[str], revision: str | None, machine: Mapping[str, Any], config: Mapping[str, Any], summary: Mapping[str, Any]
) -> Result:
    """The result of a run that is over. words: after `coteach`, they make the run again."""
    return {
        "command": shlex.join(["coteach", *words]),
        "revision": revision,
        "version": __version__,
        "machine": dict(machine),
        "config": dict(config),
        "summary": dict(summary),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def key_of(result: Result) -> Key:
    """The task compared on (the last rung), the arm and the seed."""
    summary = result["summary"]
    return Key(str(summary["task"]), str(summary["arm"]), int(summary["seed"]))


def budget_of(result: Result) -> int:
    """Environment steps allowed on the task."""
    return int(result["summary"]["budget"])


def read_results(folder: Path) -> list[Result]:
    """Every result of a comparison, in the order of tasks, budgets, arms and seeds; none where no run has finished yet.

    Raises `CoteachError` that names the line where one is no result, or is a second one of the same run.
    """
    path = folder / FILE
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found: dict[tuple[Key, int], Result] = {}
    for number, line in enumerate(lines, 1):
        if (result := _result(line)) is None:
            raise CoteachError(f"{path}, line {number}, is not the result of a run: delete the line, and the run is made again")
        of = (key_of(result), budget_of(result))
        if of in found:
            raise CoteachError(f"{path}, line {number}, is a second result of {of[0]}: delete the one or the other")
        found[of] = result
    return sorted(found.values(), key=_place)


def keep_result(folder: Path, result: Result) -> None:
    """Add a result to those of a comparison; it takes the place of an earlier one of the same run.

    For the one process that holds the comparison's lock (`pool.locked`): it reads the file and writes it anew.
    """
    of = (key_of(result), budget_of(result))
    others = [other for other in read_results(folder) if (key_of(other), budget_of(other)) != of]
    write_results(folder, [*others, result])


def write_results(folder: Path, results: Iterable[Result]) -> None:
    """Replace the results of a comparison by these."""
    lines = [json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n" for result in sorted(results, key=_place)]
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / FILE, "".join(lines))


def by_key(results: Iterable[Result], name: str) -> dict[Key, Result]:
    """Results by what they are about; CoteachError where two runs of comparison `name` differ in their budget alone."""
    found: dict[Key, Result] = {}
    for result in results:
        key = key_of(result)
        if key in found:
            budgets = f"{budget_of(found[key])} and {budget_of(result)}"
            raise CoteachError(f"comparison {name!r} has {key} with budgets of {budgets} steps: delete the one or the other")
        found[key] = result
    return found


def _result(line: bytes) -> Result | None:
    """The result on a line of the file, or None where it is not one."""
    try:
        value: Result = json.loads(line)
        arm, summary = value["summary"]["arm"], value["summary"]
        key_of(value), budget_of(value), float(summary["success"]), dict(value["config"])
        learns = arm != GLAM and ARMS[arm].learn
        whole = set(value) >= set(FIELDS) and (bool(summary["curve"]) or not learns)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if whole else None


def _place(result: Result) -> tuple[str, int, int, int]:
    key = key_of(result)
    return key.task, budget_of(result), ORDER.index(key.arm), key.seed
