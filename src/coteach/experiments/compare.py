"""Comparisons: arms x seeds on tasks, as runs that are made once, whose results are kept and judged together.

A `Plan` says which runs there ought to be; `Job`s are those runs. What a finished run came to is a line of
results/NAME/results.jsonl (see `results`), so tables and figures need no runs.
Runs that cannot be compared (other settings, engines, budgets, missing seeds) are refused, never averaged over.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from coteach import config as configuration
from coteach.arms import ARMS
from coteach.config import Config
from coteach.errors import CoteachError
from coteach.experiments.results import FILE, Key, Result, by_key, keep_result, key_of, make_result
from coteach.runs.files import file_name
from coteach.runs.run_folder import Run

DEFAULT_ARMS = ("mutual", "one-way", "no-llm", "uniform", "student-only", "ppo", "oracle")

APART = ("tasks", "arm", "seed")
"""Fields in which the runs of a comparison differ from each other."""

IRRELEVANT = ("threads", "student.device", "teacher.device")
"""Fields that change how fast a run is, not what it is about."""


@dataclass(frozen=True)
class Plan:
    """A comparison: which arms and seeds on which tasks, each after the rungs `after`; `overrides` are settings for all."""

    name: str
    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    results: Path
    runs: Path
    after: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where its results are kept."""
        return self.results / self.name

    def jobs(self) -> list[Job]:
        """Every run there ought to be, so ordered that the arms of one seed are played together."""
        return [self._job(task, arm, seed) for task, seed, arm in product(self.tasks, self.seeds, self.arms)]

    def _job(self, task: str, arm: str, seed: int) -> Job:
        own = [f"tasks={json.dumps([*self.after, task])}", f"arm={arm}", f"seed={seed}"]
        config = configuration.load(None, [*self.overrides, *own])
        return Job(config, self.overrides, self.runs / self.name / file_name(task) / f"{arm}-{seed}", self.folder)


@dataclass(frozen=True, eq=False)
class Job:
    """One run of a comparison: its configuration, the settings that make it so, its folder, and the folder of the results."""

    config: Config
    overrides: tuple[str, ...]
    folder: Path
    results: Path

    @property
    def task(self) -> str:
        """The task compared on: the last rung."""
        return self.config.tasks[-1]

    @property
    def key(self) -> Key:
        """What it is about; its name in a message too."""
        return Key(self.task, self.config.arm, self.config.seed)

    def command(self) -> list[str]:
        """The words after `coteach` that begin it, or that go on with what there is of it."""
        return ["train", "--resume", str(self.folder)] if self.begun() else self._first()

    def begun(self) -> bool:
        """Whether there is a run of it to go on with."""
        return (self.folder / "config.toml").is_file()

    def _first(self) -> list[str]:
        tasks = [word for task in self.config.tasks for word in ("--task", task)]
        own = ["--arm", self.config.arm, "--seed", str(self.config.seed), "--out", str(self.folder)]
        return ["train", *tasks, *own, *self.overrides]

    def finished(self, kept: Mapping[Key, Result]) -> bool:
        """Whether its result is among those kept; CoteachError where that, or the run that was begun, had other settings."""
        if self.key in kept:
            self._refuse_other(kept[self.key]["config"], f"{self.results / FILE}: {self.key}")
            return True
        if self.begun():
            self._refuse_other(dataclasses.asdict(Run.open(self.folder).config), str(self.folder))
        return False

    def complete(self) -> bool:
        """Whether the run itself is over: every rung has its summary."""
        path = self.folder / "summary.json"
        return path.is_file() and len(json.loads(path.read_text(encoding="utf-8"))["rungs"]) == len(self.config.tasks)

    def keep(self, revision: str | None) -> None:
        """Add the result of the run, which is over, to those of the comparison."""
        machine, summary = (
            json.loads((self.folder / name).read_text(encoding="utf-8")) for name in ("environment.json", "summary.json")
        )
        config = dataclasses.asdict(Run.open(self.folder).config)
        keep_result(self.results, make_result(self._first(), revision, machine, config, summary))

    def _refuse_other(self, config: Mapping[str, Any], what: str) -> None:
        field = differing(config, dataclasses.asdict(self.config))
        if field:
            theirs, ours = flat(config)[field], flat(dataclasses.asdict(self.config))[field]
            raise CoteachError(f"{what} was made with {field}={theirs!r}, not {ours!r}: choose another --name, or delete it")


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted name -> value. A field that a result of an older version lacks has today's default."""
    given = dict(_leaves(config))
    return {name: given.get(name, default) for name, default in _leaves(dataclasses.asdict(Config()))}


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def differing(one: Mapping[str, Any], other: Mapping[str, Any], ignored: Sequence[str] = IRRELEVANT) -> str | None:
    """The first field in which two configurations differ, or None."""
    ours, theirs = flat(one), flat(other)
    return next((name for name in ours if name not in ignored and ours[name] != theirs[name]), None)


