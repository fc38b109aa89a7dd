"""What a comparison came to: one verdict per task and arm, with intervals over its seeds, as tables and as plain values.

Success is that of the finished student on the reference environments; steps to a level are medians in which a run that never
got there counts as more than the budget; costs are means over seeds and sums over rungs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.arms import ARMS, describe_arms
from coteach.experiments import stats
from coteach.experiments.compare import Groups, curve_of
from coteach.experiments.results import Result, budget_of, key_of
from coteach.experiments.stats import Estimate
from coteach.runs.progress import duration

Floats = NDArray[np.float64]

OURS = "mutual"
"""The arm that the others are measured against."""

ALL = "all tasks"

LEVELS = ("steps_to_80", "steps_to_95")

COSTS = ("llm_queries", "llm_tokens", "llm_seconds", "tune_seconds", "wall_seconds")

LEARNING = ("arm", "success, %", "k steps to 80 %", "k steps to 95 %", "P(mutual better)")
PRICE = ("arm", "LLM calls", "LLM tokens", "asking", "tuning", "whole run")


@dataclass(frozen=True)
class Verdict:
    """One arm on one task, or on all of them.

    success: IQM over runs.  reach: level -> median steps, none over several tasks.  reached: level -> runs that got there.
    sooner, better: probability that `mutual` has more success over the whole budget (area under its curve), and at its
    end; None of itself or where it was not run.  costs: means over runs.
    """

    task: str
    arm: str
    runs: int
    budget: int
    success: Estimate
    reach: Mapping[str, Estimate]
    reached: Mapping[str, int]
    sooner: Estimate | None
    better: Estimate | None
    costs: Mapping[str, float]


def judge(groups: Groups) -> list[Verdict]:
    """A verdict per task and arm, and for several tasks one per arm over all of them."""
    verdicts = [_judge(task, [by_arm], arm) for task, by_arm in groups.items() for arm in by_arm]
    if len(groups) > 1:
        verdicts += [_judge(ALL, list(groups.values()), arm) for arm in next(iter(groups.values()))]
    return verdicts


def _judge(task: str, tasks: Sequence[Mapping[str, list[Result]]], arm: str) -> Verdict:
    runs = [result for by_arm in tasks for result in by_arm[arm]]
    levels = LEVELS if len(tasks) == 1 else ()
    reached = {level: [result["summary"][level] for result in runs] for level in levels}
    compared = OURS in tasks[0] and arm != OURS
    return Verdict(
        task,
        arm,
        len(runs),
        budget_of(runs[0]),
        stats.estimate(_scores(tasks, arm, _success)),
        {level: stats.estimate(stats.steps_to(steps), stats.median) for level, steps in reached.items()},
        {level: sum(step is not None for step in steps) for level, steps in reached.items()},
        stats.estimate_improvement(_scores(tasks, OURS, _area), _scores(tasks, arm, _area)) if compared else None,
        stats.estimate_improvement(_scores(tasks, OURS, _success), _scores(tasks, arm, _success)) if compared else None,
        {cost: float(np.mean([_total(result, cost) for result in runs])) for cost in COSTS},
    )


def _scores(tasks: Sequence[Mapping[str, list[Result]]], arm: str, score: Any) -> Floats:
    """(S, T): one score a run."""
    return np.array([[score(result) for result in by_arm[arm]] for by_arm in tasks]).T


def _success(result: Result) -> float:
    return float(result["summary"]["success"])


def _area(result: Result) -> float:
    return stats.area(curve_of(result), budget_of(result))


def _total(result: Result, cost: str) -> float:
    """Over all rungs: those climbed first are paid for too."""
    return float(sum(rung[cost] for rung in result["summary"]["rungs"]))


def plain(verdict: Verdict) -> dict[str, Any]:
    """As JSON: null stands for "beyond the budget"."""
    value: dict[str, Any] = _finite(asdict(verdict))
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def learning_cells(verdicts: Sequence[Verdict]) -> list[tuple[str, ...]]:
    """The cells under `LEARNING`."""
    return [
        (
            verdict.arm,
            _interval(verdict.success, lambda share: f"{100 * share:.1f}".removesuffix(".0")),
            *(_steps(verdict.reach.get(level), verdict.budget) for level in LEVELS),
            _interval(verdict.sooner, lambda share: f"{share:.2f}"),
        )
        for verdict in verdicts
    ]


def price_cells(verdicts: Sequence[Verdict]) -> list[tuple[str, ...]]:
    """The cells under `PRICE`."""
    return [
        (
            verdict.arm,
            *(f"{verdict.costs[cost]:,.0f}" for cost in COSTS[:2]),
            *(duration(verdict.costs[cost]) for cost in COSTS[2:]),
        )
        for verdict in verdicts
    ]


def _steps(estimate: Estimate | None, budget: int) -> str:
    return _interval(estimate, lambda steps: f"{steps / 1000:.3g}" if math.isfinite(steps) else f">{budget / 1000:g}")


def _interval(estimate: Estimate | None, text: Any) -> str:
    """`0.9 [0.8, 1]`; a dash where there is none, the value alone where it is also both ends."""
    if estimate is None:
        return "-"
    value, low, high = (text(number) for number in (estimate.value, estimate.low, estimate.high))
    return value if value == low == high else f"{value} [{low}, {high}]"


def note(groups: Groups) -> str:
    """How to read the tables."""
    by_arm = next(iter(groups.values()))
    runs = next(iter(by_arm.values()))
    return (
        f"Runs of {budget_of(runs[0]):,} steps; seeds: {', '.join(str(key_of(run).seed) for run in runs)}. "
        "Interquartile means (of steps: medians) and 95 % bootstrap intervals over seeds. "
        "Success: of the greedy student at the end. Steps beyond the budget: so many runs never got there. "
        "P(mutual better): how probably a run of mutual has more success over the whole budget. Costs: means of a run."
    )


def arms(groups: Groups) -> str:
    """What each arm of the tables is, a line each."""
    return describe_arms(next(iter(groups.values())))


def markdown(groups: Groups, verdicts: Sequence[Verdict], command: str, made: Sequence[str]) -> str:
    """The tables as GitHub shows them, the command under them, and what made the runs."""
    parts = []
    for task in dict.fromkeys(verdict.task for verdict in verdicts):
        mine = [verdict for verdict in verdicts if verdict.task == task]
        parts += [f"**{task}**", _grid(LEARNING, learning_cells(mine))]
        parts += [_grid(PRICE, price_cells(mine))] if task != ALL else []
    parts += [note(groups), _arm_list(groups), f"```\n{command}\n```", *made]
    return "\n\n".join(parts) + "\n"


def _arm_list(groups: Groups) -> str:
    return "\n".join(f"- `{arm}`: {ARMS[arm].description}" for arm in next(iter(groups.values())))


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = [":--"] + ["--:"] * (len(columns) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rule, *rows))
