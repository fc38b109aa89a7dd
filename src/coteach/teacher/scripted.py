"""Teachers without a language model: `UniformTeacher` knows nothing, `OracleTeacher` what the task's expert would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from coteach.errors import CoteachError
from coteach.grounding.base import Situation
from coteach.teacher.base import Books, Lesson, TuneReport

DOUBT = 0.02  # what the oracle leaves to the options other than the expert's


class ScriptedTeacher:
    """What the scripted teachers share: nothing to tune, nothing to keep."""

    name = "scripted"
    tunable = False

    def __init__(self) -> None:
        self.books = Books()

    def advise(self, situations: Sequence[Situation]) -> list[NDArray[np.float64]]:
        """One distribution over `options` for each situation."""
        return [self._advice(situation) for situation in situations]

    def advise_untuned(self, situations: Sequence[Situation]) -> list[NDArray[np.float64]]:
        """The same advice: nothing is tuned."""
        return self.advise(situations)

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        """Not possible: `tunable` is False."""
        raise CoteachError(f"teacher {self.name!r} cannot be tuned: use a language model (smollm2, hf:..., gguf:...)")

    def snapshot(self) -> dict[str, Tensor]:
        """Nothing is learned, nothing is copied."""
        return {}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Nothing was learned, nothing is put back."""

    def save(self, folder: Path) -> None:
        """Nothing is learned, nothing is written."""

    def load(self, folder: Path) -> None:
        """Nothing was learned, nothing is read."""

    def _advice(self, situation: Situation) -> NDArray[np.float64]:
        return np.full(len(situation.options), 1.0 / len(situation.options))


class UniformTeacher(ScriptedTeacher):
    """The same probability for every option."""

    name = "uniform"


class OracleTeacher(ScriptedTeacher):
    """`1 - DOUBT` on the expert's option, the rest shared by the others; uniform where the expert knows none."""

    name = "oracle"

    def _advice(self, situation: Situation) -> NDArray[np.float64]:
        count = len(situation.options)
        if situation.expert is None or count == 1:
            return super()._advice(situation)
        advice = np.full(count, DOUBT / (count - 1))
        advice[situation.expert] = 1.0 - DOUBT
        return advice


class LiarTeacher(OracleTeacher):
    """The oracle with the options shuffled: as sure as it is, of an option that the expert would not choose."""

    name = "liar"

    def _advice(self, situation: Situation) -> NDArray[np.float64]:
        return np.roll(super()._advice(situation), 1)
