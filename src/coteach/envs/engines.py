"""N copies of a task, stepped together: on EnvPool's C++ engine, or as Gymnasium environments one after another in this process.

Both return the same images, missions, rewards and ends. Both reset an environment on the step after its episode has ended
(Gymnasium's NEXT_STEP), so that the last observation of an episode is returned.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium import Wrapper
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from coteach.envs import levels
from coteach.envs.calls import checked_reset, checked_step, close
from coteach.envs.levels import MiniGridLevel
from coteach.envs.registration import Scoring
from coteach.errors import CoteachError, note
from coteach.grounding.base import Observation

MOST_STEPS = 10_000
"""Most steps of an episode of a task that has no limit of its own, neither registered nor by Gymnasium's `TimeLimit`."""

LIMIT_IT = "wrap the environment in gymnasium.wrappers.TimeLimit, or register it with max_episode_steps"


@dataclass
class Step:
    """The result of one step of N environments.

    observation: as the grounding of the task's family takes it (see `grounding.base.Grounding.observe`).
    reward:      (N,) float32, not scaled.
    terminated, truncated: (N,) bool, whether the episode ended in this step, and how.
    restarted:   (N,) bool, True if the row is the first observation of an episode; its action was ignored.
    """

    observation: Any
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    restarted: NDArray[np.bool_]


Replayed = tuple[Any, NDArray[np.int64], NDArray[np.bool_]]
"""One step of replayed episodes, as a grounding takes it: observation, actions (N,) that led to it, restarted (N,)."""


class VectorTask(Protocol):
    """N copies of one task that reset by themselves on the step after an episode ends (Gymnasium's NEXT_STEP).

    scoring: what the task's rewards mean.
    """

    task: str
    engine: str
    num_envs: int
    num_actions: int
    scoring: Scoring

    def reset(self) -> Any:
        """Begin an episode in every environment; return the observation of all N."""
        ...

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Take one action in every environment. actions: (N,) int64."""
        ...

    def state(self) -> dict[str, Any] | None:
        """Return the unfinished episodes as plain JSON; None if the engine cannot replay them."""
        ...

    def replay(self, state: dict[str, Any]) -> Iterator[Replayed]:
        """Replay the episodes of `state` up to where they were, in place of the first `reset`; all end at the same step."""
        ...

    def close(self) -> None:
        """Close the environments."""
        ...


class EnvPoolTask:
    """N environments stepped by EnvPool's C++ engine. Runs with neighbouring seeds have no environment in common."""

    engine = "envpool"
    scoring = MiniGridLevel.scoring

    def __init__(self, task: str, num_envs: int, seed: int, threads: int = 1) -> None:
        import envpool

        self.task = task
        self.num_envs = num_envs
        # One thread: 64 environments take 0.2 ms a step, and more threads would only compete with the learner's.
        self._pool: Any = envpool.make(
            task, env_type="gymnasium", num_envs=num_envs, seed=_first_seed(seed, num_envs), num_threads=threads
        )
        self.num_actions = int(self._pool.action_space.n)
        self._missions = [""] * num_envs

    def reset(self) -> Observation:
        """Begin an episode in every environment; return the observation of all N."""
        raw, _ = self._pool.reset()
        return self._observe(raw, np.ones(self.num_envs, dtype=np.bool_))

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Take one action in every environment. actions: (N,) int64."""
        raw, reward, terminated, truncated, info = self._pool.step(actions)
        restarted = info["elapsed_step"] == 0
        return Step(self._observe(raw, restarted), reward.astype(np.float32, copy=False), terminated, truncated, restarted)

    def state(self) -> None:
        """Return None: EnvPool tells neither its levels' seeds nor its state."""

    def replay(self, state: dict[str, Any]) -> Iterator[Replayed]:
        """Raise CoteachError: there is no `state` to replay."""
        raise CoteachError(f"engine 'envpool': cannot play the saved episodes of {self.task}; use the engine minigrid")

    def close(self) -> None:
        """Close the environments."""
        self._pool.close()

    def _observe(self, raw: dict[str, Any], restarted: NDArray[np.bool_]) -> Observation:
        """Make an observation. Missions are constant within an episode: only those of restarted rows are decoded."""
        for env in np.flatnonzero(restarted):
            self._missions[env] = raw["mission"][env].tobytes().rstrip(b"\0").decode()
        return Observation(raw["image"], list(self._missions), raw["direction"])


