"""The paper's case study: one BabyAI task, budgets of 40 and 2100 iterations, the arms of the loop against `glam`.

The loop's arms are runs of `coteach train` with rounds of one iteration; `glam` is trained here. A run's result is added to
results/case-study/results.jsonl when it has finished, and no run is made twice.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from coteach import config as configuration
from coteach.arms import ARMS as EVERY_ARM
from coteach.errors import CoteachError
from coteach.experiments.compare import Job, source_revision
from coteach.experiments.glam import Glam, GlamConfig
from coteach.experiments.results import FILE, GLAM, Key, Result, budget_of, by_key, keep_result, make_result, read_results
from coteach.runs.machine import environment
from coteach.runs.progress import duration, percent
from coteach.teacher.local.models import load_model

FOLDER = "case-study"
TASK = "BabyAI-GoToRedBallNoDists-v0"
BUDGETS = (40, 2100)
LOOP_ARMS = ("mutual", "one-way", "student-only")
ARMS = (*LOOP_ARMS, GLAM)

ENVS, HORIZON = 16, 16
ITERATION = ENVS * HORIZON
"""Environment steps of an iteration; a round of the loop here."""

IN_FULL = 40
"""Iterations up to which `glam` has no time limit, and no arm stops early."""

STOP_AT = 0.95

COLUMNS = ("arm", "budget", "seeds", "iterations", "success", "return", "wall", "LLM tokens")


@dataclass(frozen=True)
class Study:
    """What is asked for: `seeds` runs of each of `arms` under each budget (in iterations); glam_minutes for a long budget."""

    arms: tuple[str, ...] = ARMS
    budgets: tuple[int, ...] = BUDGETS
    seeds: tuple[int, ...] = (0, 1, 2)
    teacher: str = "smollm2"
    glam_minutes: float = 60.0
    episodes: int = 200
    results: Path = Path("results")
    runs: Path = Path("runs")

    @property
    def folder(self) -> Path:
        """Where its results are kept."""
        return self.results / FOLDER

    def kept(self) -> dict[int, dict[Key, Result]]:
        """The results that there are, for each budget (in iterations)."""
        results = read_results(self.folder)
        steps = {budget: budget * ITERATION for budget in self.budgets}
        return {budget: by_key([r for r in results if budget_of(r) == steps[budget]], FOLDER) for budget in self.budgets}

    def jobs(self) -> list[Job]:
        """The runs of the loop, of all arms but `glam`."""
        arms = [arm for arm in self.arms if arm != GLAM]
        return [self._job(budget, arm, seed) for budget, seed, arm in product(self.budgets, self.seeds, arms)]

    def _job(self, budget: int, arm: str, seed: int) -> Job:
        settings = (
            f"steps={budget * ITERATION}",
            f"collect.envs={ENVS}",
            f"collect.horizon={HORIZON}",
            f"stop_at={1.01 if budget <= IN_FULL else STOP_AT}",
            f"episodes={self.episodes}",
            f"teacher.spec={self.teacher}",
            "threads=1",
        )
        config = configuration.load(None, [*settings, f'tasks=["{TASK}"]', f"arm={arm}", f"seed={seed}"])
        return Job(config, settings, self.runs / FOLDER / str(budget) / f"{arm}-{seed}", self.folder)

    def glam_config(self, seed: int) -> GlamConfig:
        """The baseline's run of a seed, the same for every budget."""
        return GlamConfig(TASK, seed=seed, envs=ENVS, horizon=HORIZON)


@dataclass(frozen=True)
class Line:
    """One line of the table: runs of an arm under a budget, one entry for each of `seeds`."""

    arm: str
    budget: int
    seeds: tuple[int, ...]
    iterations: tuple[int, ...]
    success: tuple[float, ...]
    returns: tuple[float, ...]
    wall_seconds: tuple[float, ...]
    tokens: tuple[int, ...]
    greedy: tuple[float, ...]
    """Success of `glam` with the most probable action at each step; empty for students, whose success is that already."""
    stopped: bool
    """A run ended by time or by success, before the budget was spent."""


def learn_glam(study: Study, seed: int, say: Callable[[str], None]) -> Iterator[int]:
    """Train the baseline of one seed through those budgets whose results are missing; yields each once its result is kept.

    One run serves all budgets: what it is after 40 iterations is a result, and then it goes on.
    """
    kept = study.kept()
    missing = [budget for budget in sorted(study.budgets) if not glam_finished(study, kept[budget], seed)]
    if not missing:
        return
    glam = Glam(study.glam_config(seed), load_model(study.teacher))
    try:
        for budget in missing:
            limit = math.inf if budget <= IN_FULL else 60 * study.glam_minutes
            curve: list[dict[str, Any]] = []

            def report(row: dict[str, Any], curve: list[dict[str, Any]] = curve, budget: int = budget) -> None:
                curve.append({name: row[name] for name in ("steps", "seconds", "success")})
                done = f"{row['steps'] // ITERATION} of {budget} iterations"
                say(f"glam-{seed}: {done}, {duration(row['seconds'])}, {percent(row['success'])} of recent episodes")

            glam.learn(budget * ITERATION, limit, report)
            _keep(study, budget, glam, curve)
            yield budget
    finally:
        glam.close()


def glam_finished(study: Study, kept: Mapping[Key, Result], seed: int) -> bool:
    """Whether its result is among those kept under a budget; CoteachError where that one had other settings."""
    key = Key(TASK, GLAM, seed)
    if key not in kept:
        return False
    config, where = kept[key]["config"], study.folder / FILE
    for name, value in _glam_settings(study, seed).items():
        if config.get(name) != value:
            theirs = f"{name}={config.get(name)!r}"
            raise CoteachError(f"{where}: {key} was made with {theirs}, not {value!r}: delete it, or change --results")
    return True


