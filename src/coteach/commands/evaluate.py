"""`coteach eval`: fixed-seed episodes of a run's student, or of its teacher's advice, on the reference environments."""

from __future__ import annotations

import argparse

from coteach.commands.common import add_run, episodes_of, load_players, print_json, seed_of, task_of
from coteach.errors import unknown
from coteach.progress import percent, print_table
from coteach.run import Run

HELP = "play fixed-seed episodes of a run's student or teacher, on any task"

WHO = ("student", "teacher")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach eval`."""
    add_run(parser)
    parser.add_argument("--who", default="student", help="student (greedy), or teacher (advice alone drives the controllers)")
    parser.add_argument("--task", metavar="ID", help="default: the run's last rung; any other shows what carries over")
    parser.add_argument("--episodes", metavar="N", help="how many (default: 200)")
    parser.epilog = "example:\n  coteach eval runs/demo --who teacher --task MiniGrid-BlockedUnlockPickup-v0"


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    if args.who not in WHO:
        raise unknown("--who", args.who, WHO)
    episodes = episodes_of(args, 200)
    with Run.open(args.run_folder) as folder:
        task = task_of(folder, args.task)
        from coteach import evaluate

        seed = seed_of(args, evaluate.SEED)
        players = load_players(folder)
    result = players.evaluate(args.who, task, episodes, seed)
    figures = {"success": result.success, "return": result.mean_return, "length": result.mean_length, "episodes": result.episodes}
    if args.json:
        print_json({"run": str(args.run_folder), "task": task, "who": args.who, "seed": seed} | figures)
    else:
        cells = (percent(result.success), f"{result.mean_return:.3f}", f"{result.mean_length:.1f}", f"{episodes}")
        print_table(("task", "who", *figures), [(task, args.who, *cells)], left=2)
    return 0
