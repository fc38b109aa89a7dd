"""`coteach watch`: film one episode of a run's student, or of its teacher's advice, as a GIF."""

from __future__ import annotations

import argparse

from coteach.commands.common import add_run, check_playable, check_taught, load_players, print_json, seed_of, task_of
from coteach.commands.evaluate import WHO
from coteach.errors import unknown
from coteach.runs.files import file_name, user_path
from coteach.runs.run_folder import Run

HELP = "film one episode of a run's student or teacher as a GIF"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach watch`."""
    add_run(parser)
    parser.add_argument("--who", default="student", help="student (greedy), or teacher (advice alone drives the controllers)")
    parser.add_argument("--task", metavar="ID", help="default: the run's last rung")
    parser.add_argument("--out", metavar="FILE", type=user_path, help="default: RUN/videos/<task>-<who>-<seed>.gif")
    parser.epilog = "example:\n  coteach watch runs/demo --out unlock.gif"


def run(args: argparse.Namespace) -> int:
    """Film and say where the film is."""
    if args.who not in WHO:
        raise unknown("--who", args.who, WHO)
    with Run.open(args.run_folder) as folder:
        check_taught(folder, args.who)
        task = task_of(folder, args.task)
        check_playable(folder, task)
        from coteach.envs import tasks
        from coteach.evaluation import episodes as evaluate
        from coteach.method.examiner import Examiner

        tasks.check(task)
        seed = seed_of(args, evaluate.SEED)
        players = load_players(folder)
    frames = Examiner(players).film(args.who, task, seed)
    path = args.out or args.run_folder / "videos" / f"{file_name(task)}-{args.who}-{seed}.gif"
    evaluate.write_gif(path, frames)
    if args.json:
        print_json({"task": task, "who": args.who, "seed": seed, "frames": len(frames), "file": str(path)})
    else:
        print(f"{len(frames)} frames of {task} ({args.who}) are in {path}")
    return 0
