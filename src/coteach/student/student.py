"""One student: the learner, the executor, the replay buffer, and the mean return of its own rows in each situation.

A run has one student, or one for each task if the tasks are trained on together. Students share nothing with each other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coteach.config import Config
from coteach.errors import note
from coteach.grounding.base import Family, Situations
from coteach.runs import tensors
from coteach.student.executor import Executor
from coteach.student.hints import hint_size
from coteach.student.learner import Learner
from coteach.student.replay import Replay

RETURNS = "returns.safetensors"


MUCH = 2**30
"""Bytes of observations from which on there is a note."""


class Student:
    """All that belongs to one student.

    learner:   the network with its optimiser; it acts and learns.
    executor:  carries out options without a controller; None if there are none.
    replay:    rows kept for distillation.
    own_value: (S,) sum of the returns of its own rows in each situation; own_rows: (S,) their number. Older rounds fade.
    """

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
        round_size = config.collect.envs * (config.collect.horizon + 1) * layout.size * np.dtype(layout.dtype).itemsize
        if self.replay.size + round_size > MUCH:
            note(
                f"{family.name}: an observation has {layout.size:,} columns: replayed rows take up to {_gib(self.replay.size)}, "
                f"in memory and in every checkpoint, and a round {_gib(round_size)}; show smaller pictures, or lower "
                "guidance.replay_rows, collect.envs or collect.horizon"
            )
        self.own_value, self.own_rows = np.zeros(0), np.zeros(0)

    def observe_returns(self, situation: NDArray[np.int64], returns: NDArray[np.floating], situations: int) -> None:
        """Add the returns (B,) of its own rows in situations (B,), of which there are `situations`; older ones fade."""
        grown = np.zeros(situations - len(self.own_value))
        kept = self.guidance.surpass_decay
        self.own_value = kept * np.append(self.own_value, grown) + np.bincount(situation, returns, situations)
        self.own_rows = kept * np.append(self.own_rows, grown) + np.bincount(situation, minlength=situations)

    def surpasses(self, situation: NDArray[np.int64], value: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return a mask (B,): where its own value in the situation clearly exceeds `value` (B,), the advice's.

        False where the student has too few rows or no way to a reward is known to the advice (value 0).
        """
        known = self.own_rows[situation] >= self.guidance.surpass_rows
        own = self.own_value[situation] / np.maximum(self.own_rows[situation], 1.0)
        better: NDArray[np.bool_] = known & (value > 0) & (own > value + self.guidance.surpass_margin)
        return better

    def save(self, folder: Path) -> None:
        """Write network, optimiser, executor, replay buffer and the returns of its own rows into `folder`."""
        self.learner.save(folder)
        tensors.write(folder / RETURNS, {"own_value": self.own_value, "own_rows": self.own_rows})
        self.replay.save(folder / "replay.safetensors")
        if self.executor is not None:
            self.executor.save(folder)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self.learner.load(folder)
        returns = tensors.read(folder / RETURNS)
        self.own_value, self.own_rows = returns["own_value"].numpy().copy(), returns["own_rows"].numpy().copy()
        self.replay.load(folder / "replay.safetensors")
        if self.executor is not None:
            self.executor.load(folder)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
