"""Find a task by its id: a level of the reference `minigrid` package, or a registered environment (`registration.py`).

A task is a `MiniGridLevel` or an `Environment`. It makes its environments, grounds them, and says what their rewards mean.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from coteach.envs import registration as environments
from coteach.envs.registration import BUILT_IN, Environment, Scoring
from coteach.errors import CoteachError, unknown
from coteach.grounding.base import Family, Observation


def find(task: str) -> MiniGridLevel | Environment:
    """Return the level or environment of a task id. CoteachError if there is none, or it has no grounding."""
    if _lacks_patterns(task):
        raise CoteachError(
            f"task {task!r}: the installed minigrid package lacks the pattern images that it is made of; "
            "choose another (`coteach tasks` lists them)"
        )
    if task in _registry() and task.startswith(BUILT_IN):
        return MiniGridLevel(task)
    if environment := environments.find(task):
        return environment
    if task not in _registry():
        raise unknown("task", task, task_ids(), way_out="`coteach tasks` lists them")
    if not _is_discrete(task):
        raise CoteachError(f"task {task!r}: its action space is not discrete; coteach needs a discrete one (`coteach tasks`)")
    raise CoteachError(
        f"task {task!r}: its observations have no text yet: give them one with coteach.register({task!r}, describe=..., "
        "actions=...), or choose a task that has (`coteach tasks` lists them)"
    )


def task_ids() -> list[str]:
    """Return every id that can be played, sorted: MiniGrid and BabyAI levels of the reference package, and registered tasks."""
    built_in = (name for name in _registry() if name.startswith(BUILT_IN) and not _lacks_patterns(name))
    return sorted({*built_in, *environments.registered_ids()})


def unplayable_ids() -> list[str]:
    """Return, sorted, the MiniGrid and BabyAI ids that need images which the installed minigrid package lacks."""
    return sorted(name for name in _registry() if name.startswith(BUILT_IN) and _lacks_patterns(name))


@dataclass(frozen=True)
class MiniGridLevel:
    """A MiniGrid or BabyAI level of the reference package. It has the same methods as `Environment`."""

    task: str

    engine = "minigrid"
    scoring = Scoring()
    has_expert = True
    max_episode_steps = 2**31  # levels have a limit of their own

    def new(self, render_mode: str | None = None) -> Any:
        """Make one environment, without wrappers: it counts its steps itself."""
        return _gymnasium().make(self.task, render_mode=render_mode, disable_env_checker=True).unwrapped

    def pack(self, observations: list[Any]) -> Observation:
        """Stack the observations of N environments for the grounding."""
        image, direction = (np.stack([seen[key] for seen in observations]) for key in ("image", "direction"))
        return Observation(image, [seen["mission"] for seen in observations], direction)

    @property
    def family(self) -> Family:
        """The one family of all MiniGrid and BabyAI levels."""
        return _minigrid_family()

    @property
    def raw_family(self) -> Family:
        """The family for a student whose input is the environment's own observation only (the arm `ppo`)."""
        return _raw_minigrid_family()


@cache
def _minigrid_family() -> Family:
    from coteach.grounding.base import GRID_WORLD_INSTRUCTION
    from coteach.grounding.minigrid import MiniGridGrounding
    from coteach.grounding.minigrid.encoding import ACTION_NAMES

    kind, habits = MiniGridGrounding, MiniGridGrounding.habits(len(ACTION_NAMES))
    features = MiniGridGrounding.feature_layout()
    return Family(
        "MiniGrid and BabyAI", kind.layout, ACTION_NAMES, kind.max_options, GRID_WORLD_INSTRUCTION, kind, features, habits
    )


@cache
def _raw_minigrid_family() -> Family:
    from coteach.grounding.base import GRID_WORLD_INSTRUCTION
    from coteach.grounding.minigrid.encoding import ACTION_NAMES
    from coteach.grounding.minigrid.raw import RawGrounding

    kind, name = RawGrounding, "MiniGrid and BabyAI, raw observations"
    return Family(name, kind.layout, ACTION_NAMES, kind.max_options, GRID_WORLD_INSTRUCTION, kind, kind.feature_layout())


@cache
def _minigrid() -> Any:
    """Import the reference package, which registers its ids with Gymnasium. The greeting of pygame is switched off."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import minigrid

    return minigrid


def _gymnasium() -> Any:
    """Import Gymnasium with minigrid's ids in its registry."""
    _minigrid()
    import gymnasium

    return gymnasium


def _registry() -> dict[str, Any]:
    registry: dict[str, Any] = _gymnasium().registry
    return registry


def _lacks_patterns(task: str) -> bool:
    """Return whether the level is made from images that the installed minigrid package lacks (its wheels leave them out)."""
    patterns = Path(_minigrid().__file__).parent / "envs" / "wfc" / "patterns"
    return task.startswith("MiniGrid-WFC-") and not patterns.is_dir()


def _is_discrete(task: str) -> bool:
    """Return whether the action space is discrete; True if the environment cannot be made (its dependencies are missing)."""
    gymnasium = _gymnasium()
    try:
        with suppressed_output():
            env = gymnasium.make(task)
        env.close()
        return isinstance(env.action_space, gymnasium.spaces.Discrete)
    except Exception:  # whatever the environment raises: the message will be "no text yet" in any case
        return True


@contextlib.contextmanager
def suppressed_output() -> Iterator[None]:
    """Suppress what environments print and warn of while they are made or reset ("Sampling rejected: ...", "is out of date")."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
