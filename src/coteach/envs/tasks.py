"""Task ids -> vector environments (`engines.py`): EnvPool to train on MiniGrid and BabyAI, the reference package to evaluate.

EnvPool is optional (the extra `fast`) and needed for speed only. Registered tasks have the engine `gymnasium`.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from coteach.config import ENGINES
from coteach.envs import levels
from coteach.envs.engines import EnvPoolTask, GymnasiumTask, VectorTask
from coteach.envs.registration import BUILT_IN, Environment
from coteach.errors import CoteachError, unknown
from coteach.grounding.base import Family

ENVPOOL_HANGS = frozenset({"BabyAI-SynthS5R2-v0"})
"""EnvPool 1.2.5 never returns from the first reset of these levels."""

ENVPOOL_UNSOLVABLE = "MiniGrid-MultiRoom-"
"""Beginning of the ids of which EnvPool 1.2.5 makes levels that cannot be solved: a scripted expert solves 74, 12 and 32 %
of N2-S4, N4-S5 and N6 there, and all of them in the reference package."""


def make(task: str, engine: str, num_envs: int, seed: int) -> VectorTask:
    """`num_envs` copies of `task` for training; environments and episodes differ, all of them given by `seed`.

    Engine `auto` is EnvPool where it is installed and plays the task as it should be, else minigrid. Raises CoteachError
    for a task that does not exist or that no built-in grounding understands, and for an engine that cannot run it.
    """
    check(task)
    if _resolve(task, engine) == "envpool":
        return EnvPoolTask(task, num_envs, seed)
    return reference(task, num_envs, seed)


def reference(task: str, num_envs: int, seed: int) -> GymnasiumTask:
    """`make` by the engine `minigrid` or `gymnasium`."""
    return GymnasiumTask(task, [_endless_seeds(seed, env) for env in range(num_envs)])


def family(task: str, raw: bool = False) -> Family:
    """The family of a task that `check` lets pass. raw: the student sees the environment's own observation and nothing else."""
    level = levels.find(task)
    return level.raw_family if raw else level.family


def common_family(tasks: Sequence[str], raw: bool = False) -> Family:
    """The family of all these tasks (raw: see `family`); CoteachError where they have none in common."""
    families = [family(task, raw) for task in tasks]
    for task, other in zip(tasks, families, strict=True):
        if other is not families[0]:
            raise CoteachError(
                f"tasks {tasks[0]!r} and {task!r}: one student cannot play both ({families[0].name}; {other.name}): "
                "make a run for each"
            )
    return families[0]


def check(task: str) -> None:
    """Raise CoteachError unless `task` can be played: MiniGrid's by the reference package, others as they were registered."""
    level = levels.find(task)
    if isinstance(level, Environment):
        _ = level.family  # looks at it


def check_expert(task: str, teacher: str) -> None:
    """Raise CoteachError where nothing says what an expert would choose, which `teacher` (oracle or liar) would have to know."""
    if not levels.find(task).has_expert:
        raise CoteachError(
            f"teacher {teacher!r}: no expert plays task {task!r}: say what one would choose (coteach.register({task!r}, ..., "
            "expert=(observation) -> the option's name); in a grounding, Situation.expert), or choose another arm or teacher"
        )


def _resolve(task: str, engine: str) -> str:
    """The engine that `engine` means for `task`."""
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    own = levels.find(task).engine
    if engine == own or (engine == "auto" and own != "minigrid"):
        return own
    if own == "gymnasium" or engine == "gymnasium":
        raise CoteachError(f"engine {engine!r}: it does not play {task!r}; use the engine {own}, or auto")
    if engine == "auto":
        sound = task in _envpool_ids() - ENVPOOL_HANGS and not task.startswith(ENVPOOL_UNSOLVABLE)
        return "envpool" if sound else "minigrid"
    if task in ENVPOOL_HANGS:
        raise CoteachError(f"engine 'envpool': it hangs when it resets {task!r}; use the engine minigrid")
    if task in _envpool_ids():
        return engine
    if not _envpool_ids():
        raise CoteachError("engine 'envpool': the package envpool is not installed; pip install 'coteach[fast]', or use minigrid")
    raise CoteachError(f"engine 'envpool': it has no task {task!r}; use the engine minigrid")


@cache
def _envpool_ids() -> frozenset[str]:
    """What EnvPool can run; nothing where it is not installed."""
    if importlib.util.find_spec("envpool") is None:
        return frozenset()
    import envpool

    return frozenset(name for name in envpool.list_all_envs() if name.startswith(BUILT_IN))


def _endless_seeds(seed: int, env: int) -> Iterator[int]:
    """A seed for each episode of environment `env`, without end."""
    rng = np.random.default_rng([seed, env])
    return (int(rng.integers(2**31)) for _ in itertools.count())