class GymnasiumTask:
    """Gymnasium environments, stepped one after another in this process; each episode has a seed of its own.

    `seeds` has one iterator per environment (several environments may share one). An environment whose seeds are used up
    is *idle*: it is no longer stepped, and its row repeats the first observation of its last episode (restarted, reward 0),
    so that a grounding meets nothing new.

    episode: (N,) int64, the seed of the episode that each row belongs to.
    idle:    (N,) bool, True if the environment has no more episodes.
    """

    def __init__(self, task: str, seeds: Sequence[Iterator[int]], render: bool = False) -> None:
        level = levels.find(task)
        self.task, self.engine, self.scoring, self._pack = task, level.engine, level.scoring, level.pack
        self.endless = False
        """Whether an episode reached MOST_STEPS, and the task has no limit of its own."""
        self.num_envs = len(seeds)
        with levels.suppressed_output():
            self._envs: list[Any] = [level.new("rgb_array" if render else None) for _ in seeds]
        own = level.max_episode_steps or (math.inf if _has_time_limit(self._envs[0]) else None)
        self._limited, self._most_steps = own is not None, own or MOST_STEPS
        space = self._envs[0].action_space
        self.num_actions, self._first_action = int(space.n), int(space.start)
        self.episode = np.full(self.num_envs, -1, dtype=np.int64)
        self.idle = np.zeros(self.num_envs, dtype=np.bool_)
        self._seeds = list(seeds)
        self._begun = [0] * self.num_envs
        self._actions: list[list[int]] = [[] for _ in seeds]
        """The actions of each unfinished episode. Together with its seed, they suffice to replay it."""
        self._over = np.zeros(self.num_envs, dtype=np.bool_)
        self._shown: list[Any] = [None] * self.num_envs
        self._first: list[Any] = [None] * self.num_envs

    def reset(self) -> Any:
        """Begin an episode in every environment; return the observation of all N."""
        for env in range(self.num_envs):
            self._restart(env)
        self._over[:] = False
        return self._pack(list(self._shown))

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Take one action in every environment. actions: (N,) int64; those of restarted and idle rows are ignored."""
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
        """Return how many seeds each environment has used, and the actions taken in the episode of the last one."""
        return {"begun": list(self._begun), "actions": [list(actions) for actions in self._actions]}

    def replay(self, state: dict[str, Any]) -> Iterator[Replayed]:
        """Replay the episodes of `state` from their seeds. Shorter episodes wait at their first observation for longer ones."""
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
        """Return the picture of one environment, (H, W, 3) uint8; needs `render`. CoteachError if the environment draws none."""
        try:
            picture = self._envs[env].render()
        except Exception as error:  # whatever the environment raises
            raise CoteachError(f"task {self.task!r}: cannot be filmed ({type(error).__name__} {error})".rstrip()) from error
        if not isinstance(picture, np.ndarray):
            raise CoteachError(f"task {self.task!r}: cannot be filmed: it does not draw as render_mode='rgb_array' should")
        return picture

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            close(env, self.task)

    def _act(self, env: int, action: int) -> tuple[float, bool, bool]:
        """Take one step of one environment; return reward, terminated and truncated."""
        shown, reward, terminated, truncated = checked_step(self._envs[env], self.task, action + self._first_action)
        self._shown[env] = shown
        self._actions[env].append(action)
        if len(self._actions[env]) >= self._most_steps and not (terminated or truncated):
            if not (self._limited or self.endless):
                self.endless = True
                note(f"task {self.task!r}: an episode had no end after {MOST_STEPS} steps and is truncated; {LIMIT_IT}")
            truncated = True
        return reward, terminated, truncated

    def _restart(self, env: int) -> None:
        """Begin the next episode of one environment, or make it idle if its seeds are used up."""
        seed = next(self._seeds[env], None)
        if seed is None:
            self.idle[env] = True
        else:
            self.episode[env] = seed
            self._begun[env] += 1
            self._actions[env] = []
            with levels.suppressed_output():
                raw = checked_reset(self._envs[env], self.task, seed)
            self._first[env] = copy.deepcopy(raw)
        self._shown[env] = self._first[env]


def _has_time_limit(env: Any) -> bool:
    """Return whether one of an environment's wrappers truncates its episodes."""
    while isinstance(env, Wrapper):
        if isinstance(env, TimeLimit):
            return True
        env = env.env
    return False


def _first_seed(seed: int, num_envs: int) -> int:
    """Return the seed of environment 0. EnvPool gives environment i this seed + i, all of them signed 32-bit integers."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0]) % (2**31 - num_envs)
