"""Fine-tuning of the LLM after a rung: rollouts of the LLM alone alternate with tunings, until it is good enough.

Without evidence, a single wrong answer in a situation that every episode passes through makes the LLM fail. Rollouts of the LLM
itself show which situations matter, so it is tuned on these (DAgger: Ross et al. 2011, arXiv 1011.0686). The run may be
interrupted between any two steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coteach.method.examiner import Examiner
from coteach.method.players import Players
from coteach.runs import tensors
from coteach.runs.progress import percent

FILE, WEIGHTS = "schooling.json", "schooling.safetensors"


@dataclass
class Standing:
    """The progress of the fine-tuning, which a checkpoint stores.

    kept:       the LLM's best weights so far (`Teacher.snapshot`).
    best:       its success with them, in [0, 1]; -1 before any rollout.
    success:    of the last rollouts.
    tunings:    number of tunings so far; in_vain: those since the best weights.
    asked:      number of situations met, summed over all rollouts.
    rolled_out: whether there were rollouts with the present weights.
    met:        (S,) how often the LLM chose in each situation, over all rollouts.
    """

    kept: Mapping[str, Tensor]
    best: float = -1.0
    success: float = -1.0
    tunings: int = 0
    in_vain: int = 0
    asked: int = 0
    rolled_out: bool = False
    met: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add_rollouts(self, success: float, met: NDArray[np.float64], weights: Mapping[str, Tensor]) -> None:
        """Add rollouts: their success, how often the LLM chose in each situation (S,), and its weights."""
        self.met = np.append(self.met, np.zeros(len(met) - len(self.met))) + met
        self.success, self.rolled_out = success, True
        self.asked += int((met > 0).sum())
        if success > self.best:
            self.best, self.kept, self.in_vain = success, weights, 0

    def add_tuning(self) -> None:
        """Count a tuning: the LLM has new weights."""
        self.tunings, self.in_vain, self.rolled_out = self.tunings + 1, self.in_vain + 1, False

    def describe(self) -> str:
        """Return the progress in a few words."""
        tunings = f"after {self.tunings} tuning{'' if self.tunings == 1 else 's'}"
        return f"the LLM alone {percent(self.success)} {tunings}" if self.rolled_out else f"rollouts {tunings}"

    def save(self, folder: Path) -> None:
        """Write the progress into `folder`."""
        tensors.write(folder / WEIGHTS, tensors.add_prefix("kept.", self.kept) | {"met": torch.from_numpy(self.met)})
        numbers = {name: getattr(self, name) for name in ("best", "success", "tunings", "in_vain", "asked", "rolled_out")}
        (folder / FILE).write_text(json.dumps(numbers), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Return what `save` wrote; None if no fine-tuning was under way."""
        if not (folder / FILE).exists():
            return None
        state = tensors.read(folder / WEIGHTS)
        numbers = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return cls(tensors.select_prefix("kept.", state), met=state["met"].numpy().copy(), **numbers)


class Schooling:
    """Fine-tunes the LLM after a rung. `standing` is None while no fine-tuning is under way."""

    def __init__(self, players: Players, examiner: Examiner) -> None:
        self.players, self.examiner = players, examiner
        self.standing: Standing | None = None

    def describe(self) -> str:
        """Return the progress in a few words; empty if no fine-tuning is under way."""
        return self.standing.describe() if self.standing else ""

    def advance(self, climbed: Sequence[str]) -> bool:
        """Take one step: rollouts of the LLM alone on the tasks `climbed`, or one tuning; return whether there is more to do.

        In the end the LLM has the weights with the best mean success on these tasks.
        """
        players, settings = self.players, self.players.config.teacher
        if not (settings.schooling and players.arm.tune and players.teacher.tunable):
            return False
        standing = self.standing = self.standing or Standing(players.teacher.snapshot())
        if not standing.rolled_out:
            standing.add_rollouts(*self.examiner.roll_out_teacher(climbed), players.teacher.snapshot())
            return True
        if not self._enough(standing) and players.tune(standing.met):
            standing.add_tuning()
            return True
        if standing.success < standing.best:
            players.teacher.restore(standing.kept)
            players.advice.ask_again()
        self.standing = None
        return False

    def _enough(self, standing: Standing) -> bool:
        """Return whether the LLM is good enough, stopped improving, or met as many situations as allowed."""
        settings = self.players.config.teacher
        return (
            standing.best >= settings.schooling_success
            or standing.tunings >= settings.schooling
            or standing.in_vain == settings.schooling_patience
            or standing.asked >= settings.schooling_situations
        )
