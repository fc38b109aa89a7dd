"""The figure of a run: success of student and teacher over the steps of each rung, and how often the LLM was asked.

Reads metrics.jsonl (one object a round) and writes PNG files into the run's `plots/`; no display is needed.
The thick line is the greedy evaluation of the student, with rings where it first reached 80 and 95 %, as summary.json has
it; the thin lines are the last training episodes, those that the student controlled and those that the teacher did.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coteach.runs import jsonl

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rounds = Sequence[dict[str, Any]]

STUDENT, TEACHER, LLM, INK = "#0072b2", "#d55e00", "#009e73", "#555555"
"""Colours that people who see colours differently tell apart (Okabe & Ito)."""

MARKS = (0.80, 0.95)

ORDER = ("greedy student", "first at 80 % and 95 %", "student in training", "teacher-controlled in training", "LLM tuned")


PER_PANEL = 3
"""Entries of the legend that fit below one panel."""


def plot_run(folder: Path) -> list[Path]:
    """Draw the run in `folder`; returns the files written, none where no round was logged."""
    rounds = list(jsonl.read(folder / "metrics.jsonl"))
    if not rounds:
        return []
    # Rungs that are climbed side by side take turns.
    rungs = [list(group) for _, group in groupby(sorted(rounds, key=_rung), key=_rung)]
    path = folder / "plots" / "success.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw(rungs, _reached(folder), path)
    return [path]


def _rung(row: dict[str, Any]) -> int:
    return int(row["rung"])


def _reached(folder: Path) -> list[list[int]]:
    """For each rung that is over, the steps at which the student reached 80 and 95 %, where it did."""
    try:
        rungs = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["rungs"]
    except FileNotFoundError:
        return []
    return [[rung[name] for name in ("steps_to_80", "steps_to_95") if rung[name] is not None] for rung in rungs]


def _draw(rungs: Sequence[Rounds], reached: Sequence[Sequence[int]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7.0, 0.6 + 4.4 * len(rungs)), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(rungs), squeeze=False, sharex="col", sharey="row", height_ratios=(3, 1))
    for column, rounds in enumerate(rungs):
        _draw_success(axes[0, column], rounds, reached[column] if column < len(reached) else ())
        _draw_queries(axes[1, column], rounds)
    # The rows share their scale: it is set when all rungs are drawn.
    axes[1, 0].set_ylim(0, 1.08 * max(1.0, *(np.nanmax(_column(rounds, "llm_queries"), initial=0.0) for rounds in rungs)))
    axes[0, 0].set_ylabel("success")
    axes[1, 0].set_ylabel("LLM queries\nso far")
    handles, labels = _legend(axes[0])
    columns = math.ceil(len(labels) / math.ceil(len(labels) / (PER_PANEL + 2 * (len(rungs) - 1))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def _draw_success(axes: Axes, rounds: Rounds, reached: Sequence[int]) -> None:
    steps = _column(rounds, "steps")
    for tuned in steps[_tuned(rounds)]:
        axes.axvline(tuned, color=LLM, linewidth=0.8, alpha=0.45, zorder=0)
    for mark in MARKS:
        axes.axhline(mark, color=INK, linewidth=0.6, linestyle=(0, (2, 3)), zorder=0)
    for who, colour, width, label in (("controlled", TEACHER, 1.4, ORDER[3]), ("student", STUDENT, 0.7, ORDER[2])):
        success = _column(rounds, f"success_{who}")
        if not np.isnan(success).all():
            axes.plot(steps, success, color=colour, linewidth=width, label=label)
    greedy = _column(rounds, "success_greedy")
    evaluated = ~np.isnan(greedy)
    if evaluated.any():
        axes.plot(steps[evaluated], greedy[evaluated], color=STUDENT, linewidth=2.2, label=ORDER[0])
        rings = np.interp(reached, steps[evaluated], greedy[evaluated])
        axes.plot(reached, rings, "o", color=STUDENT, markerfacecolor="white", markeredgewidth=1.6, label=ORDER[1])
    axes.plot([], [], color=LLM, linewidth=0.8, alpha=0.7, label=ORDER[4])
    axes.set_title(str(rounds[0]["task"]), fontsize=10)
    axes.set_ylim(-0.02, 1.04)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    _tidy(axes)


def _draw_queries(axes: Axes, rounds: Rounds) -> None:
    steps, queries = _column(rounds, "steps"), _column(rounds, "llm_queries")
    axes.fill_between(steps, queries, step="post", color=LLM, alpha=0.3, linewidth=0)
    axes.step(steps, queries, where="post", color=LLM, linewidth=1.2)
    axes.set_xlabel("environment steps")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:g}k" if steps else "0")
    _tidy(axes)


def _tuned(rounds: Rounds) -> NDArray[np.bool_]:
    return np.array([row.get("tune_loss_after") is not None for row in rounds])


def _column(rounds: Rounds, name: str) -> NDArray[np.float64]:
    """One metric over the rounds; NaN where it is null or missing."""
    return np.array([row.get(name) for row in rounds], dtype=np.float64)


def _tidy(axes: Axes) -> None:
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.6, zorder=-1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _legend(columns: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """One entry per label, whichever rungs it occurs in."""
    entries: dict[str, Any] = {}
    for axes in columns:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    order = sorted(entries, key=ORDER.index)
    return [entries[label] for label in order], order
