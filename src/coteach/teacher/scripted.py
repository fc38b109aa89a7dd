"""Teachers without a language model: `UniformTeacher` knows nothing, `OracleTeacher` what the task's expert would do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coteach.config import TeacherConfig
from coteach.grounding.base import Situation
from coteach.teacher.base import FixedTeacher, uniform
from coteach.teacher.costs import Usage


class ScriptedTeacher(FixedTeacher):
    """What the scripted teachers share."""

    def __init__(self, config: TeacherConfig | None = None) -> None:
        self.doubt = (config or TeacherConfig()).oracle_doubt
        self.usage = Usage()

    def advise(self, situations: Sequence[Situation]) -> list[NDArray[np.float64]]:
        """One distribution over `options` for each situation."""
        return [self._advice(situation) for situation in situations]

    def advise_untuned(self, situations: Sequence[Situation]) -> list[NDArray[np.float64]]:
        """The same advice: nothing is tuned."""
        return self.advise(situations)

    def _advice(self, situation: Situation) -> NDArray[np.float64]:
        return uniform(situation)


class UniformTeacher(ScriptedTeacher):
    """The same probability for every option."""

    name = "uniform"


class OracleTeacher(ScriptedTeacher):
    """`1 - oracle_doubt` on the expert's option, the rest shared by the others; uniform where the expert knows none."""

    name = "oracle"

    def _advice(self, situation: Situation) -> NDArray[np.float64]:
        count = len(situation.options)
        if situation.expert is None or count == 1:
            return super()._advice(situation)
        advice = np.full(count, self.doubt / (count - 1))
        advice[situation.expert] = 1.0 - self.doubt
        return advice


class AdversarialTeacher(OracleTeacher):
    """The oracle with the options shuffled: as sure as it is, of an option that the expert would not choose."""

    name = "liar"

    def _advice(self, situation: Situation) -> NDArray[np.float64]:
        return np.roll(super()._advice(situation), 1)


SCRIPTED: dict[str, type[ScriptedTeacher]] = {kind.name: kind for kind in (UniformTeacher, OracleTeacher, AdversarialTeacher)}
"""By the specs that name them."""
