"""`coteach compare`: arms x seeds on tasks as runs beside each other, then tables and figures of what they came to.

Runs that are finished are not made again: interrupted, the same command goes on. Results stay in results/NAME, from which
--redraw makes tables and figures anew.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coteach.arms import ARMS
from coteach.commands.common import HIGHEST_SEED, print_json, seed_of, whole
from coteach.errors import CoteachError, RunFailed, unknown
from coteach.experiments import compare
from coteach.experiments.compare import DEFAULT_ARMS, Job, Plan
from coteach.experiments.results import by_key, read_results
from coteach.runs.files import file_name, replace_text, user_path
from coteach.runs.progress import duration, percent, print_table

if TYPE_CHECKING:
    from rich.table import Table

    from coteach.experiments.pool import Ended, Standing

HELP = "compare arms over seeds, with intervals, tables and figures"

EXAMPLE = """\
examples:
  coteach compare --task MiniGrid-UnlockPickup-v0 --arms mutual,no-llm,student-only --seeds 5 --steps 100000
  coteach compare --task BabyAI-UnlockPickupDist-v0 --after MiniGrid-UnlockPickup-v0 student.epochs=4
  coteach compare --redraw --name MiniGrid-UnlockPickup-v0

Interrupted, the same command goes on. A run stops early once it has held 95 % (stop_at=1.01: never) and counts on as it ended.
`coteach train --help-all` lists the settings.
"""

TAKEN = {"tasks": "--task", "arm": "--arms", "seed": "--seeds", "steps": "--steps"}
"""Fields that a comparison sets itself, and the flag for each."""

PLAIN_INTERVAL = 30.0
"""Seconds between the lines of the plain display."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach compare`."""
    parser.add_argument("--task", metavar="ID", action="append", help="a task; repeat for a suite, each task on its own")
    parser.add_argument("--after", metavar="ID", action="append", help="a simpler task climbed first, carried over (repeat it)")
    parser.add_argument("--arms", metavar="A,B", help=f"of {', '.join(ARMS)} (default: {','.join(DEFAULT_ARMS)})")
    parser.add_argument("--seeds", metavar="N", help="how many, counted from --seed, or which: 0,3,4 (default: 5)")
    parser.add_argument("--steps", metavar="N", help="environment steps per rung of each run (default: 100000)")
    parser.add_argument("--jobs", metavar="N", help="runs at once, one thread each (default: a run per core)")
    parser.add_argument("--name", help="of the comparison (default: from its tasks)")
    parser.add_argument(
        "--results", metavar="DIR", type=user_path, default=Path("results"), help="finished runs' summaries and curves"
    )
    parser.add_argument("--runs", metavar="DIR", type=user_path, default=Path("runs/compare"), help="the runs themselves")
    parser.add_argument("--redraw", action="store_true", help="only tables and figures, from the results that there are")
    parser.add_argument("overrides", metavar="FIELD=VALUE", nargs="*", help="settings for all runs")
    parser.epilog = EXAMPLE


def run(args: argparse.Namespace) -> int:
    """Make the runs that are missing, then judge all of them."""
    plan = _plan(args)
    if args.redraw:
        plan = compare.narrowed(plan, read_results(plan.folder))
    else:
        failed = make_runs(plan, whole("--jobs", args.jobs, 0, 1, 1024))
        if failed:
            raise RunFailed(f"runs that failed: {failed}; there is no table yet, and the same command makes what is missing")
    _show(plan, as_json=args.json)
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    """What is asked for; for --redraw, empty where it was left open."""
    for text in args.overrides:
        if flag := TAKEN.get(text.partition("=")[0].strip()):
            raise CoteachError(f"{text}: a comparison sets this field itself; use {flag}")
    if args.redraw and (args.overrides or args.after or args.steps or args.jobs):
        raise CoteachError("--redraw takes the results as they are: leave out --after, --steps, --jobs and settings")
    tasks, after = tuple(dict.fromkeys(args.task or [])), tuple(args.after or [])
    if not tasks and not (args.redraw and args.name):
        raise CoteachError("--task is missing: say what to compare on (with --redraw, --name will do)")
    more = f"+{len(tasks) - 1}" if len(tasks) > 1 else ""
    name = args.name or file_name(tasks[0]) + more + "".join(f"-after-{file_name(task)}" for task in after)
    if Path(name).name != name or name.startswith("."):
        raise CoteachError(f"--name {name}: expected the name of a folder")
    arms = arms_of(args.arms) or (() if args.redraw else DEFAULT_ARMS)
    seeds = () if args.redraw and args.seeds is None else seeds_of(args)
    steps = whole("--steps", args.steps, 100_000, 1, 10**12)
    overrides = (f"steps={steps}", "threads=1", "stop_at=0.95", *args.overrides)
    return Plan(name, tasks, arms, seeds, overrides, args.results, args.runs, after)


def arms_of(text: str | None) -> tuple[str, ...]:
    """The arms named in a flag's value."""
    arms = tuple(dict.fromkeys(arm.strip() for arm in text.split(","))) if text else ()
    for arm in arms:
        if arm not in ARMS:
            raise unknown("arm", arm, ARMS)
    return arms


