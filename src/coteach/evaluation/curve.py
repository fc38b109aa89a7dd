"""A rung's learning curve: success in greedy evaluations, and success of recent training episodes.

A greedy evaluation plays the student alone, with its most probable actions, on levels kept for it. The curve, the steps to a
success level and the end of a rung depend on it. The success of training episodes, in which actions are drawn and the teacher
controls some episodes, determines the imitation coefficient. Failed episodes last longest. If episodes were counted only when
they end, the early successes would be counted long before the failures that began with them, and success would be overestimated
at first. Therefore an episode under way counts as a failure once it has lasted longer than nearly all recent successes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.config import EvaluationConfig
from coteach.student.rollout import Episode

SUCCESS_LEVELS = (0.80, 0.95)
"""The success levels for which the steps to reach them are reported."""


class Curve:
    """Success in greedy evaluations over the environment steps, and success of the last training episodes.

    points:   (steps, success in [0, 1]) of every greedy evaluation.
    steps_to: for each success level, the steps at the end of the first `config.reached` consecutive greedy evaluations whose mean
              success is at least that level; None until then.
    episodes: number of training episodes that have ended.
    """

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config
        self.points: list[tuple[int, float]] = []
        self._student: deque[bool] = deque(maxlen=config.window)
        self._controlled: deque[bool] = deque(maxlen=config.controlled_window)
        self._lengths: deque[int] = deque(maxlen=config.window)
        self._late = 0
        self.episodes = 0
        self.steps_to: dict[float, int | None] = dict.fromkeys(SUCCESS_LEVELS)

    def add_episodes(self, episodes: Iterable[Episode], under_way: NDArray[np.int64]) -> None:
        """Add training episodes that ended.

        under_way: (M,) lengths so far of the student-controlled episodes that have not ended.
        """
        for episode in episodes:
            if episode.success and not episode.controlled:
                self._lengths.append(episode.length)
            if not episode.optimistic:
                (self._controlled if episode.controlled else self._student).append(episode.success)
            self.episodes += 1
        self._late = (
            int((under_way > np.quantile(self._lengths, self.config.usual_length)).sum()) if self._lengths else len(under_way)
        )

    def evaluation_due(self, steps: int) -> bool:
        """Return whether the next greedy evaluation is due after so many steps."""
        return not self.points or steps >= (1.0 + self.config.spacing) * self.points[-1][0]

    def add_evaluation(self, steps: int, success: float) -> None:
        """Add a greedy evaluation after so many steps, with its success in [0, 1]."""
        self.points.append((steps, success))
        for level, reached in self.steps_to.items():
            if reached is None and self._mean(self.config.reached) >= level:
                self.steps_to[level] = steps

    def holds(self, level: float) -> bool:
        """Return whether the mean success of the last `config.held` greedy evaluations is at least `level`."""
        return self._mean(self.config.held) >= level

    @property
    def student(self) -> float | None:
        """Success of recent student-controlled episodes in [0, 1], late ones counted as failures; None before any ended."""
        return sum(self._student) / (len(self._student) + self._late) if self._student else None

    @property
    def controlled(self) -> float | None:
        """Success of recent teacher-controlled episodes in [0, 1], without optimistic ones; None before any ended."""
        return sum(self._controlled) / len(self._controlled) if self._controlled else None

    @property
    def greedy(self) -> float | None:
        """Success in the last greedy evaluation, in [0, 1]; None before the first."""
        return self.points[-1][1] if self.points else None

    def state(self) -> dict[str, Any]:
        """Return the whole curve as plain JSON."""
        return {
            "points": self.points,
            "student": list(self._student),
            "controlled": list(self._controlled),
            "lengths": list(self._lengths),
            "late": self._late,
            "episodes": self.episodes,
            "steps_to": list(self.steps_to.values()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned, in a new curve."""
        self.points = [(steps, success) for steps, success in state["points"]]
        self._student.extend(state["student"])
        self._controlled.extend(state["controlled"])
        self._lengths.extend(state["lengths"])
        self._late, self.episodes = state["late"], state["episodes"]
        self.steps_to = dict(zip(SUCCESS_LEVELS, state["steps_to"], strict=True))

    def _mean(self, count: int) -> float:
        """Return the mean success of the last `count` greedy evaluations; 0 if there were fewer."""
        last = [success for _, success in self.points[-count:]]
        return round(sum(last) / count, 9) if len(last) == count else 0.0
