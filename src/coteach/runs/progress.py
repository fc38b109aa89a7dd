"""Show the progress of a run, and the table at its end.

The loop calls a display with a `Progress`. At a terminal the display is one panel, refreshed in place; in a pipe it
prints a plain line every few seconds. Progress goes to standard error and results to standard output, so that
`coteach ... > file` keeps only results. Colours follow NO_COLOR.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

from coteach.errors import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.panel import Panel

PLAIN_INTERVAL = 5.0
"""Seconds between the lines of a plain display."""


@dataclass(frozen=True)
class Progress:
    """The state of a run, for a display.

    rung, rungs:        this rung, counted from 0, and how many there are.
    steps, total_steps: environment steps of this rung, taken and at most.
    phase, detail:      one word (collect, advise, tune, evaluate, school), and more about it, or nothing.
    success_student, success_controlled: share of the recent student-controlled and teacher-controlled episodes that
                        succeeded; None before the first one has ended.
    llm_queries, llm_tokens, llm_money, llm_failures: the LLM's usage so far; money in US dollars.
    seconds_elapsed:    seconds since the run began. steps_per_second: of this rung.
    over:               whether the rung is over.
    others:             the other rungs that are trained together with this one; of them only task, steps, rates and
                        successes are shown.
    """

    rung: int
    rungs: int
    task: str
    steps: int
    total_steps: int
    phase: str
    success_student: float | None
    success_controlled: float | None
    llm_queries: int
    seconds_elapsed: float
    steps_per_second: float
    llm_tokens: int = 0
    llm_money: float = 0.0
    llm_failures: int = 0
    detail: str = ""
    over: bool = False
    others: tuple[Progress, ...] = ()

    @property
    def active(self) -> tuple[Progress, ...]:
        """Return this rung and those trained together with it."""
        return (self, *self.others)

    @property
    def seconds_left(self) -> float | None:
        """Return the most seconds left at the present rate, without fine-tuning after a rung and evaluations.

        A rung may end early. None while the rate is 0, and if no steps are left.
        """
        running = [progress for progress in self.active if not progress.over]
        later = self.rungs - self.rung - len(self.active)
        if any(progress.steps_per_second <= 0 for progress in running) or not (running or later):
            return None
        left = [max(progress.total_steps - progress.steps, 0) / progress.steps_per_second for progress in running]
        return max(left, default=0.0) + (later * self.total_steps / self.steps_per_second if later else 0.0)


class Display(Protocol):
    """A context manager that shows a `Progress` each time it is called."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def __call__(self, progress: Progress) -> None:
        """Show `progress`."""
        ...


def make_display(stream: TextIO | None = None) -> Display:
    """Make the live display for a terminal, the plain one otherwise; `stream` defaults to standard error."""
    stream = stream or sys.stderr
    console = _console(stream)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveDisplay(console)
    return PlainDisplay(stream)


class PlainDisplay:
    """Print a line when a rung begins, and then one every few seconds."""

    def __init__(self, stream: TextIO, interval: float = PLAIN_INTERVAL) -> None:
        self._stream = stream
        self._interval = interval
        self._last_time = float("-inf")
        self._last_rung = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.flush()

    def __call__(self, progress: Progress) -> None:
        """Print a line if one is due."""
        now = time.monotonic()
        if progress.rung == self._last_rung and now - self._last_time < self._interval:
            return
        self._last_time, self._last_rung = now, progress.rung
        print(line(progress), file=self._stream, flush=True)


class LiveDisplay:
    """Show one panel, redrawn in place twice a second so that its clock runs during a long phase; its last state remains."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._progress: Progress | None = None
        self._since = 0.0
        self._live = Live(console=console, refresh_per_second=2, get_renderable=self._draw)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Store `progress`; the next refresh draws it."""
        self._progress, self._since = progress, time.monotonic()

    def _draw(self) -> RenderableType:
        if self._progress is None:
            return "coteach: getting ready"
        waited = time.monotonic() - self._since
        return _panel(replace(self._progress, seconds_elapsed=self._progress.seconds_elapsed + waited))


def line(progress: Progress) -> str:
    """Return one line of plain text for a log."""
    left = f", at most {duration(progress.seconds_left)} left" if progress.seconds_left is not None else ""
    said = "; ".join(_standing(one) for one in progress.active)
    return (
        f"{_title(progress)}{':' if progress.others else ''} {said}, {_now(progress)}, "
        f"{progress.llm_queries:,} LLM queries{_cost(progress)}, {_rate(progress):,.0f} steps/s, "
        f"{duration(progress.seconds_elapsed)}{left}"
    )


