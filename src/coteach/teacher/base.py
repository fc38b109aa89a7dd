"""The teacher: asked about a situation, it answers with a distribution over the situation's options.

`Teacher.advise` is pure advice: no evidence in it. `Teacher.tune` is the slow channel from student to
teacher (the design's step 6). Implementations: `local.LocalTeacher` (a causal LM with LoRA),
`remote.RemoteTeacher` (any OpenAI-compatible server), `scripted.UniformTeacher`, `scripted.OracleTeacher`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from coteach.errors import CoteachError
from coteach.grounding.base import Situation
from coteach.teacher.costs import Usage
from coteach.teacher.feedback import NOTHING, Feedback

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Lesson:
    """One situation with evidence: `target` (len(options),) float64 is the improved advice p+.

    worth: (len(options),) float64, Q of each option by the evidence alone; where none is given, `target` stands for it.
    """

    situation: Situation
    target: NDArray[np.float64]
    weight: float = 1.0
    worth: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class TuneReport:
    """Mean KL(p+ || p_LLM) over the lessons before and after, and KL(untuned || tuned) after, in nats."""

    lessons: int
    steps: int
    loss_before: float
    loss_after: float
    drift: float
    seconds: float


@dataclass(frozen=True)
class Explanation:
    """How an answer came about: what the model read, and for each option its score, the calibrated score and the advice."""

    prompt: str
    options: tuple[str, ...]
    score: NDArray[np.float64]
    calibrated: NDArray[np.float64]
    advice: NDArray[np.float64]


def uniform(situation: Situation) -> NDArray[np.float64]:
    """(len(options),) the advice of one who knows nothing."""
    return np.full(len(situation.options), 1.0 / len(situation.options))


class Teacher(Protocol):
    """Advice for situations. `tunable` is False where `tune` has nothing to move."""

    name: str
    tunable: bool
    usage: Usage

    @property
    def feedback(self) -> Feedback:
        """What stands before every question."""
        ...

    def advise(self, situations: Sequence[Situation]) -> Sequence[NDArray[np.float64] | None]:
        """One distribution over `options` (sums to 1, all > 0) for each situation; None where it cannot be asked now."""
        ...

    def advise_untuned(self, situations: Sequence[Situation]) -> Sequence[NDArray[np.float64] | None]:
        """What `advise` said before any tuning; the same as `advise` where nothing can be tuned."""
        ...

    def give_feedback(self, feedback: Feedback) -> bool:
        """Put `feedback`, as far as it fits, before every later question; whether that changes what is asked."""
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
        """Write what was learned (a PEFT adapter, what was told) into `folder`; nothing where nothing was."""
        ...

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        ...


class FixedTeacher:
    """What teachers share whose weights are out of reach: nothing to tune, nothing to keep."""

    name = "fixed"
    tunable = False
    feedback = NOTHING

    def give_feedback(self, feedback: Feedback) -> bool:
        """Nobody listens."""
        return False

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        """Not possible: `tunable` is False."""
        raise CoteachError(f"teacher {self.name!r} cannot be tuned: use a local language model (smollm2, hf:..., gguf:...)")

    def snapshot(self) -> dict[str, Tensor]:
        """Nothing is learned, nothing is copied."""
        return {}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Nothing was learned, nothing is put back."""

    def save(self, folder: Path) -> None:
        """Nothing is learned, nothing is written."""

    def load(self, folder: Path) -> None:
        """Nothing was learned, nothing is read."""
