"""What a teacher said, word for word: written down while a run goes on, and said again later without any model.

A record is a file of JSON lines in the order of the questions: an answer with its situation, what the teacher was told, or the
report of a tuning. The loop is deterministic, so that a run with the same configuration asks the same questions;
`RecordedTeacher` answers them from the record and stops where they differ. Probabilities are written with all their digits.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from coteach.errors import CoteachError, RunFailed, printable
from coteach.grounding.base import Situation
from coteach.runs import jsonl
from coteach.runs.files import disk, replace_text
from coteach.teacher.base import Lesson, Teacher, TuneReport
from coteach.teacher.costs import Usage
from coteach.teacher.feedback import NOTHING, Feedback

RECORD = "answers.jsonl"
"""The record's name in a run folder."""

Answers = Sequence[NDArray[np.float64] | None]


class Record:
    """The file: `said` is how many lines of it count so far."""

    def __init__(self, path: Path) -> None:
        self.path, self.said = path, 0

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write further lines; the first ones begin the file anew."""
        with disk(self.path), self.path.open("a" if self.said else "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        self.said += len(rows)

    def cut(self, said: int) -> None:
        """Go on after the first `said` lines."""
        self.said = said
        if self.path.exists():
            with disk(self.path):
                replace_text(self.path, "".join(json.dumps(row) + "\n" for row in itertools.islice(jsonl.read(self.path), said)))


class Recorder:
    """A teacher that writes down what it says; in all else it is the one that it is given."""

    def __init__(self, teacher: Teacher, record: Record) -> None:
        self.teacher, self.record = teacher, record
        self.name, self.tunable = teacher.name, teacher.tunable
        if isinstance(teacher, RecordedTeacher):
            teacher.said = record.said

    @property
    def usage(self) -> Usage:
        """What the teacher has cost."""
        return self.teacher.usage

    @usage.setter
    def usage(self, usage: Usage) -> None:
        self.teacher.usage = usage

    def go_on(self, said: int) -> None:
        """Take up the record after so many lines; what was said later is said again."""
        self.record.cut(said)
        if isinstance(self.teacher, RecordedTeacher):
            self.teacher.said = said

    def advise(self, situations: Sequence[Situation]) -> Answers:
        """The teacher's answers."""
        return self._written(situations, self.teacher.advise(situations))

    def advise_untuned(self, situations: Sequence[Situation]) -> Answers:
        """What it said before any tuning."""
        return self._written(situations, self.teacher.advise_untuned(situations))

    @property
    def feedback(self) -> Feedback:
        """What the teacher was told."""
        return self.teacher.feedback

    def give_feedback(self, feedback: Feedback) -> bool:
        """Tell it."""
        changed = self.teacher.give_feedback(feedback)
        self.record.append([{"feedback": asdict(self.teacher.feedback)}])
        return changed

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        """Tune it."""
        report = self.teacher.tune(lessons, seed)
        self.record.append([{"tuned": asdict(report)}])
        return report

    def snapshot(self) -> Mapping[str, Tensor]:
        """A copy of what it learned so far."""
        return self.teacher.snapshot()

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Go back to what `snapshot` gave."""
        self.teacher.restore(snapshot)

    def save(self, folder: Path) -> None:
        """Write what it learned."""
        self.teacher.save(folder)

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        self.teacher.load(folder)

    def _written(self, situations: Sequence[Situation], answers: Answers) -> Answers:
        pairs = zip(situations, answers, strict=True)
        self.record.append([{"situation": s.text, "options": s.options, "p": _digits(answer)} for s, answer in pairs])
        return answers


class RecordedTeacher:
    """Says what the record of a run says. It has no weights: what tuning changed shows in the answers after it."""

    tunable = True

    def __init__(self, run: Path) -> None:
        self.name, self.usage, self.said = f"recorded:{run}", Usage(), 0
        self._lines = list(jsonl.read(run / RECORD))
        if not self._lines:
            raise CoteachError(
                f"teacher {self.name!r}: there is no {RECORD} in {run}; give the folder of a run that asked an LLM"
            )

    def advise(self, situations: Sequence[Situation]) -> Answers:
        """The recorded answers; `RunFailed` where other situations were asked about."""
        return [self._answer(situation) for situation in situations]

    def advise_untuned(self, situations: Sequence[Situation]) -> Answers:
        """What was said before any tuning."""
        return self.advise(situations)

    @property
    def feedback(self) -> Feedback:
        """What had been told by this line of the record."""
        lines = (line["feedback"] for line in reversed(self._lines[: self.said]) if "feedback" in line)
        return next(map(Feedback.parse, lines), NOTHING)

    def give_feedback(self, feedback: Feedback) -> bool:
        """Whether it was something new to the recorded teacher."""
        before = self.feedback
        if "feedback" not in self._next():
            raise self._differs("in-context feedback")
        return self.feedback != before

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        """The recorded report."""
        said = self._next()
        if "tuned" not in said:
            raise self._differs("a tuning")
        return TuneReport(**said["tuned"])

    def snapshot(self) -> Mapping[str, Tensor]:
        """Nothing is learned."""
        return {}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """The answers that follow in the record are those after it."""

    def save(self, folder: Path) -> None:
        """Nothing is learned, nothing is written."""

    def load(self, folder: Path) -> None:
        """Nothing was learned, nothing is read."""

    def _answer(self, situation: Situation) -> NDArray[np.float64] | None:
        said = self._next()
        if said.get("situation") != situation.text or said.get("options") != list(situation.options):
            raise self._differs(f"the situation {printable(situation.text[:60])!r}")
        return None if said["p"] is None else np.array(said["p"])

    def _differs(self, asked: str) -> RunFailed:
        return RunFailed(
            f"teacher {self.name!r}: line {self.said} of its record is not {asked}: this run is not the recorded one; "
            "use that run's config.toml, version, engine and number of threads"
        )

    def _next(self) -> dict[str, Any]:
        self.said += 1
        return self._lines[self.said - 1] if self.said <= len(self._lines) else {}


def _digits(answer: NDArray[np.float64] | None) -> list[float] | None:
    return None if answer is None else answer.tolist()
