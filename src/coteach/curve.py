"""A rung's learning curve: success of recent training episodes, and when it first reached a level.

Episodes count in the order in which they *began*. In the order in which they end, the quick successes of the first
environments would come long before the failures that began with them, and a curve would start too high.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from coteach.student.rollout import Episode

WINDOW = 100
"""Episodes over which success is averaged."""

LED_WINDOW = 50
HELD_WINDOW = 1000
"""Episodes over which a success must have held for a rung to be over."""

LEVELS = (0.80, 0.95)


class Curve:
    """Success of the last episodes, student-led and teacher-led apart; None before enough have ended.

    `steps_to[level]` is the number of environment steps at which the last `WINDOW` student-led episodes first
    succeeded that often; None while they have not. An episode counts once all that began before it have ended.
    """

    def __init__(self) -> None:
        self._student: deque[bool] = deque(maxlen=WINDOW)
        self._led: deque[bool] = deque(maxlen=LED_WINDOW)
        self._held: deque[bool] = deque(maxlen=HELD_WINDOW)
        self._waiting: dict[tuple[bool, int], bool] = {}
        self._next = {False: 0, True: 0}
        self.episodes = 0
        self.steps_to: dict[float, int | None] = dict.fromkeys(LEVELS)

    def add(self, episodes: Iterable[Episode], steps: int) -> None:
        """Take in the episodes that ended by `steps`."""
        for episode in episodes:
            self._waiting[episode.led, episode.number] = episode.success
            self.episodes += 1
        for led, windows in ((False, (self._student, self._held)), (True, (self._led,))):
            while (led, self._next[led]) in self._waiting:
                success = self._waiting.pop((led, self._next[led]))
                self._next[led] += 1
                for window in windows:
                    window.append(success)
        self._reach(steps)

    def _reach(self, steps: int) -> None:
        for level, reached in self.steps_to.items():
            if reached is None and len(self._student) == WINDOW and sum(self._student) >= level * WINDOW:
                self.steps_to[level] = steps

    @property
    def student(self) -> float | None:
        """Success of recent student-led episodes in [0, 1]."""
        return sum(self._student) / len(self._student) if self._student else None

    @property
    def led(self) -> float | None:
        """Success of recent teacher-led episodes in [0, 1]."""
        return sum(self._led) / len(self._led) if self._led else None

    def holds(self, level: float) -> bool:
        """The last `HELD_WINDOW` student-led episodes succeeded at least this often."""
        return len(self._held) == HELD_WINDOW and sum(self._held) >= level * HELD_WINDOW

    def state(self) -> dict[str, Any]:
        """Everything but the episodes that wait for earlier ones, as plain JSON: numbers begin anew after a resume."""
        return {
            "student": list(self._student),
            "led": list(self._led),
            "held": list(self._held),
            "episodes": self.episodes,
            "steps_to": list(self.steps_to.values()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self._student.extend(state["student"])
        self._led.extend(state["led"])
        self._held.extend(state["held"])
        self.episodes = state["episodes"]
        self.steps_to = dict(zip(LEVELS, state["steps_to"], strict=True))
