"""The student's side of the game: all that belongs to one student and that it shares with no other.

Its network with the optimiser, the options that it carries out itself, the rows kept for distillation, and what its own steps
returned in each situation. A run has one of them, or one for each task where these are trained on together.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coteach.config import Config
from coteach.grounding.base import Family, Situations
from coteach.runs import tensors
from coteach.student.executor import Executor
from coteach.student.hints import hint_size
from coteach.student.learner import Learner
from coteach.student.replay import Replay

RETURNS = "returns.safetensors"

MARGIN = 0.05
"""By so much of return must the student's own value in a situation beat the advice's before it stops heeding it there."""

ENOUGH_ROWS = 20
"""Of its own in a situation, older rounds fading, before it has a value there."""

FADING = 0.8
"""Share of what its rows returned that is kept from round to round."""


class Student:
    """One student. `learner` acts and learns, `executor` carries out options without a controller (None: there are none)."""

    def __init__(self, config: Config, family: Family, situations: Situations, seed: int) -> None:
        layout, actions, habits = family.layout, len(family.action_names), family.habits
        if config.guidance.hint:
            more = hint_size(actions)
            layout = layout.widened(more)
            habits = None if habits is None else np.pad(habits, ((0, more), (0, 0)))
        self.learner = Learner(config.student, layout, actions, seed, habits)
        self.executor: Executor | None = None
        if family.unscripted or config.student.learned_options:
            own = config.student.learned_options
            self.executor = Executor(family.layout, actions, config.student.hidden, seed, situations, own)
        self.replay = Replay(config.guidance.replay_rows, layout, family.max_options)
        self.own_value, self.own_rows = np.zeros(0), np.zeros(0)
        """(S,) sum of what its own rows returned in each situation, and their number; older rounds have faded."""

    def observe_returns(self, situation: NDArray[np.int64], returns: NDArray[np.floating], situations: int) -> None:
        """Keep what its own rows (B,) returned in each of so many situations, older rounds fading."""
        grown = np.zeros(situations - len(self.own_value))
        self.own_value = FADING * np.append(self.own_value, grown) + np.bincount(situation, returns, situations)
        self.own_rows = FADING * np.append(self.own_rows, grown) + np.bincount(situation, minlength=situations)

    def surpasses(self, situation: NDArray[np.int64], value: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(B,) where its own value in these situations beats `value` (B,), the advice's; not where either is unknown."""
        known = self.own_rows[situation] >= ENOUGH_ROWS
        own = self.own_value[situation] / np.maximum(self.own_rows[situation], 1.0)
        better: NDArray[np.bool_] = known & (value > 0) & (own > value + MARGIN)
        return better

    def save(self, folder: Path) -> None:
        """Write network, optimiser, replayed rows and what its own rows returned into `folder`."""
        self.learner.save(folder)
        tensors.write(folder / RETURNS, {"own_value": self.own_value, "own_rows": self.own_rows})
        self.replay.save(folder / "replay.safetensors")
        if self.executor is not None:
            self.executor.save(folder)

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        self.learner.load(folder)
        returns = tensors.read(folder / RETURNS)
        self.own_value, self.own_rows = returns["own_value"].numpy().copy(), returns["own_rows"].numpy().copy()
        self.replay.load(folder / "replay.safetensors")
        if self.executor is not None:
            self.executor.load(folder)
