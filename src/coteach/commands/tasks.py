"""`coteach tasks`: every task id, and how much of it the options can express.

The share is measured: a scripted expert that may only choose among the options succeeds in this share of
episodes, so no teacher can do better by advice alone. Shares come with the package, and `--measure` plays
the same episodes again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from importlib import resources

from coteach.commands.common import episodes_of, print_json, seed_of
from coteach.config import CollectConfig
from coteach.errors import CoteachError
from coteach.runs.progress import percent, print_table

HELP = "list the tasks, and how much of each the options can express"

EPISODES = 50
"""Episodes over which the shares that come with the package were measured."""

UNPLAYABLE = "cannot run: the installed minigrid package lacks its images"

EXAMPLE = """\
examples:
  coteach tasks unlock                            list the ids that contain it
  coteach tasks --measure MiniGrid-Unlock-v0      play the scripted expert's episodes again
"""


@dataclass(frozen=True)
class Share:
    """The share of `episodes` that the scripted expert solved through the options, and the engine that played them."""

    oracle: float
    episodes: int
    engine: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach tasks`."""
    parser.add_argument("pattern", nargs="?", default="", help="only ids that contain this (upper or lower case)")
    parser.add_argument("--measure", metavar="ID", help="measure this task's share now, on the reference environments")
    parser.add_argument("--episodes", metavar="N", help=f"with --measure: how many (default: {EPISODES})")
    parser.epilog = EXAMPLE


def run(args: argparse.Namespace) -> int:
    """List the tasks, or measure one."""
    if args.measure is not None:
        if args.pattern:
            raise CoteachError(f"{args.pattern!r} beside --measure {args.measure}: give the one or the other")
        from coteach.evaluation import episodes as evaluate

        share = measure(args.measure, episodes_of(args, EPISODES), seed_of(args, evaluate.SEED))
        rows = [_row(args.measure, share, "")]
    else:
        if args.episodes is not None:
            raise CoteachError(f"--episodes {args.episodes} without --measure: say which task to measure with --measure ID")
        rows = _listing(args.pattern)
    if args.json:
        print_json(rows)
    else:
        print_table(("task", "oracle", "episodes", "engine", ""), [_cells(row) for row in rows])
    return 0


def measure(task: str, episodes: int, seed: int) -> Share:
    """Play the scripted expert on the reference environments, over episodes that begin from `seed`, `seed` + 1, ..."""
    from coteach.envs import levels, tasks
    from coteach.evaluation.episodes import evaluate_teacher
    from coteach.grounding.base import Grounding, Situations
    from coteach.teacher.scripted import OracleTeacher

    tasks.check(task)
    expert = OracleTeacher()
    tasks.check_expert(task, expert.name)

    def ground(envs: int, actions: int) -> Grounding:
        return tasks.family(task).ground(envs, Situations(), actions)

    result = evaluate_teacher(expert.advise, task, ground, CollectConfig().option_patience, episodes, seed)
    return Share(result.success, result.episodes, levels.find(task).engine)


def shares() -> dict[str, Share]:
    """Task id -> share, as measured when this version was made."""
    file = resources.files("coteach") / "data" / "tasks.json"
    return {str(task): Share(**share) for task, share in json.loads(file.read_text(encoding="utf-8")).items()}


Row = dict[str, str | float | int | None]


def _listing(pattern: str) -> list[Row]:
    """A row for each id that contains `pattern`, those that cannot run among them."""
    from coteach.envs.levels import task_ids, unplayable_ids

    known, unplayable = shares(), set(unplayable_ids())
    ids = [task for task in sorted(unplayable.union(task_ids())) if pattern.lower() in task.lower()]
    if not ids:
        raise CoteachError(f"no task id contains {pattern!r}: `coteach tasks` without it lists all")
    return [_row(task, None if task in unplayable else known.get(task), UNPLAYABLE if task in unplayable else "") for task in ids]


def _row(task: str, share: Share | None, note: str) -> Row:
    figures: Row = asdict(share) if share else {"oracle": None, "episodes": None, "engine": None}
    return {"task": task, **figures, "note": note}


def _cells(row: Row) -> tuple[str, ...]:
    oracle = row["oracle"]
    share = percent(float(oracle) if oracle is not None else None)
    return str(row["task"]), share, str(row["episodes"] or "-"), str(row["engine"] or "-"), str(row["note"])