def seeds_of(args: argparse.Namespace) -> tuple[int, ...]:
    """`5`: so many from --seed on; `0,3,4`: those."""
    text, first = args.seeds or "5", seed_of(args, 0)
    if "," not in text:
        return tuple(range(first, first + whole("--seeds", text, 5, 1, 10_000)))
    if args.seed is not None:
        raise CoteachError(f"--seeds {text} says which seeds: leave out --seed {args.seed}")
    return tuple(dict.fromkeys(whole("--seeds", part, 0, 0, HIGHEST_SEED) for part in text.strip(",").split(",")))


def make_runs(plan: Plan, workers: int) -> int:
    """Make what is not there yet; returns how many runs failed."""
    from coteach.envs import tasks
    from coteach.experiments.pool import Pool, locked
    from coteach.runs import machine

    for task in (*plan.after, *plan.tasks):
        tasks.check(task)
    for folder, flag in ((plan.folder, "--results"), (plan.runs / plan.name, "--runs")):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CoteachError(f"cannot make {folder}: {error.strerror or error}; choose another {flag}") from error
    revision, failed = compare.source_revision(), 0
    with locked(plan.runs / plan.name, plan.folder) as lock:
        jobs, kept = plan.jobs(), by_key(read_results(plan.folder), plan.name)
        todo = [job for job in jobs if not job.finished(kept)]

        def ended(end: Ended) -> None:
            nonlocal failed
            if end.error is None:
                end.job.keep(revision)
            failed += end.error is not None
            display.say(f"{end.job.key}: {end.error or 'finished'}")

        for job in [job for job in todo if job.complete()]:  # finished, but interrupted before its result was kept
            job.keep(revision)
            todo.remove(job)
        with Board() as display:
            try:
                Pool(workers or machine.cores(), display, ended).run(todo, len(jobs) - len(todo), lock)
            except (KeyboardInterrupt, SystemExit):
                display.say("stopped; the runs under way have saved, and the same command goes on")
                raise
    return failed


class Board:
    """All runs under way on one board, redrawn in place; in a pipe, a line every now and then."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, refresh_per_second=2) if self._console.is_terminal else None
        self._last = float("-inf")

    def __enter__(self) -> Board:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, standing: Standing) -> None:
        """Show where the comparison stands."""
        if self._live:
            self._live.update(_board(standing))
        elif time.monotonic() - self._last >= PLAIN_INTERVAL:
            self._last = time.monotonic()
            running = "; ".join(" ".join(cells) for cells in _cells(standing))
            self.say(f"{_headline(standing)}: {running}")

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._live:
            self._console.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)


def _board(standing: Standing) -> Table:
    from rich.table import Table

    table = Table(title=_headline(standing), title_justify="left", box=None, pad_edge=False)
    for heading in ("run", "task", "steps", "success"):
        table.add_column(heading, justify="right" if heading in ("steps", "success") else "left", header_style="dim")
    for cells in _cells(standing):
        table.add_row(*cells)
    return table


def _headline(standing: Standing) -> str:
    left = f", at most {duration(standing.seconds_left)} left" if standing.seconds_left is not None else ""
    return f"{standing.done} of {standing.total} runs done{left}"


def _cells(standing: Standing) -> list[tuple[str, ...]]:
    return [
        (_run(state.job), state.job.task, f"{state.steps / 1000:.0f}k of {state.total / 1000:.0f}k", percent(state.success))
        for state in standing.running
    ]


def _run(job: Job) -> str:
    return f"{job.config.arm}-{job.config.seed}"


def _show(plan: Plan, as_json: bool) -> None:
    """Print the tables; leave them, and the figures, with the results."""
    from coteach.experiments import figures, tables

    groups = compare.group(read_results(plan.folder), plan.tasks, plan.arms, plan.seeds, plan.name)
    verdicts, command = tables.judge(groups), compare.command_of(groups, plan.name)
    table = plan.folder / "table.md"
    replace_text(table, tables.markdown(groups, verdicts, command, _made(groups)))
    drawn = figures.draw(groups, verdicts, plan.folder)
    if as_json:
        files = {"table": str(table), "figures": [str(path) for path in drawn]}
        print_json({"name": plan.name, "command": command, "verdicts": [tables.plain(v) for v in verdicts]} | files)
        return
    for task in dict.fromkeys(verdict.task for verdict in verdicts):
        mine = [verdict for verdict in verdicts if verdict.task == task]
        print(task)
        print_table(tables.LEARNING, tables.learning_cells(mine))
        print()
        if task != tables.ALL:
            print_table(tables.PRICE, tables.price_cells(mine))
            print()
    print(f"{tables.note(groups)}\n{tables.arms(groups)}")
    print(f"the same for GitHub: {table}; figures: {', '.join(str(path) for path in drawn)}")


def _made(groups: Any) -> Sequence[str]:
    """What made the results: revisions and processors."""
    results = [result for by_arm in groups.values() for runs in by_arm.values() for result in runs]
    revisions = sorted({str(result["revision"] or f"version {result['version']}") for result in results})
    processors = sorted({f"{result['machine']['processor']}, {result['machine']['cores']} cores" for result in results})
    return [f"Made by revision {', '.join(revisions)} on {'; '.join(processors)}."]
