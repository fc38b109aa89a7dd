"""Teachers without an LLM, for comparison: uniform advice, the advice of the task's expert, and adversarial advice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coteach.config import TeacherConfig
from coteach.grounding.base import Situation
from coteach.teacher.base import FixedTeacher, uniform
from coteach.teacher.costs import Usage


class ScriptedTeacher(FixedTeacher):
    """The base of the scripted teachers: uniform advice, at no cost."""

    def __init__(self, config: TeacherConfig | None = None) -> None:
        self.smoothing = (config or TeacherConfig()).oracle_smoothing
        self.usage = Usage()

    def advise(self, situations: Sequence[Situation]) -> list[NDArray[np.float64]]:
        """Return one distribution over the options of each situation."""
        return [self._advice(situation) for situation in situations]

    def advise_untuned(self, situations: Sequence[Situation]) -> list[NDArray[np.float64]]:
        """Return the same advice: this teacher is never tuned."""
        return self.advise(situations)

    def _advice(self, situation: Situation) -> NDArray[np.float64]:
        return uniform(situation)


class UniformTeacher(ScriptedTeacher):
    """Gives every option the same probability."""

    name = "uniform"


class OracleTeacher(ScriptedTeacher):
    """`1 - oracle_smoothing` on the expert's option, the rest shared by the others; uniform where the expert knows none."""

    name = "oracle"

    def _advice(self, situation: Situation) -> NDArray[np.float64]:
        count = len(situation.options)
        if situation.expert is None or count == 1:
            return super()._advice(situation)
        advice = np.full(count, self.smoothing / (count - 1))
        advice[situation.expert] = 1.0 - self.smoothing
        return advice


class AdversarialTeacher(OracleTeacher):
    """The adversarial teacher: as confident as the oracle, of the option after the expert's."""

    name = "liar"

    def _advice(self, situation: Situation) -> NDArray[np.float64]:
        return np.roll(super()._advice(situation), 1)


SCRIPTED: dict[str, type[ScriptedTeacher]] = {kind.name: kind for kind in (UniformTeacher, OracleTeacher, AdversarialTeacher)}
"""Scripted teachers by their `teacher.spec`."""
