"""Small Gymnasium environments for tests: a line to walk along, shown in whatever way a test wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

import coteach

LENGTH = 5
LEFT, RIGHT = 0, 1
PLACE = spaces.Discrete(LENGTH)


class Line(gymnasium.Env[Any, Any]):
    """From its left end, or from anywhere with `anywhere`, to the right end, which is rewarded with `reward` and ends it."""

    def __init__(
        self,
        space: spaces.Space[Any] = PLACE,
        show: Callable[[int], Any] = int,
        reward: float = 1.0,
        step_reward: float = 0.0,
        actions: spaces.Space[Any] | None = None,
        anywhere: bool = False,
    ) -> None:
        self.observation_space, self.show = space, show
        self.action_space = actions or spaces.Discrete(2)
        self.reward, self.step_reward, self.anywhere = reward, step_reward, anywhere

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(LENGTH - 1)) if self.anywhere else 0
        return self.show(self.place), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        right = int(action) - int(getattr(self.action_space, "start", 0)) == RIGHT
        self.place = min(max(self.place + (1 if right else -1), 0), LENGTH - 1)
        over = self.place == LENGTH - 1
        return self.show(self.place), self.reward if over else self.step_reward, over, False, {}


def line(limit: int = 20, **how: Any) -> Callable[[], gymnasium.Env[Any, Any]]:
    """Makes lines with a time limit."""
    return lambda: TimeLimit(Line(**how), limit)


def describe(seen: Any) -> str:
    """Where on the line one is."""
    return f"Walk to the right end. You are at place {np.asarray(seen).ravel()[0]}."


def environment(task: str = "Line-v0", **how: Any) -> coteach.Environment:
    """The line as a task."""
    given: dict[str, Any] = {"describe": describe, "actions": ("go left", "go right"), "make": line()} | how
    return coteach.Environment(task, **given)
