"""The figures of a comparison: success over steps, steps to 95 %, and how probably `mutual` is better.

An arm has the same colour in all of them (Okabe & Ito's, and one of Tol's: people who see colours differently tell them apart),
and a panel is a task. They are drawn from results alone, at the width of a README.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coteach.experiments import stats
from coteach.experiments.compare import Groups, curve_of
from coteach.experiments.plots import INK, MARKS
from coteach.experiments.results import Result, budget_of
from coteach.experiments.tables import OURS, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "mutual": "#d55e00",
    "one-way": "#e69f00",
    "no-llm": "#0072b2",
    "uniform": "#56b4e9",
    "student-only": "#000000",
    "ppo": "#882255",
    "llm-only": "#cc79a7",
    "oracle": "#009e73",
    "liar": "#999999",
}

WITHOUT = {
    "no-reweigh": "#e69f00",
    "no-tune": "#0072b2",
    "no-share": "#56b4e9",
    "no-hope": "#000000",
    "no-lead": "#cc79a7",
    "no-replay": "#009e73",
    "shuffled": "#999999",
}
"""Arms that are `mutual` without a part have dashed lines: there are no more colours that everybody tells apart."""

COLOURS |= WITHOUT

LINES = dict.fromkeys(WITHOUT, "--") | {"ppo": ":"}
"""The line of an arm's curve, where it is not a solid one."""

POINTS = 120
"""Steps at which a curve's band is computed."""

COLUMNS = 3
"""Panels side by side, at most."""


def draw(groups: Groups, verdicts: Sequence[Verdict], folder: Path) -> list[Path]:
    """Draw all figures into `folder`; returns the files written."""
    paths = [_curves(groups, folder / "success.png"), _reach(groups, verdicts, folder / "steps.png")]
    if any(verdict.sooner for verdict in verdicts):
        paths.append(_improvement(verdicts, folder / "better.png"))
    return paths


def _curves(groups: Groups, path: Path) -> Path:
    """Success over environment steps: IQM over seeds, with its interval."""
    figure, panels = _panels(list(groups), height=3.6)
    for axes, by_arm in zip(panels, groups.values(), strict=True):
        for arm, results in by_arm.items():
            _curve(axes, arm, results)
        for mark in MARKS:
            axes.axhline(mark, color=INK, linewidth=0.6, linestyle=(0, (2, 3)), zorder=0)
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(_percent)
        _steps_axis(axes, by_arm)
    _legend(figure, panels[0])
    return _save(figure, panels, "success of the greedy student", path)


def _curve(axes: Axes, arm: str, results: Sequence[Result]) -> None:
    grid = np.linspace(0, budget_of(results[0]), POINTS)
    runs = np.array([stats.on_grid(curve_of(result), grid) for result in results])
    points = [stats.estimate(runs[:, [at]]) for at in range(POINTS)]
    low, high, width = [p.low for p in points], [p.high for p in points], 2.4 if arm == OURS else 1.5
    axes.fill_between(grid, low, high, step="post", color=COLOURS[arm], alpha=0.13, linewidth=0)
    look: dict[str, Any] = {"color": COLOURS[arm], "linewidth": width, "linestyle": LINES.get(arm, "-")}
    axes.step(grid, [p.value for p in points], where="post", label=arm, zorder=1 + width, **look)


def _reach(groups: Groups, verdicts: Sequence[Verdict], path: Path) -> Path:
    """Steps to 95 %: every run a dot, the median and its interval; arrows are runs that never got there."""
    rows = max(len(by_arm) for by_arm in groups.values())
    figure, panels = _panels(list(groups), height=1.0 + 0.36 * rows)
    for axes, (task, by_arm) in zip(panels, groups.items(), strict=True):
        mine = [verdict for verdict in verdicts if verdict.task == task]
        for row, verdict in enumerate(mine):
            _dots(axes, row, [result["summary"]["steps_to_95"] for result in by_arm[verdict.arm]], verdict)
        _arm_axis(axes, [verdict.arm for verdict in mine])
        axes.axvline(mine[0].budget, color=INK, linewidth=0.6, linestyle=(0, (2, 3)), zorder=0)
        _steps_axis(axes, by_arm)
        axes.set_xlabel("environment steps to 95 % success")
    return _save(figure, panels, "", path)