def _title(progress: Progress) -> str:
    return f"{len(progress.active)} tasks together" if progress.others else f"rung {progress.rung + 1}/{progress.rungs}"


def _standing(progress: Progress) -> str:
    """Return task, steps and successes of one rung."""
    return (
        f"{printable(progress.task)}: {progress.steps:,}/{progress.total_steps:,} steps, "
        f"student {percent(progress.success_student)}, teacher {percent(progress.success_controlled)}"
    )


def _now(progress: Progress) -> str:
    """Return the phase with its detail."""
    return f"{progress.phase} ({progress.detail})" if progress.detail else progress.phase


def _rate(progress: Progress) -> float:
    """Return environment steps per second, over all rungs trained together."""
    return sum(one.steps_per_second for one in progress.active)


def _cost(progress: Progress) -> str:
    """Return tokens, money and failures of the LLM, as far as they are not 0."""
    tokens = f" ({progress.llm_tokens:,} tokens" + (f", ${progress.llm_money:.2f})" if progress.llm_money else ")")
    failed = f", {progress.llm_failures:,} calls failed" if progress.llm_failures else ""
    return (tokens if progress.llm_tokens else "") + failed


def _panel(progress: Progress) -> Panel:
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2), expand=False)
    grid.add_column(style="dim")
    grid.add_column(min_width=42)
    left = f", at most {duration(progress.seconds_left)} left" if progress.seconds_left is not None else ""
    for one in progress.active:
        grid.add_row("task", Text(printable(one.task), style="bold"))
        grid.add_row("", ProgressBar(total=max(one.total_steps, 1), completed=one.steps, width=40))
        grid.add_row("steps", f"{one.steps:,} of {one.total_steps:,} steps at {one.steps_per_second:,.0f}/s")
        grid.add_row("student", f"[green]{percent(one.success_student)}[/green] of its recent episodes succeeded")
        grid.add_row(
            "teacher", f"[cyan]{percent(one.success_controlled)}[/cyan] of the recent episodes that it controlled succeeded"
        )
    grid.add_row("LLM", f"{progress.llm_queries:,} queries{_cost(progress)}")
    grid.add_row("now", _now(progress))
    grid.add_row("time", duration(progress.seconds_elapsed) + left)
    return Panel(grid, title=f"coteach: {_title(progress)}", title_align="left", expand=False)


COLUMNS = ("task", "teacher before", "teacher after", "student", "steps to 80 %", "steps to 95 %", "LLM calls", "time")


def summary_rows(summaries: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the cells of the final table, one row per rung; `summaries` have the keys of summary.json."""
    return [
        (
            str(summary["task"]),
            percent(summary["teacher_success_before"]),
            percent(summary["teacher_success_after"]),
            percent(summary["success"]),
            _thousands(summary["steps_to_80"]),
            _thousands(summary["steps_to_95"]),
            f"{summary['llm_queries']:,}",
            duration(summary["wall_seconds"]),
        )
        for summary in summaries
    ]


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table to standard output: with rules and colours at a terminal, as aligned text in a pipe.

    The first `left` columns are text and left-aligned, the others are numbers and right-aligned. Characters that would move
    the cursor are escaped, because some cells have text of a task or a model.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    console = _console(sys.stdout)
    if not console.is_terminal:
        print(aligned(columns, rows, left))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    narrow = console.width < 100
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0 if narrow else 1))
    for number, name in enumerate(columns):
        table.add_column(
            name.replace(" %", "\u00a0%"),
            justify="left" if number < left else "right",
            style="" if number else "bold",
            no_wrap=not number,
        )
    for row in rows:
        # Headings may wrap, numbers and their units may not.
        table.add_row(*(Text(cell if number < left else cell.replace(" ", "\u00a0")) for number, cell in enumerate(row)))
    console.print(table)


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return the table of `print_table` as plain text."""
    lines = [columns, *rows]
    widths = [max(len(row[index]) for row in lines) for index in range(len(columns))]

    def pad(row: Sequence[str]) -> list[str]:
        return [row[i].ljust(width) if i < left else row[i].rjust(width) for i, width in enumerate(widths)]

    return "\n".join("  ".join(pad(row)).rstrip() for row in lines)


def percent(share: float | None) -> str:
    """Format a share: 0.625 -> "62.5 %"; None -> a dash."""
    return "-" if share is None else f"{100 * share:.1f} %".replace(".0 %", " %")


def duration(seconds: float | None) -> str:
    """Format a time in seconds: 75 -> "1m15s"; None -> a dash."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def _thousands(steps: int | None) -> str:
    return "-" if steps is None else f"{steps / 1000:.1f}k"


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False)