def _glam_settings(study: Study, seed: int) -> dict[str, Any]:
    return asdict(study.glam_config(seed)) | {"teacher": study.teacher, "episodes": study.episodes}


def _keep(study: Study, budget: int, glam: Glam, curve: list[dict[str, Any]]) -> None:
    """Evaluate the baseline as it is now, and keep the result."""
    began = time.perf_counter()
    drawn, greedy = glam.evaluate(study.episodes), glam.evaluate(study.episodes, greedy=True)
    seed = glam.config.seed
    summary = {
        "task": TASK,
        "arm": GLAM,
        "seed": seed,
        "teacher": study.teacher,
        "engine": glam.environments.engine,
        "budget": budget * ITERATION,
        "steps": glam.steps,
        "minutes": None if budget <= IN_FULL else study.glam_minutes,
        "success": drawn.success,
        "return": drawn.mean_return,
        "success_greedy": greedy.success,
        "llm_tokens": glam.tokens,
        "train_seconds": round(glam.seconds, 3),
        "wall_seconds": round(glam.seconds + time.perf_counter() - began, 3),
        "curve": curve,
    }
    words, machine = ["case-study", *_words(study, budget, seed)], environment(configuration.Config())
    keep_result(study.folder, make_result(words, source_revision(), machine, _glam_settings(study, seed), summary))


def _words(study: Study, budget: int, seed: int) -> list[str]:
    run = ["--arms", GLAM, "--budgets", str(budget), "--seed", str(seed), "--seeds", "1"]
    return [*run, "--teacher", study.teacher, "--glam-minutes", f"{study.glam_minutes:g}"]


def lines(study: Study) -> list[Line]:
    """The table: every arm and budget of which a seed is finished; it says which are."""
    kept, found = study.kept(), []
    for budget, arm in product(study.budgets, study.arms):
        results = {seed: kept[budget].get(Key(TASK, arm, seed)) for seed in study.seeds}
        summaries = {seed: result["summary"] for seed, result in results.items() if result is not None}
        if summaries:
            found.append(_line(arm, budget, summaries))
    return found


def _line(arm: str, budget: int, summaries: dict[int, dict[str, Any]]) -> Line:
    """summaries: by seed, at least one."""

    def each(name: str) -> tuple[Any, ...]:
        return tuple(summary[name] for summary in summaries.values())

    steps = each("steps")
    iterations = tuple(min(count // ITERATION, budget) for count in steps)
    stopped = any(count < budget * ITERATION for count in steps)
    greedy = each("success_greedy") if arm == GLAM else ()
    measured = (each("success"), each("return"), each("wall_seconds"), each("llm_tokens"), greedy)
    return Line(arm, budget, tuple(summaries), iterations, *measured, stopped)


def cells(line: Line) -> tuple[str, ...]:
    """The cells under `COLUMNS`: means over the seeds, with the lowest and the highest where they differ."""
    ended = f" of {line.budget:,}" if line.stopped else ""
    return (
        line.arm,
        f"{line.budget:,}",
        ", ".join(map(str, line.seeds)),
        f"{_mean(line.iterations):,.0f}{ended}",
        _spread(line.success, percent),
        _spread(line.returns, lambda value: f"{value:.2f}"),
        duration(_mean(line.wall_seconds)),
        f"{_mean(line.tokens):,.0f}",
    )


def notes(study: Study, found: Sequence[Line]) -> list[str]:
    """How to read the table, and what was not done in full."""
    said = [
        f"{TASK}: means over the seeds, with the lowest and the highest in brackets. An iteration is "
        f"{ITERATION} environment steps. Success and return: {study.episodes} fixed-seed episodes, students greedy. Tokens: "
        "computed while training; answers from the cache of earlier runs cost none."
    ]
    said += [f"{arm}: {EVERY_ARM[arm].description}." for arm in dict.fromkeys(line.arm for line in found) if arm in LOOP_ARMS]
    if any(line.stopped and line.arm != GLAM for line in found):
        said.append(f"Beyond {IN_FULL} iterations a run of the loop ends once its student has held {percent(STOP_AT)}.")
    greedy = [f"{_spread(line.greedy, percent)} after {_mean(line.iterations):,.0f} iterations" for line in found if line.greedy]
    if greedy:
        said.append(f"glam draws its actions, as in training; with the most probable ones its success is {', '.join(greedy)}.")
    for line in found:
        if line.stopped and line.arm == GLAM:
            took, done = _mean(line.wall_seconds), _mean(line.iterations)
            said.append(
                f"glam was stopped after {duration(took)} with {done:,.0f} of {line.budget:,} iterations done: all of them would "
                f"take about {duration(took / max(done, 1) * line.budget)} a seed on this machine."
            )
    return said


def markdown(study: Study, found: Sequence[Line]) -> str:
    """The table as GitHub shows it, with its notes and the command that makes it."""
    rule = [":--", *["--:"] * (len(COLUMNS) - 1)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (COLUMNS, rule, *map(cells, found)))
    command = f"```\ncoteach case-study --seeds {len(study.seeds)} --glam-minutes {study.glam_minutes:g}\n```"
    return "\n\n".join([table, *notes(study, found), command]) + "\n"


def plain(found: Sequence[Line]) -> list[dict[str, Any]]:
    """The table for machines."""
    return [dataclasses.asdict(line) for line in found]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _spread(values: Sequence[float], text: Callable[[float], str]) -> str:
    """`97 % [95 %, 99 %]`; the value alone where all are the same."""
    if min(values) == max(values):
        return text(values[0])
    return f"{text(_mean(values))} [{text(min(values))}, {text(max(values))}]"
