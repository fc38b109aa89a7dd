"""Task ids -> vector environments: MiniGrid and BabyAI, and what was registered (`environments.py`).

MiniGrid has two engines: EnvPool to train, the reference `minigrid` package to evaluate. They answer alike: the same images,
missions, rewards and ends, and a reset on the step after an episode has ended, so that the terminal observation is seen. EnvPool
is optional (the extra `fast`) and needed for speed only. Registered tasks have the engine `gymnasium`.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import itertools
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coteach import environments
from coteach.config import ENGINES
from coteach.environments import BUILT_IN, Environment, Scoring
from coteach.errors import CoteachError, unknown
from coteach.grounding.base import Family, Observation

ENVPOOL_HANGS = frozenset({"BabyAI-SynthS5R2-v0"})
"""EnvPool 1.2.5 never returns from the first reset of these levels."""

ENVPOOL_UNSOLVABLE = "MiniGrid-MultiRoom-"
"""Beginning of the ids of which EnvPool 1.2.5 makes levels that cannot be solved: a scripted expert solves 74, 12 and 32 %
of N2-S4, N4-S5 and N6 there, and all of them in the reference package."""


@dataclass
class Step:
    """What N environments answered. `restarted` rows are first observations of an episode (action ignored).

    observation: as the grounding of the task's family takes it (see `grounding.base.Grounding.observe`).
    """

    observation: Any
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    restarted: NDArray[np.bool_]


Replayed = tuple[Any, NDArray[np.int64], NDArray[np.bool_]]
"""What a grounding is shown while episodes are played again: observation, actions (N,) that led to it, restarted (N,)."""


class VectorTask(Protocol):
    """N copies of one task that reset by themselves on the step after an episode ends (Gymnasium's NEXT_STEP)."""

    task: str
    engine: str
    num_envs: int
    num_actions: int
    scoring: Scoring

    def reset(self) -> Any:
        """Begin an episode in every environment; what they show."""
        ...

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Act in every environment; actions: (N,)."""
        ...

    def state(self) -> dict[str, Any] | None:
        """The episodes under way, as plain JSON; None where the engine cannot bring them back."""
        ...

    def replay(self, state: dict[str, Any]) -> Iterator[Replayed]:
        """In place of the first `reset`: play the episodes of `state` up to where they were, all to the same last moment."""
        ...

    def close(self) -> None:
        """Let go of the environments."""
        ...


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


def family(task: str) -> Family:
    """The family of a task that `check` lets pass."""
    return _level(task).family


def common_family(tasks: Sequence[str]) -> Family:
    """The family of all these tasks; CoteachError where they have none in common."""
    families = [family(task) for task in tasks]
    for task, other in zip(tasks, families, strict=True):
        if other is not families[0]:
            raise CoteachError(
                f"tasks {tasks[0]!r} and {task!r}: one student cannot play both ({families[0].name}; {other.name}): "
                "make a run for each"
            )
    return families[0]


def task_ids() -> list[str]:
    """Every id that can be played, sorted: MiniGrid's and BabyAI's of the reference package, and what was registered."""
    built_in = (name for name in _registry() if name.startswith(BUILT_IN) and not _lacks_patterns(name))
    return sorted({*built_in, *environments.registered_ids()})


def unplayable_ids() -> list[str]:
    """Every MiniGrid and BabyAI id that is registered, but whose images the installed minigrid package lacks, sorted."""
    return sorted(name for name in _registry() if name.startswith(BUILT_IN) and _lacks_patterns(name))


def check(task: str) -> None:
    """Raise CoteachError unless `task` can be played: MiniGrid's by the reference package, others as they were registered."""
    level = _level(task)
    if isinstance(level, Environment):
        _ = level.family  # looks at it


@dataclass(frozen=True)
class MiniGridLevel:
    """A MiniGrid or BabyAI level of the reference package, as `Environment` is for the tasks that are registered."""

    task: str

    engine = "minigrid"
    scoring = Scoring()

    def new(self, render_mode: str | None = None) -> Any:
        """One environment, without wrappers: it counts its steps itself."""
        return _gymnasium().make(self.task, render_mode=render_mode, disable_env_checker=True).unwrapped

    def pack(self, observations: list[Any]) -> Observation:
        """What N environments showed."""
        return Observation(np.stack([seen["image"] for seen in observations]), [seen["mission"] for seen in observations])

    @property
    def family(self) -> Family:
        """MiniGrid's, which is one."""
        return _minigrid_family()


@cache
def _minigrid_family() -> Family:
    from coteach.grounding.minigrid import MiniGridGrounding
    from coteach.grounding.minigrid.encoding import ACTION_NAMES
    from coteach.teacher.prompt import INSTRUCTION

    kind, habits = MiniGridGrounding, MiniGridGrounding.habits(len(ACTION_NAMES))
    features = MiniGridGrounding.feature_layout()
    return Family("MiniGrid and BabyAI", kind.layout, ACTION_NAMES, kind.max_options, INSTRUCTION, kind, features, habits)


def _level(task: str) -> MiniGridLevel | Environment:
    """How a task is made and grounded; CoteachError where there is no such task."""
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


class EnvPoolTask:
    """N environments stepped by EnvPool's C++ engine; runs with neighbouring seeds share none."""

    engine = "envpool"
    scoring = MiniGridLevel.scoring

    def __init__(self, task: str, num_envs: int, seed: int, threads: int = 1) -> None:
        import envpool

        self.task = task
        self.num_envs = num_envs
        # One thread: 64 environments take 0.2 ms a step, and more threads than that only contend with the learner's.
        self._pool: Any = envpool.make(
            task, env_type="gymnasium", num_envs=num_envs, seed=_first_seed(seed, num_envs), num_threads=threads
        )
        self.num_actions = int(self._pool.action_space.n)
        self._missions = [""] * num_envs

    def reset(self) -> Observation:
        """Begin an episode in every environment."""
        raw, _ = self._pool.reset()
        return self._observe(raw, np.ones(self.num_envs, dtype=np.bool_))

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Act in every environment; actions: (N,)."""
        raw, reward, terminated, truncated, info = self._pool.step(actions)
        restarted = info["elapsed_step"] == 0
        return Step(self._observe(raw, restarted), reward.astype(np.float32, copy=False), terminated, truncated, restarted)

    def state(self) -> None:
        """EnvPool gives away neither its levels' seeds nor its state."""

    def replay(self, state: dict[str, Any]) -> Iterator[Replayed]:
        """Never to be called: there is no `state`."""
        raise CoteachError(f"engine 'envpool': cannot play the saved episodes of {self.task}; use the engine minigrid")

    def close(self) -> None:
        """Let go of the environments."""
        self._pool.close()

    def _observe(self, raw: dict[str, Any], restarted: NDArray[np.bool_]) -> Observation:
        """Missions are constant within an episode: only those of restarted rows are decoded."""
        for env in np.flatnonzero(restarted):
            self._missions[env] = raw["mission"][env].tobytes().rstrip(b"\0").decode()
        return Observation(raw["image"], list(self._missions))


class GymnasiumTask:
    """Gymnasium environments, stepped one after another in this process; each episode has a seed of its own.

    `seeds` has one iterator per environment (the same one may serve several). An environment whose seeds have run out
    is *idle*: it is no longer stepped, and its row shows the first observation of its last episode again (restarted,
    no reward), which brings a grounding nothing that it has not seen.

    episode: (N,) int64, the seed of the episode that each row belongs to.
    idle:    (N,) bool, True where there are no more episodes.
    """

    def __init__(self, task: str, seeds: Sequence[Iterator[int]], render: bool = False) -> None:
        level = _level(task)
        self.task, self.engine, self.scoring, self._pack = task, level.engine, level.scoring, level.pack
        self.num_envs = len(seeds)
        with _silence():
            self._envs: list[Any] = [level.new("rgb_array" if render else None) for _ in seeds]
        space = self._envs[0].action_space
        self.num_actions, self._first_action = int(space.n), int(space.start)
        self.episode = np.full(self.num_envs, -1, dtype=np.int64)
        self.idle = np.zeros(self.num_envs, dtype=np.bool_)
        self._seeds = list(seeds)
        self._begun = [0] * self.num_envs
        self._actions: list[list[int]] = [[] for _ in seeds]
        """Of the episode under way: beside its seed all that it takes to play it again."""
        self._over = np.zeros(self.num_envs, dtype=np.bool_)
        self._shown: list[Any] = [None] * self.num_envs
        self._first: list[Any] = [None] * self.num_envs

    def reset(self) -> Any:
        """Begin an episode in every environment; what they show."""
        for env in range(self.num_envs):
            self._restart(env)
        self._over[:] = False
        return self._pack(list(self._shown))

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Act in every environment; actions: (N,)."""
        reward = np.zeros(self.num_envs, dtype=np.float32)
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        restarted = self._over | self.idle
        for env in np.flatnonzero(self._over).tolist():
            self._restart(env)
        for env in np.flatnonzero(~restarted).tolist():
            reward[env], terminated[env], truncated[env] = self._act(env, int(actions[env]))
        self._over = terminated | truncated
        return Step(self._pack(list(self._shown)), reward, terminated, truncated, restarted)

    def state(self) -> dict[str, Any]:
        """How many seeds each environment has used up, and what was done in the episode that began from the last of them."""
        return {"begun": list(self._begun), "actions": [list(actions) for actions in self._actions]}

    def replay(self, state: dict[str, Any]) -> Iterator[Replayed]:
        """Play the episodes of `state` again from their seeds; an environment waits at its first observation for longer ones."""
        actions: list[list[int]] = state["actions"]
        for env, begun in enumerate(state["begun"]):
            self._begun[env] = begun - 1
            self._seeds[env] = itertools.islice(self._seeds[env], begun - 1, None)
            self._restart(env)
        done = np.array([len(taken) for taken in actions])
        for moment in range(int(done.max()) + 1):
            at = moment - done.max() + done
            taken = np.array([actions[env][at[env] - 1] if at[env] > 0 else -1 for env in range(self.num_envs)])
            for env in np.flatnonzero(at > 0).tolist():
                _, terminated, truncated = self._act(env, int(taken[env]))
                self._over[env] = terminated or truncated
            yield self._pack(list(self._shown)), taken, at <= 0

    def frame(self, env: int) -> NDArray[np.uint8]:
        """The picture of one environment, (H, W, 3) uint8; where `render` was asked for. CoteachError where it draws none."""
        try:
            picture = self._envs[env].render()
        except Exception as error:  # whatever a foreign environment raises
            raise CoteachError(f"task {self.task!r}: cannot be filmed ({type(error).__name__} {error})".rstrip()) from error
        if not isinstance(picture, np.ndarray):
            raise CoteachError(f"task {self.task!r}: cannot be filmed: it does not draw as render_mode='rgb_array' should")
        return picture

    def close(self) -> None:
        """Let go of the environments."""
        for env in self._envs:
            env.close()

    def _act(self, env: int, action: int) -> tuple[float, bool, bool]:
        """Reward, terminated, truncated of one step of one environment."""
        self._shown[env], reward, terminated, truncated, _ = self._envs[env].step(action + self._first_action)
        self._actions[env].append(action)
        return float(reward), bool(terminated), bool(truncated)

    def _restart(self, env: int) -> None:
        seed = next(self._seeds[env], None)
        if seed is None:
            self.idle[env] = True
        else:
            self.episode[env] = seed
            self._begun[env] += 1
            self._actions[env] = []
            with _silence():
                raw, _ = self._envs[env].reset(seed=seed)
            self._first[env] = copy.deepcopy(raw)
        self._shown[env] = self._first[env]


def _resolve(task: str, engine: str) -> str:
    """The engine that `engine` means for `task`."""
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    own = _level(task).engine
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


@cache
def _minigrid() -> Any:
    """The reference package, which enters its ids into Gymnasium's registry; pygame's greeting is not ours to print."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import minigrid

    return minigrid


def _gymnasium() -> Any:
    """Gymnasium with minigrid's ids in its registry."""
    _minigrid()
    import gymnasium

    return gymnasium


def _registry() -> dict[str, Any]:
    registry: dict[str, Any] = _gymnasium().registry
    return registry


def _lacks_patterns(task: str) -> bool:
    """Whether it is one of the levels made from images that the wheels of minigrid leave out."""
    patterns = Path(_minigrid().__file__).parent / "envs" / "wfc" / "patterns"
    return task.startswith("MiniGrid-WFC-") and not patterns.is_dir()


def _is_discrete(task: str) -> bool:
    """Whether its actions are; True where that cannot be found out (its own dependencies are missing)."""
    gymnasium = _gymnasium()
    try:
        with _silence():
            env = gymnasium.make(task)
        env.close()
        return isinstance(env.action_space, gymnasium.spaces.Discrete)
    except Exception:  # whatever a foreign environment raises: the answer is "no grounding" all the same
        return True


def _first_seed(seed: int, num_envs: int) -> int:
    """EnvPool seeds environment i with the first seed + i, all of them 32-bit integers with a sign."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0]) % (2**31 - num_envs)


def _endless_seeds(seed: int, env: int) -> Iterator[int]:
    """A seed for each episode of environment `env`, without end."""
    rng = np.random.default_rng([seed, env])
    return (int(rng.integers(2**31)) for _ in itertools.count())


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Swallows what environments say while they are made ("Sampling rejected: ...", "is out of date")."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
