"""Make vector environments (`engines.py`) from task ids, and check that a task can be played.

MiniGrid and BabyAI are trained on EnvPool and evaluated on the reference package `minigrid`. EnvPool is optional (the extra
`fast`) and only makes training faster. Registered tasks have the engine `gymnasium`.
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
"""Beginning of the ids for which EnvPool 1.2.5 makes levels that cannot be solved: a scripted expert solves 74, 12 and 32 %
of N2-S4, N4-S5 and N6 on EnvPool, and all of them in the reference package."""


def make(task: str, engine: str, num_envs: int, seed: int) -> VectorTask:
    """Make `num_envs` copies of `task` for training. Environments and episodes differ; `seed` determines all of them.

    Engine `auto` is EnvPool if it is installed and plays the task correctly, else minigrid. Raises CoteachError for a task
    that does not exist or has no grounding, and for an engine that cannot run it.
    """
    check(task)
    if _resolve(task, engine) == "envpool":
        return EnvPoolTask(task, num_envs, seed)
    return reference(task, num_envs, seed)


def reference(task: str, num_envs: int, seed: int) -> GymnasiumTask:
    """Do as `make` on the engine `minigrid` or `gymnasium`."""
    return GymnasiumTask(task, [_endless_seeds(seed, env) for env in range(num_envs)])


def family(task: str, raw: bool = False) -> Family:
    """Return the family of a task; CoteachError if there is none. raw: the student sees the environment's own observation."""
    level = levels.find(task)
    return level.raw_family if raw else level.family


def common_family(tasks: Sequence[str], raw: bool = False) -> Family:
    """Return the family that all these tasks have (raw: see `family`). CoteachError if they have different ones."""
    families = [family(task, raw) for task in tasks]
    for task, other in zip(tasks, families, strict=True):
        if other is not families[0]:
            raise CoteachError(
                f"tasks {tasks[0]!r} and {task!r}: one student cannot play both ({families[0].name}; {other.name}): "
                "make a run for each"
            )
    return families[0]


def check(task: str) -> None:
    """Raise CoteachError unless `task` can be played, by the reference package or as a registered environment."""
    level = levels.find(task)
    if isinstance(level, Environment):
        _ = level.family  # makes one environment and checks it


def check_expert(task: str, teacher: str) -> None:
    """Raise CoteachError if `task` has no expert, which `teacher` (oracle or liar) needs."""
    if not levels.find(task).has_expert:
        raise CoteachError(
            f"teacher {teacher!r}: no expert plays task {task!r}: say what one would choose (coteach.register({task!r}, ..., "
            "expert=(observation) -> the option's name); in a grounding, Situation.expert), or choose another arm or teacher"
        )


def _resolve(task: str, engine: str) -> str:
    """Return the engine that runs `task` if `engine` is asked for. CoteachError if it cannot."""
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
    """Return the ids that EnvPool can run; none if it is not installed."""
    if importlib.util.find_spec("envpool") is None:
        return frozenset()
    import envpool

    return frozenset(name for name in envpool.list_all_envs() if name.startswith(BUILT_IN))


def _endless_seeds(seed: int, env: int) -> Iterator[int]:
    """Yield a seed for each episode of environment `env`, without end."""
    rng = np.random.default_rng([seed, env])
    return (int(rng.integers(2**31)) for _ in itertools.count())