def curve_of(result: Result) -> list[list[float]]:
    """Success of the greedy student over the steps; an arm whose student does not learn has its advice's success throughout."""
    summary = result["summary"]
    if not ARMS[summary["arm"]].learn:
        return [[0, summary["success"]]]
    curve: list[list[float]] = summary["curve"]
    return curve


Groups = dict[str, dict[str, list[Result]]]
"""Task -> arm -> results, a seed each."""


def group(results: Iterable[Result], tasks: Sequence[str], arms: Sequence[str], seeds: Sequence[int], name: str) -> Groups:
    """The results that a comparison is about; CoteachError where one is missing or they cannot be compared."""
    kept = by_key(results, name)
    wanted = [Key(*key) for key in product(tasks, arms, seeds)]
    missing = [str(key) for key in wanted if key not in kept]
    if missing:
        few = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        raise CoteachError(
            f"comparison {name!r} lacks {few}: nothing is averaged over missing seeds; "
            f"`coteach compare` without --redraw makes them, or leave them out with --arms and --seeds"
        )
    _check_alike([kept[key] for key in wanted], name)
    return {task: {arm: [kept[Key(task, arm, seed)] for seed in seeds] for arm in arms} for task in tasks}


def _check_alike(results: Sequence[Result], name: str) -> None:
    """Refuse results of other settings or, on one task, of two engines."""
    first = results[0]
    engines: dict[str, str] = {}
    for result in results:
        field = differing(result["config"], first["config"], (*APART, *IRRELEVANT))
        if field is None and result["config"]["tasks"][:-1] != first["config"]["tasks"][:-1]:
            field = "tasks"
        if field:
            one, other = (flat(each["config"])[field] for each in (first, result))
            raise CoteachError(
                f"comparison {name!r} has {_label(first)} with {field}={one!r} and {_label(result)} with {other!r}: "
                "these cannot be compared; delete the one or the other"
            )
        engine, task = result["summary"]["engine"], key_of(result).task
        if engines.setdefault(task, engine) != engine:
            raise CoteachError(
                f"comparison {name!r} has two engines on {task}, {_label(result)} being played by {engine!r}: "
                "these cannot be compared; delete the one or the other, and set engine=minigrid or engine=envpool"
            )


def _label(result: Result) -> str:
    _, arm, seed = key_of(result)
    return f"{arm}-{seed}"


def source_revision() -> str | None:
    """`git describe` of the source this package runs from, with -dirty where its code was changed; None outside git."""
    here = Path(__file__).resolve().parents[1]
    if not (here.parents[1] / ".git").exists():
        return None
    git = ["git", "-C", str(here)]
    try:
        said = subprocess.run([*git, "describe", "--always"], capture_output=True, text=True, timeout=5, check=True)
        clean = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."], capture_output=True, timeout=5).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() + ("" if clean else "-dirty")


def command_of(groups: Groups, name: str) -> str:
    """The command that makes a comparison from nothing, read off its results."""
    tasks, arms = list(groups), list(next(iter(groups.values())))
    results = groups[tasks[0]][arms[0]]
    given, plain = flat(results[0]["config"]), flat(dataclasses.asdict(Config()))
    seeds = ",".join(str(key_of(result).seed) for result in results)
    words = ["coteach", "compare", "--name", name, *(word for task in tasks for word in ("--task", task))]
    words += [word for task in given["tasks"][:-1] for word in ("--after", task)]
    words += ["--arms", ",".join(arms), "--seeds", seeds if "," in seeds else f"{seeds},", "--steps", str(given["steps"])]
    ignored = (*APART, *IRRELEVANT, "steps")
    changed = [field for field in given if given[field] != plain[field] or field == "stop_at"]  # of that, `compare` has its own
    words += [f"{field}={given[field]}" for field in changed if field not in ignored]
    return shlex.join(words)


def narrowed(plan: Plan, results: Sequence[Result]) -> Plan:
    """The plan of what there is, where `plan` does not say otherwise: empty tasks, arms and seeds mean all that are kept."""
    if not results:
        raise CoteachError(f"{plan.folder} has no results: without --redraw they are made, or choose another --name or --results")
    keys = [key_of(result) for result in results]
    tasks = plan.tasks or tuple(dict.fromkeys(key.task for key in keys))
    arms = plan.arms or tuple(dict.fromkeys(key.arm for key in keys))
    seeds = plan.seeds or tuple(sorted({key.seed for key in keys}))
    return replace(plan, tasks=tasks, arms=arms, seeds=seeds)
