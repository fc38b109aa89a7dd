"""The teacher: asked about a situation, it answers with a distribution over the situation's options.

`Teacher.advise` is pure advice: no evidence in it. `Teacher.tune` is the slow channel from student to
teacher (the design's step 6). Implementations: `local.LocalTeacher` (a causal LM with LoRA),
`scripted.UniformTeacher`, `scripted.OracleTeacher`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from coteach.grounding.base import Situation


@dataclass
class Books:
    """What the teacher has cost so far. Times in seconds; tokens are those the model computed."""

    queries: int = 0
    """Situations the model was asked about (advice-memory hits not counted)."""
    memory_hits: int = 0
    tokens: int = 0
    seconds: float = 0.0
    tunings: int = 0
    tune_seconds: float = 0.0

    def since(self, earlier: Books) -> Books:
        """What was spent after `earlier` (a copy made then with `dataclasses.replace`)."""
        return Books(**{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)})


@dataclass(frozen=True)
class Lesson:
    """One situation with evidence: `target` (len(options),) float64 is the improved advice p+."""

    situation: Situation
    target: NDArray[np.float64]
    weight: float = 1.0


@dataclass(frozen=True)
class TuneReport:
    """Mean KL(p+ || p_LLM) over the lessons before and after, and KL(untuned || tuned) after, in nats."""

    lessons: int
    steps: int
    loss_before: float
    loss_after: float
    drift: float
    seconds: float


class Teacher(Protocol):
    """Advice for situations. `tunable` is False where `tune` has nothing to move."""

    name: str
    tunable: bool
    books: Books

    def advise(self, situations: Sequence[Situation]) -> list[NDArray[np.float64]]:
        """One distribution over `options` (sums to 1, all > 0) for each situation."""
        ...

    def advise_untuned(self, situations: Sequence[Situation]) -> list[NDArray[np.float64]]:
        """What `advise` said before any tuning; the same as `advise` where nothing can be tuned."""
        ...

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        """Move the teacher towards the improved advice; later `advise` calls use the new weights."""
        ...

    def snapshot(self) -> Mapping[str, Tensor]:
        """A copy of what was learned so far, for `restore`; empty before anything was."""
        ...

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Go back to what `snapshot` gave."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was learned (a PEFT adapter) into `folder`; nothing where nothing can be learned."""
        ...

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        ...