def _dots(axes: Axes, row: int, steps: Sequence[int | None], verdict: Verdict) -> None:
    colour, beyond = COLOURS[verdict.arm], 1.05 * verdict.budget
    there = [step for step in steps if step is not None]
    median = verdict.reach["steps_to_95"]
    low, value, high = (min(number, beyond) for number in (median.low, median.value, median.high))
    axes.plot([low, high], [row, row], color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt")
    axes.plot(there, [row + 0.22] * len(there), ".", color=colour, markersize=5)
    if math.isfinite(median.value):
        axes.plot(value, row, "o", color=colour, markersize=7)
    if len(there) < len(steps):
        axes.plot(beyond, row, ">", color=colour, markerfacecolor="white", markersize=8, markeredgewidth=1.5, clip_on=False)
        text = f"{len(steps) - len(there)} of {len(steps)} never"
        axes.annotate(text, (beyond, row), (7, 0), textcoords="offset points", va="center", fontsize=8, color=INK)


def _improvement(verdicts: Sequence[Verdict], path: Path) -> Path:
    """Probability that a run of `mutual` has more success than one of the arm: on the way, and at the end."""
    tasks = list(dict.fromkeys(verdict.task for verdict in verdicts))
    others = [[verdict for verdict in verdicts if verdict.task == task and verdict.sooner] for task in tasks]
    figure, panels = _panels(tasks, height=1.2 + 0.4 * len(others[0]))
    for axes, mine in zip(panels, others, strict=True):
        for row, verdict in enumerate(mine):
            for offset, estimate, face in ((-0.13, verdict.sooner, None), (0.13, verdict.better, "white")):
                assert estimate is not None
                colour = COLOURS[verdict.arm]
                axes.plot([estimate.low, estimate.high], [row + offset] * 2, color=colour, linewidth=2, solid_capstyle="butt")
                axes.plot(estimate.value, row + offset, "o", color=colour, markerfacecolor=face, markersize=6, clip_on=False)
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
        axes.set_xlim(-0.03, 1.03)
        axes.xaxis.set_major_formatter(_percent)
        axes.set_xlabel(f"P({OURS} has more success)")
        _arm_axis(axes, [verdict.arm for verdict in mine])
    panels[0].plot([], [], "o", color=INK, label="over the whole budget")
    panels[0].plot([], [], "o", color=INK, markerfacecolor="white", label="at the end")
    _legend(figure, panels[0])
    return _save(figure, panels, "", path)


def _panels(titles: Sequence[str], height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = math.ceil(len(titles) / COLUMNS)
    columns = math.ceil(len(titles) / rows)
    figure = Figure(figsize=(max(6.4, 3.3 * columns), 0.5 + height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for unused in panels[len(titles) :]:
        unused.remove()
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, panels[: len(titles)]


def _steps_axis(axes: Axes, by_arm: Mapping[str, Sequence[Result]]) -> None:
    budget = budget_of(next(iter(by_arm.values()))[0])
    axes.set_xlim(0, 1.05 * budget)
    axes.set_xlabel("environment steps")
    axes.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:g}k" if steps else "0")


def _arm_axis(axes: Axes, arms: Sequence[str]) -> None:
    axes.set_yticks(range(len(arms)), list(arms))
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = math.ceil(len(labels) / math.ceil(len(labels) / 6))
    look = {"frameon": False, "fontsize": 8.5, "handlelength": 1.6, "columnspacing": 1.4}
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, **look)


def _save(figure: Figure, panels: Sequence[Axes], label: str, path: Path) -> Path:
    panels[0].set_ylabel(label, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def _percent(share: float, _: Any) -> str:
    return f"{100 * share:.0f} %"
