"""How far the LLM's schooling at the end of a rung has come: what a checkpoint keeps, so that no practice is made twice.

Schooling is practices and tunings by turns (`Players.school`); between any two of them the run may stop.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coteach.runs import tensors
from coteach.runs.progress import percent

FILE, WEIGHTS = "school.json", "school.safetensors"


@dataclass
class School:
    """`kept`: the LLM's best weights so far (`Teacher.snapshot`), `best`: its success with them, -1 before any practice.

    met: (S,) how often it chose in each situation, over all practices.
    """

    kept: Mapping[str, Tensor]
    best: float = -1.0
    success: float = -1.0
    """Of the last practice."""
    tunings: int = 0
    in_vain: int = 0
    """Tunings since the best."""
    asked: int = 0
    """Situations met in its practices, counted anew in each."""
    practised: bool = False
    """Whether it has practised with its present weights."""
    met: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def practice(self, success: float, met: NDArray[np.float64], weights: Mapping[str, Tensor]) -> None:
        """It has practised: with which success, how often it chose in each situation (S,), with which weights."""
        self.met = np.append(self.met, np.zeros(len(met) - len(self.met))) + met
        self.success, self.practised = success, True
        self.asked += int((met > 0).sum())
        if success > self.best:
            self.best, self.kept, self.in_vain = success, weights, 0

    def tuned(self) -> None:
        """It has new weights."""
        self.tunings, self.in_vain, self.practised = self.tunings + 1, self.in_vain + 1, False

    def standing(self) -> str:
        """How far it has come, in a few words."""
        tunings = f"after {self.tunings} tuning{'' if self.tunings == 1 else 's'}"
        return f"the LLM alone {percent(self.success)} {tunings}" if self.practised else f"practice {tunings}"

    def save(self, folder: Path) -> None:
        """Write it into `folder`."""
        tensors.write(folder / WEIGHTS, tensors.prefixed("kept.", self.kept) | {"met": torch.from_numpy(self.met)})
        numbers = {name: getattr(self, name) for name in ("best", "success", "tunings", "in_vain", "asked", "practised")}
        (folder / FILE).write_text(json.dumps(numbers), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What `save` wrote; None where no schooling was under way."""
        if not (folder / FILE).exists():
            return None
        state = tensors.read(folder / WEIGHTS)
        numbers = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return cls(tensors.under("kept.", state), met=state["met"].numpy().copy(), **numbers)
