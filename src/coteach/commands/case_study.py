"""`coteach case-study`: the paper's, arms of the loop against the LLM as its own policy, under its two budgets.

Runs that are finished are not made again: interrupted, the same command goes on. Runs of the loop are made first, several at
once; then the baseline, which has the machine for itself.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from coteach.commands.common import print_json, seed_of, whole
from coteach.errors import CoteachError, RunFailed, unknown
from coteach.runs.files import replace_text, user_path
from coteach.runs.progress import print_table

if TYPE_CHECKING:
    from coteach.experiments.case_study import Study
    from coteach.experiments.pool import Ended

HELP = "the paper's case study: the loop's arms against an LLM tuned by PPO"

EXAMPLE = """\
examples:
  coteach case-study
  coteach case-study --budgets 40 --arms mutual,glam --seeds 1
  coteach case-study --redraw

BabyAI-GoToRedBallNoDists-v0, iterations of 256 environment steps. glam: the LLM itself chooses among the primitive actions and is
tuned by PPO. Interrupted, the same command goes on with the first run that has not finished.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach case-study`."""
    parser.add_argument("--arms", metavar="A,B", help="of mutual, one-way, student-only, glam (default: all of them)")
    parser.add_argument("--budgets", metavar="N,M", help="iterations of each run (default: 40,2100)")
    parser.add_argument("--seeds", metavar="N", help="how many, counted from --seed (default: 3)")
    parser.add_argument("--glam-minutes", metavar="M", help="glam stops after so long beyond 40 iterations (default: 60)")
    parser.add_argument("--teacher", metavar="SPEC", default="smollm2", help="the LLM: smollm2, hf:<id or folder>, gguf:<file>")
    parser.add_argument("--jobs", metavar="N", help="runs of the loop at once, one thread each (default: a run per core)")
    parser.add_argument("--redraw", action="store_true", help="only the table, from the results that there are")
    parser.add_argument("--results", metavar="DIR", type=user_path, default=Path("results"), help="finished runs' summaries")
    parser.add_argument("--runs", metavar="DIR", type=user_path, default=Path("runs"), help="the runs themselves")
    parser.epilog = EXAMPLE


def run(args: argparse.Namespace) -> int:
    """Make the runs that are missing, then print the table."""
    from coteach.experiments import case_study

    if args.redraw and args.jobs:
        raise CoteachError("--redraw makes no runs: leave out --jobs")
    study = _study(args)
    failed = 0 if args.redraw else _make_runs(study, whole("--jobs", args.jobs, 0, 1, 1024))
    found = case_study.lines(study)
    if args.redraw:
        if not found:
            raise CoteachError(f"no finished run in {study.folder}: leave out --redraw, and runs are made")
        replace_text(_table(study), case_study.markdown(study, found))
    if args.json:
        print_json({"lines": case_study.plain(found), "notes": case_study.notes(study, found), "table": str(_table(study))})
    else:
        print_table(case_study.COLUMNS, [case_study.cells(line) for line in found])
        print("\n".join(["", *case_study.notes(study, found), f"the same for GitHub: {_table(study)}"]))
    if failed:
        raise RunFailed(f"{failed} runs failed and are not in the table; the same command makes what is missing")
    return 0


def _study(args: argparse.Namespace) -> Study:
    from coteach.experiments import case_study

    arms = tuple(dict.fromkeys(arm.strip() for arm in args.arms.split(","))) if args.arms else case_study.ARMS
    for arm in arms:
        if arm not in case_study.ARMS:
            raise unknown("arm", arm, case_study.ARMS)
    parts = args.budgets.split(",") if args.budgets else map(str, case_study.BUDGETS)
    budgets = tuple(sorted({whole("--budgets", part.strip(), 0, 1, 1_000_000) for part in parts}))
    first, count = seed_of(args, 0), whole("--seeds", args.seeds, 3, 1, 10_000)
    seeds = tuple(range(first, first + count))
    if args.teacher != "smollm2" and not args.teacher.startswith(("hf:", "gguf:")):
        raise unknown("teacher", args.teacher, ("smollm2", "hf:<id or folder>", "gguf:<file>"))
    folders = {"results": args.results, "runs": args.runs}
    return case_study.Study(arms, budgets, seeds, args.teacher, _minutes(args.glam_minutes), **folders)


def _minutes(text: str | None) -> float:
    try:
        minutes = float(text or 60)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise CoteachError(f"--glam-minutes {text}: expected a number of minutes above 0")
    return minutes


def _table(study: Study) -> Path:
    return study.folder / "table.md"


def _make_runs(study: Study, workers: int) -> int:
    """Make what is not there yet, the table growing with it; returns how many runs failed."""
    from coteach.commands.compare import Board
    from coteach.experiments import case_study
    from coteach.experiments.compare import source_revision
    from coteach.experiments.pool import Pool, locked
    from coteach.experiments.results import GLAM
    from coteach.runs import machine

    revision, failed, jobs, runs = source_revision(), 0, study.jobs(), study.runs / case_study.FOLDER
    for folder, flag in ((study.folder, "--results"), (runs, "--runs")):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CoteachError(f"cannot make {folder}: {error.strerror or error}; choose another {flag}") from error
    with locked(runs, study.folder) as lock, Board() as display:

        def ended(end: Ended) -> None:
            nonlocal failed
            if end.error is None:
                end.job.keep(revision)
            failed += end.error is not None
            written(f"{end.job.key}: {end.error or 'finished'}")

        def written(message: str) -> None:
            replace_text(_table(study), case_study.markdown(study, case_study.lines(study)))
            display.say(message)

        kept = study.kept()
        todo = [job for job in jobs if not job.finished(kept[job.config.steps // case_study.ITERATION])]
        for job in [job for job in todo if job.complete()]:  # finished, but interrupted before its result was kept
            job.keep(revision)
            todo.remove(job)
        Pool(workers or machine.cores(), display, ended).run(todo, len(jobs) - len(todo), lock)
        for seed in study.seeds if GLAM in study.arms else ():
            for budget in case_study.learn_glam(study, seed, display.say):
                written(f"glam-{seed}: finished with {budget} iterations")
    return failed
