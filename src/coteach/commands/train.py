"""`coteach train`: run the loop, show how it goes, print the table, leave the run directory."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coteach import config as configuration
from coteach.arms import ARMS, describe_arms
from coteach.commands.common import print_json
from coteach.config import Config, TeacherConfig
from coteach.errors import CoteachError, RunFailed
from coteach.runs.files import disk, file_name, user_path
from coteach.runs.progress import COLUMNS, duration, make_display, print_table, summary_rows
from coteach.runs.run_folder import Run

if TYPE_CHECKING:
    from coteach.teacher.costs import Usage

HELP = "teach a student, rung by rung"

EXAMPLE = """\
examples:
  coteach train --task MiniGrid-UnlockPickup-v0 --steps 100000
  coteach train --config configs/demo.toml --out runs/mine student.epochs=3
  coteach train --task MiniGrid-Unlock-v0 --task MiniGrid-UnlockPickup-v0 --together
  coteach train --resume runs/mine
  coteach train --teacher openai:qwen3@http://127.0.0.1:8080/v1 --budget 200000tokens

arms:
{arms}

settings, given in --config or as FIELD=VALUE ({which}):
"""

FLAGS: dict[str, tuple[str, ...]] = {
    "arm": ("arm",),
    "teacher": ("teacher.spec",),
    "engine": ("engine",),
    "steps": ("steps",),
    "seed": ("seed",),
    "envs": ("collect.envs",),
    "device": ("student.device", "teacher.device"),
    "threads": ("threads",),
}
"""Flag -> the fields of the configuration for which it is short."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach train`."""
    parser.add_argument("--config", metavar="FILE", type=user_path, help="TOML file; flags and FIELD=VALUE have the last word")
    parser.add_argument("--task", metavar="ID", action="append", help="a task; repeat for rungs (`coteach tasks` lists them)")
    parser.add_argument(
        "--together", action="store_true", help="climb the rungs side by side: one teacher, a student on each --task"
    )
    parser.add_argument("--arm", metavar="ID", help="what of the loop is open: one of the arms below (default: mutual)")
    parser.add_argument(
        "--teacher",
        metavar="SPEC",
        help="smollm2, hf:<id or folder>, gguf:<file>, openai:<model>@<base url>, recorded:<run>, uniform, oracle, liar",
    )
    parser.add_argument(
        "--budget", metavar="LIMIT", help="what an openai: teacher may cost: 50000tokens, or 2.50usd (with prices)"
    )
    parser.add_argument("--engine", help="what steps the environments: envpool, minigrid (gymnasium for other tasks) or auto")
    parser.add_argument("--steps", metavar="N", help="environment steps per rung")
    parser.add_argument("--envs", metavar="N", help="parallel environments")
    parser.add_argument("--device", help="cpu, cuda or auto")
    parser.add_argument("--threads", metavar="N", help="processor threads")
    parser.add_argument("--out", metavar="DIR", type=user_path, help="run directory (default: runs/<task>-<arm>-<seed>)")
    parser.add_argument("--resume", metavar="DIR", type=user_path, help="go on with the run in DIR")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")
    parser.add_argument("--help-all", action=_HelpAll, nargs=0, help="show this help with every setting there is, and exit")
    parser.add_argument("overrides", metavar="FIELD=VALUE", nargs="*", help="any setting")
    parser.epilog = EXAMPLE.format(arms=describe_arms(ARMS), which="the usual ones; all: --help-all") + configuration.describe()


class _HelpAll(argparse.Action):
    """`--help` with every setting there is."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.epilog = (
            EXAMPLE.format(arms=describe_arms(ARMS), which="all of them") + "\n" + configuration.describe(everything=True)
        )
        parser.print_help()
        parser.exit()


def run(args: argparse.Namespace) -> int:
    """Train, print the table; a run that is interrupted says how to go on with it."""
    config = resolve(args)
    if args.dry_run:
        if args.json:
            print_json(dataclasses.asdict(config))
        else:
            print(configuration.dump(config), end="")
        return 0
    _check_tasks(config)
    folder = args.resume or args.out or default_folder(config)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with Run.open(folder) if args.resume else Run.create(folder, config) as run, run.held():
        summaries = _train(run, args.resume is not None, made)
        _report(run, summaries, as_json=args.json)
    return 0


def resolve(args: argparse.Namespace) -> Config:
    """The run's configuration: of the run that is resumed, or else file < flags < overrides."""
    overrides = _flags(args) + list(args.overrides)
    if args.resume is None:
        return configuration.load(args.config, overrides)
    if args.config or args.out or overrides:
        raise CoteachError(f"--resume {args.resume} goes on as its config.toml says: leave out --config, --out and every setting")
    return Run.open(args.resume).config


