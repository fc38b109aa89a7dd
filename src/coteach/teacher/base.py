"""The teacher's interface: situations in, one distribution over each situation's options out.

`Teacher.advise` returns the LLM's own advice, without any evidence. `Teacher.tune` changes the LLM by what the student found
out. Implementations: `local.teacher.LocalTeacher` (a causal LM with LoRA), `remote.teacher.RemoteTeacher` (any
OpenAI-compatible server), `recorded.RecordedTeacher` (the answers of an earlier run), `scripted` (no LLM).
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
    """A situation to tune on.

    target:        (len(options),) float64, the improved advice p+.
    weight:        relative frequency with which it is drawn.
    pessimistic_q: (len(options),) float64, pessimistic Q of each option; if None, `target` is used in its place.
    """

    situation: Situation
    target: NDArray[np.float64]
    weight: float = 1.0
    pessimistic_q: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class TuneReport:
    """The result of a tuning.

    lessons, steps: number of lessons that were used, and of optimiser steps.
    loss_before, loss_after: mean KL(p+ || p_LLM) over the lessons, in nats.
    drift: mean KL(untuned || tuned) over the lessons after the tuning, in nats.
    seconds: wall time.
    """

    lessons: int
    steps: int
    loss_before: float
    loss_after: float
    drift: float
    seconds: float


@dataclass(frozen=True)
class Explanation:
    """How an answer came about: the prompt, and for each option its score, its calibrated score and the advice."""

    prompt: str
    options: tuple[str, ...]
    score: NDArray[np.float64]
    calibrated: NDArray[np.float64]
    advice: NDArray[np.float64]


def uniform(situation: Situation) -> NDArray[np.float64]:
    """Return the uniform distribution over the situation's options, (len(options),) float64."""
    return np.full(len(situation.options), 1.0 / len(situation.options))


class Teacher(Protocol):
    """Gives advice. `tunable` is False for a teacher whose weights `tune` cannot change."""

    name: str
    tunable: bool
    usage: Usage

    @property
    def feedback(self) -> Feedback:
        """The in-context feedback that every prompt now contains."""
        ...

    def advise(self, situations: Sequence[Situation]) -> Sequence[NDArray[np.float64] | None]:
        """Return a distribution (sums to 1, all > 0) over the options of each situation; None where the LLM cannot answer now."""
        ...

    def advise_untuned(self, situations: Sequence[Situation]) -> Sequence[NDArray[np.float64] | None]:
        """Return the advice of the untuned model; the same as `advise` if the teacher cannot be tuned."""
        ...

    def give_feedback(self, feedback: Feedback) -> bool:
        """Put as much of `feedback` into later prompts as fits; return whether that changes the prompts."""
        ...

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        """Tune the LLM towards the lessons' targets; later calls of `advise` use the new weights."""
        ...

    def snapshot(self) -> Mapping[str, Tensor]:
        """Return a copy of the tuned weights, for `restore`; empty before the first tuning."""
        ...

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Put back the weights that `snapshot` returned."""
        ...

    def save(self, folder: Path) -> None:
        """Write the adapter (PEFT's format) and the feedback into `folder`; nothing where there is none."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        ...


class FixedTeacher:
    """The base of teachers that cannot be tuned and keep nothing."""

    name = "fixed"
    tunable = False
    feedback = NOTHING

    def give_feedback(self, feedback: Feedback) -> bool:
        """Ignore the feedback."""
        return False

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        """Raise CoteachError: this teacher cannot be tuned."""
        raise CoteachError(f"teacher {self.name!r} cannot be tuned: use a local language model (smollm2, hf:..., gguf:...)")

    def snapshot(self) -> dict[str, Tensor]:
        """Return nothing: there are no tuned weights."""
        return {}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Do nothing: there are no tuned weights."""

    def save(self, folder: Path) -> None:
        """Do nothing: there are no tuned weights."""

    def load(self, folder: Path) -> None:
        """Do nothing: there are no tuned weights."""
