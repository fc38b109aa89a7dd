"""A rung's learning curve: success of recent training episodes, and when it first reached a level.

Episodes that fail last longest. Counted only when they end, the quick successes of the first environments would come
long before the failures that began with them, and every curve would start too high. So an episode still under way
counts as a failure once it has lasted longer than nearly all recent successes: never too early a level, perhaps a little late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.student.rollout import Episode

WINDOW = 100
"""Episodes over which success is averaged."""

LED_WINDOW = 50
HELD_WINDOW = 1000
"""Episodes over which a success must have held for a rung to be over."""

USUAL = 0.95
"""An episode under way that is longer than this share of recent successes were is late."""

LEVELS = (0.80, 0.95)


class Curve:
    """Success of the last episodes, student-led and teacher-led apart; None before enough have ended.

    `steps_to[level]` is the number of environment steps at which the last `WINDOW` student-led episodes first
    succeeded that often, late ones under way counted as failures; None while they have not.
    """

    def __init__(self) -> None:
        self._student: deque[bool] = deque(maxlen=WINDOW)
        self._led: deque[bool] = deque(maxlen=LED_WINDOW)
        self._held: deque[bool] = deque(maxlen=HELD_WINDOW)
        self._lengths: deque[int] = deque(maxlen=WINDOW)
        self._late = 0
        self.episodes = 0
        self.steps_to: dict[float, int | None] = dict.fromkeys(LEVELS)

    def add(self, episodes: Iterable[Episode], under_way: NDArray[np.int64], steps: int) -> None:
        """Take in the episodes that ended by `steps`; under_way: lengths so far of the student-led ones that have not."""
        for episode in episodes:
            if episode.success and not episode.led:
                self._lengths.append(episode.length)
            for recent in (self._led,) if episode.led else (self._student, self._held):
                recent.append(episode.success)
            self.episodes += 1
        self._late = int((under_way > np.quantile(self._lengths, USUAL)).sum()) if self._lengths else len(under_way)
        for level, reached in self.steps_to.items():
            if reached is None and len(self._student) == WINDOW and (self.student or 0.0) >= level:
                self.steps_to[level] = steps

    @property
    def student(self) -> float | None:
        """Success of recent student-led episodes in [0, 1]; those that take suspiciously long count as failures."""
        return sum(self._student) / (len(self._student) + self._late) if self._student else None

    @property
    def led(self) -> float | None:
        """Success of recent teacher-led episodes in [0, 1]."""
        return sum(self._led) / len(self._led) if self._led else None

    def holds(self, level: float) -> bool:
        """The last `HELD_WINDOW` student-led episodes succeeded at least this often."""
        return len(self._held) == HELD_WINDOW and sum(self._held) >= level * HELD_WINDOW

    def state(self) -> dict[str, Any]:
        """Everything, as plain JSON."""
        return {
            "student": list(self._student),
            "led": list(self._led),
            "held": list(self._held),
            "lengths": list(self._lengths),
            "episodes": self.episodes,
            "steps_to": list(self.steps_to.values()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self._student.extend(state["student"])
        self._led.extend(state["led"])
        self._held.extend(state["held"])
        self._lengths.extend(state["lengths"])
        self.episodes = state["episodes"]
        self.steps_to = dict(zip(LEVELS, state["steps_to"], strict=True))
