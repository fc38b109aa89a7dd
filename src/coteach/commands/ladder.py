"""`coteach ladder`: climb tasks that get harder, carrying everything over, and say on which rungs the student was done."""

from __future__ import annotations

import argparse
from pathlib import Path

from coteach.commands.common import print_json, whole
from coteach.commands.compare import arms_of, make_runs, seeds_of
from coteach.config import FRESH
from coteach.errors import CoteachError, RunFailed, unknown
from coteach.experiments import ladder
from coteach.experiments.ladder import LADDER, STEPS
from coteach.experiments.results import by_key, read_results
from coteach.runs.files import user_path
from coteach.runs.progress import print_table

HELP = "climb ever harder tasks with everything carried over"

EXAMPLE = """\
examples:
  coteach ladder --rungs 10
  coteach ladder --arms mutual,no-llm --seeds 3 --rungs 7
  coteach ladder --fresh teacher
  coteach ladder --task BabyAI-GoToLocal-v0 --task BabyAI-PickupLoc-v0 --task BabyAI-PutNextLocal-v0 --name words

Interrupted, the same command goes on. The default ladder, from its foot:
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach ladder`."""
    parser.add_argument("--task", metavar="ID", action="append", help="the rungs, if not the default ladder's (repeat it)")
    parser.add_argument("--rungs", metavar="N", help="only the first N rungs")
    parser.add_argument("--arms", metavar="A,B", help="default: mutual")
    parser.add_argument("--seeds", metavar="N", help="how many, counted from --seed, or which: 0,3,4 (default: 1)")
    parser.add_argument("--steps", metavar="N", help=f"a rung's budget of environment steps (default: {STEPS})")
    parser.add_argument("--fresh", default="nothing", help="teacher or student: begins anew on each rung (default: nothing)")
    parser.add_argument("--jobs", metavar="N", help="climbs at once, one thread each (default: one per core)")
    parser.add_argument("--name", help="of the results' folder (default: ladder)")
    parser.add_argument("--results", metavar="DIR", type=user_path, default=Path("results"), help="finished climbs' summaries")
    parser.add_argument("--runs", metavar="DIR", type=user_path, default=Path("runs/ladder"), help="the runs themselves")
    parser.add_argument("overrides", metavar="FIELD=VALUE", nargs="*", help="settings for all climbs")
    parser.epilog = EXAMPLE + "".join(f"  {task}\n" for task in LADDER)


def run(args: argparse.Namespace) -> int:
    """Make the climbs that are missing, then show every rung of all of them."""
    from coteach.runs.files import replace_text

    if args.fresh not in FRESH:
        raise unknown("--fresh", args.fresh, FRESH)
    rungs = args.task or list(LADDER)
    rungs = rungs[: whole("--rungs", args.rungs, len(rungs), 1, len(rungs))]
    name = args.name or ("ladder" if args.fresh == "nothing" else f"ladder-fresh-{args.fresh}")
    if Path(name).name != name:
        raise CoteachError(f"--name {name}: expected the name of a folder")
    args.seeds = args.seeds or "1"
    arms, steps = arms_of(args.arms) or ("mutual",), whole("--steps", args.steps, STEPS, 1, 10**12)
    plan = ladder.plan(rungs, arms, seeds_of(args), steps, args.fresh, name, args.overrides, args.results, args.runs)
    failed = make_runs(plan, whole("--jobs", args.jobs, 0, 1, 1024))
    if failed:
        raise RunFailed(f"climbs that failed: {failed}; the same command makes what is missing")
    kept = by_key(read_results(plan.folder), plan.name)
    results = [kept[job.key] for job in plan.jobs()]
    table = plan.folder / "table.md"
    replace_text(table, ladder.markdown(results))
    if args.json:
        print_json({"name": name, "rungs": ladder.by_rung(results), "table": str(table)})
    else:
        print_table(ladder.COLUMNS, ladder.rows(ladder.by_rung(results)))
        print(f"the same for GitHub: {table}")
    return 0
