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


class Student:
    """One student. `learner` acts and learns, `executor` carries out options without a controller (None: there are none)."""

    def __init__(self, config: Config, family: Family, situations: Situations, seed: int) -> None:
        self.guidance = config.guidance
        layout, actions = family.layout, len(family.action_names)
        habits = None if family.habits is None else family.habits * np.float32(config.student.repetition_reluctance)
        if config.guidance.hint:
            more = hint_size(actions)
            layout = layout.widened(more)
            habits = None if habits is None else np.pad(habits, ((0, more), (0, 0)))
        self.learner = Learner(config.student, layout, actions, seed, habits)
        self.executor: Executor | None = None
        if family.unscripted or config.student.learned_options:
            self.executor = Executor(family.layout, actions, config, seed, situations)
        self.replay = Replay(config.guidance.replay_rows, layout, family.max_options)
        self.own_value, self.own_rows = np.zeros(0), np.zeros(0)
        """(S,) sum of what its own rows returned in each situation, and their number; older rounds have faded."""

    def observe_returns(self, situation: NDArray[np.int64], returns: NDArray[np.floating], situations: int) -> None:
        """Keep what its own rows (B,) returned in each of so many situations, older rounds fading."""
        grown = np.zeros(situations - len(self.own_value))
        kept = self.guidance.surpass_decay
        self.own_value = kept * np.append(self.own_value, grown) + np.bincount(situation, returns, situations)
        self.own_rows = kept * np.append(self.own_rows, grown) + np.bincount(situation, minlength=situations)

    def surpasses(self, situation: NDArray[np.int64], value: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(B,) where its own value in these situations beats `value` (B,), the advice's; not where either is unknown."""
        known = self.own_rows[situation] >= self.guidance.surpass_rows
        own = self.own_value[situation] / np.maximum(self.own_rows[situation], 1.0)
        better: NDArray[np.bool_] = known & (value > 0) & (own > value + self.guidance.surpass_margin)
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