def default_folder(config: Config) -> Path:
    """runs/<task>-<arm>-<seed>; of several rungs the first, and how many follow it."""
    more = f"+{len(config.tasks) - 1}" if len(config.tasks) > 1 else ""
    return Path("runs") / file_name(f"{config.tasks[0]}{more}-{config.arm}-{config.seed}")


def _flags(args: argparse.Namespace) -> list[str]:
    given = [f"tasks={json.dumps(args.task)}"] if args.task else []
    given += ["together=true"] if args.together else []
    given += [_budget(args.budget)] if args.budget is not None else []
    return given + [
        f"{field}={value}" for flag, fields in FLAGS.items() if (value := getattr(args, flag)) is not None for field in fields
    ]


def _budget(text: str) -> str:
    """`--budget` as a setting of the configuration; a number without its unit could be either."""
    found = re.fullmatch(r"(\d+)tokens|(\d+(?:\.\d+)?)usd", text.strip())
    if found is None or float(found[1] or found[2]) == 0:
        raise CoteachError(f"--budget {text!r}: expected tokens or US dollars, more than none: 50000tokens, or 2.50usd")
    return f"teacher.budget_tokens={found[1]}" if found[1] else f"teacher.budget_money={found[2]}"


def _check_tasks(config: Config) -> None:
    """Refuse a misspelt task now, not when its rung is reached."""
    from coteach.envs import tasks

    for task in config.tasks:
        tasks.check(task)


def _train(run: Run, resume: bool, made: Sequence[Path]) -> list[dict[str, Any]]:
    """Train; where nothing was learned, the run folder and the folders `made` for it are gone again."""
    print(f"run directory: {run.folder}", file=sys.stderr)
    if ARMS[run.config.arm].tune and run.config.teacher.spec.startswith("openai:"):
        print("the teacher's weights are out of reach: it is corrected by the evidence, but not tuned", file=sys.stderr)
    try:
        with make_display() as display:
            from coteach.method import loop  # slow to import: the display is there first

            return loop.train(run.config, run, display, resume)
    except BaseException as error:
        if run.begun:
            if not isinstance(error, CoteachError) or isinstance(error, RunFailed):
                print(f"go on with: coteach train --resume {shlex.quote(str(run.folder))}", file=sys.stderr)
        elif not run.metrics():
            # Nothing was learned: the same command must work again once its cause is mended.
            shutil.rmtree(run.folder)
            with contextlib.suppress(OSError):
                for path in made[1:]:
                    path.rmdir()
        raise


def _report(run: Run, summaries: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    from coteach.experiments.plots import plot_run
    from coteach.teacher.costs import Usage

    with disk(run.folder / "plots"):
        plots = plot_run(run.folder)
    if as_json:
        print_json({"run": str(run.folder), "rungs": list(summaries), "plots": [str(path) for path in plots]})
        return
    print_table(COLUMNS, summary_rows(summaries))
    keys = ("wall_seconds", "train_seconds", "llm_seconds", "tune_seconds")
    wall, training, asking, tuning = (sum(summary[key] for summary in summaries) for key in keys)
    print(
        f"{duration(wall)} in all, {duration(training)} of it training, of that {(asking + tuning) / max(training, 1e-9):.0%} "
        f"asking and tuning the LLM; at most {summaries[-1]['peak_memory_mib'] / 1024:.1f} GiB of memory"
    )
    if said := _costs(Usage(**summaries[-1]["llm_total"]), run.config.teacher):
        print(said)
    print(f"curves: {', '.join(str(path) for path in plots)}; GIFs: {run.folder / 'videos'}; everything else: {run.folder}")


def _costs(usage: Usage, teacher: TeacherConfig) -> str:
    """What a remote teacher cost over the whole run, evaluations included, and what went wrong; empty for others."""
    if not teacher.spec.startswith("openai:") or not (usage.calls or usage.cache_hits):
        return ""
    money = f", ${usage.money:.4f}" if usage.money else ""
    said = (
        f"LLM, evaluations included: {usage.queries:,} situations answered in {usage.calls:,} calls "
        f"({usage.tokens_in:,} tokens in, {usage.tokens_out:,} out{money}), {usage.cache_hits:,} from the answer cache; "
        f"{usage.failures:,} calls failed, {usage.unreadable:,} replies could not be read"
    )
    if usage.unanswered:
        why = "its budget was spent" if usage.reached(teacher.budget_tokens, teacher.budget_money) else "it failed"
        said += f"; {usage.unanswered:,} times it was not heard ({why}), there its advice counts as uniform"
    return said
