"""`coteach tasks`: every task id, and how much of it the options can express.

The share is measured: a scripted expert that may only choose among the options succeeds in this share of
episodes, so no teacher can do better by advice alone. Shares come with the package; not every id has one.
"""

from __future__ import annotations

import argparse
import json
from importlib import resources

from coteach.commands.common import print_json
from coteach.errors import CoteachError
from coteach.progress import percent, print_table

HELP = "list the tasks, and how much of each the options can express"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach tasks`."""
    parser.add_argument("pattern", nargs="?", default="", help="only ids that contain this (upper or lower case)")
    parser.epilog = "example:\n  coteach tasks unlock"


def run(args: argparse.Namespace) -> int:
    """List the tasks."""
    from coteach.tasks import task_ids

    shares = oracle_shares()
    ids = [task for task in task_ids() if args.pattern.lower() in task.lower()]
    if not ids:
        raise CoteachError(f"no task id contains {args.pattern!r}: `coteach tasks` without it lists all")
    if args.json:
        print_json([{"task": task, "oracle": shares.get(task)} for task in ids])
    else:
        print_table(("task", "oracle"), [(task, percent(shares.get(task))) for task in ids])
    return 0


def oracle_shares() -> dict[str, float]:
    """Task id -> share of episodes that the scripted expert solves through the options."""
    file = resources.files("coteach") / "data" / "tasks.json"
    if not file.is_file():
        return {}
    return {str(task): float(share) for task, share in json.loads(file.read_text(encoding="utf-8")).items()}
