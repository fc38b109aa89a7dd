"""A rung's learning curve: how the student alone fares in exams, and success of recent training episodes.

An exam is a hundred episodes of the greedy student on levels kept for it: what the curve, the steps to a level and the end of a
rung go by. Success of training episodes, in which actions are drawn at random and the teacher leads some, steers the guidance.
Of those, failures last longest: counted only when they end, the quick successes of the first environments would come
long before the failures that began with them, and success would start too high. So an episode still under way
counts as a failure once it has lasted longer than nearly all recent successes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.config import EvaluationConfig
from coteach.student.rollout import Episode

LEVELS = (0.80, 0.95)
"""Successes of which it is reported when they were reached."""


class Curve:
    """Success of the student alone over the steps, and of the last training episodes (None before any has ended).

    points: (steps, success) of every exam. steps_to[level]: steps at the end of the first `reached` exams in a row whose
    mean success is at least `level`; None while there are none.
    """

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config
        self.points: list[tuple[int, float]] = []
        self._student: deque[bool] = deque(maxlen=config.window)
        self._controlled: deque[bool] = deque(maxlen=config.controlled_window)
        self._lengths: deque[int] = deque(maxlen=config.window)
        self._late = 0
        self.episodes = 0
        self.steps_to: dict[float, int | None] = dict.fromkeys(LEVELS)

    def add(self, episodes: Iterable[Episode], under_way: NDArray[np.int64]) -> None:
        """Take in training episodes that ended; under_way: lengths so far of the student-led ones that have not."""
        for episode in episodes:
            if episode.success and not episode.controlled:
                self._lengths.append(episode.length)
            if not episode.optimistic:
                (self._controlled if episode.controlled else self._student).append(episode.success)
            self.episodes += 1
        self._late = (
            int((under_way > np.quantile(self._lengths, self.config.usual_length)).sum()) if self._lengths else len(under_way)
        )

    def due(self, steps: int) -> bool:
        """Whether the next exam is due."""
        return not self.points or steps >= (1.0 + self.config.spacing) * self.points[-1][0]

    def add_evaluation(self, steps: int, success: float) -> None:
        """Take in an exam."""
        self.points.append((steps, success))
        for level, reached in self.steps_to.items():
            if reached is None and self._mean(self.config.reached) >= level:
                self.steps_to[level] = steps

    def holds(self, level: float) -> bool:
        """The last `held` exams were passed at `level` on average."""
        return self._mean(self.config.held) >= level

    @property
    def student(self) -> float | None:
        """Success of recent student-led episodes in [0, 1]; those that take suspiciously long count as failures."""
        return sum(self._student) / (len(self._student) + self._late) if self._student else None

    @property
    def controlled(self) -> float | None:
        """Success of recent teacher-led episodes in [0, 1], bold ones left out."""
        return sum(self._controlled) / len(self._controlled) if self._controlled else None

    @property
    def greedy(self) -> float | None:
        """Success in the last exam, in [0, 1]."""
        return self.points[-1][1] if self.points else None

    def state(self) -> dict[str, Any]:
        """Everything, as plain JSON."""
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
        """Take up what `state` gave."""
        self.points = [(steps, success) for steps, success in state["points"]]
        self._student.extend(state["student"])
        self._controlled.extend(state["controlled"])
        self._lengths.extend(state["lengths"])
        self._late, self.episodes = state["late"], state["episodes"]
        self.steps_to = dict(zip(LEVELS, state["steps_to"], strict=True))

    def _mean(self, exams: int) -> float:
        """Mean success of the last `exams` exams; 0 where there were not so many."""
        last = [success for _, success in self.points[-exams:]]
        return round(sum(last) / exams, 9) if len(last) == exams else 0.0
