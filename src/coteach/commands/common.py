"""What several verbs share: JSON output, whole numbers from the command line, the players of a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

from coteach.arms import ARMS
from coteach.errors import CoteachError
from coteach.runs.files import user_path
from coteach.runs.run_folder import Run

if TYPE_CHECKING:
    from coteach.method.players import Players


_OUTPUT: ContextVar[TextIO | None] = ContextVar("output", default=None)
"""Standard output while it is kept for JSON."""


@contextmanager
def only_json() -> Iterator[None]:
    """Keep standard output for `print_json`: what else is printed, by an environment for example, goes to standard error."""
    token = _OUTPUT.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _OUTPUT.reset(token)


def print_json(value: Any) -> None:
    """The one JSON value that a verb with `--json` prints."""
    print(json.dumps(value, indent=2), file=_OUTPUT.get() or sys.stdout)


HIGHEST_SEED = 2**31 - 1
MOST_EPISODES = 100_000


def whole(flag: str, text: str | None, default: int, low: int, high: int) -> int:
    """The value of a flag that takes a whole number in [low, high]."""
    if text is None:
        return default
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise CoteachError(f"{flag} {text}: expected a whole number in [{low}..{high}]")
    return number


def seed_of(args: argparse.Namespace, default: int) -> int:
    """The value of --seed."""
    return whole("--seed", args.seed, default, 0, HIGHEST_SEED)


def episodes_of(args: argparse.Namespace, default: int) -> int:
    """The value of --episodes."""
    return whole("--episodes", args.episodes, default, 1, MOST_EPISODES)


def load_players(run: Run) -> Players:
    """Teacher and student as the run's newest checkpoint has them."""
    from coteach.method.checkpoint import players_of

    return players_of(run)


def check_taught(run: Run, who: str) -> None:
    """CoteachError where one asks for the teacher of an arm that has neither a teacher nor options that it could choose."""
    if who == "teacher" and ARMS[run.config.arm].raw:
        raise CoteachError(f"--who teacher: the arm {run.config.arm!r} of {run.folder} has no teacher; expected --who student")


def check_playable(run: Run, *tasks: str) -> None:
    """CoteachError where the run's players cannot play one of these tasks: it has other actions or observations."""
    from coteach.envs.tasks import common_family

    common_family([run.config.tasks[-1], *tasks], ARMS[run.config.arm].raw)


def default_tasks(run: Run) -> list[str]:
    """What a run is looked at on unless told: its last rung, or all of its tasks where these were trained on together."""
    return run.config.tasks if run.config.together else run.config.tasks[-1:]


def task_of(run: Run, task: str | None) -> str:
    """The task asked for, or else the run's last one."""
    return task or run.config.tasks[-1]


def add_run(parser: Any) -> None:
    """The run that a verb looks at."""
    parser.add_argument("run_folder", metavar="RUN", type=user_path, help="a run directory, for example runs/demo")
