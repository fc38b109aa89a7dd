"""Records a teacher's answers during a run, and replays them in another run without any LLM.

A record is a file of JSON lines in the order of the questions. A line holds an answer with its situation, the in-context
feedback, or the report of a tuning. The training loop is deterministic, so a run with the same configuration asks the same
questions; `RecordedTeacher` answers them from the record and raises an error where they differ. Probabilities are written with
all their digits.
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
"""Name of the record in a run folder."""

Answers = Sequence[NDArray[np.float64] | None]


class Record:
    """The file. `lines` is the number of lines that belong to the run so far."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, 0

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append lines; the first call of a run overwrites an older file."""
        with disk(self.path), self.path.open("a" if self.lines else "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        self.lines += len(rows)

    def cut(self, lines: int) -> None:
        """Keep the first `lines` lines and delete the rest."""
        self.lines = lines
        if self.path.exists():
            with disk(self.path):
                replace_text(self.path, "".join(json.dumps(row) + "\n" for row in itertools.islice(jsonl.read(self.path), lines)))


class Recorder:
    """Wraps a teacher and records its answers; everything else is passed on to it."""

    def __init__(self, teacher: Teacher, record: Record) -> None:
        self.teacher, self.record = teacher, record
        self.name, self.tunable = teacher.name, teacher.tunable
        if isinstance(teacher, RecordedTeacher):
            teacher.line = record.lines

    @property
    def usage(self) -> Usage:
        """The wrapped teacher's usage."""
        return self.teacher.usage

    @usage.setter
    def usage(self, usage: Usage) -> None:
        self.teacher.usage = usage

    def resume(self, lines: int) -> None:
        """Continue the record after its first `lines` lines; later answers are given again."""
        self.record.cut(lines)
        if isinstance(self.teacher, RecordedTeacher):
            self.teacher.line = lines

    def advise(self, situations: Sequence[Situation]) -> Answers:
        """Return the teacher's answers."""
        return self._recorded(situations, self.teacher.advise(situations))

    def advise_untuned(self, situations: Sequence[Situation]) -> Answers:
        """Return its answers as of before any tuning."""
        return self._recorded(situations, self.teacher.advise_untuned(situations))

    @property
    def feedback(self) -> Feedback:
        """The wrapped teacher's feedback."""
        return self.teacher.feedback

    def give_feedback(self, feedback: Feedback) -> bool:
        """Pass on the feedback, and record what of it the teacher took."""
        changed = self.teacher.give_feedback(feedback)
        self.record.append([{"feedback": asdict(self.teacher.feedback)}])
        return changed

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        """Tune the teacher, and record the report."""
        report = self.teacher.tune(lessons, seed)
        self.record.append([{"tuned": asdict(report)}])
        return report

    def snapshot(self) -> Mapping[str, Tensor]:
        """Return a copy of its tuned weights."""
        return self.teacher.snapshot()

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Put back the weights that `snapshot` returned."""
        self.teacher.restore(snapshot)

    def save(self, folder: Path) -> None:
        """Write its adapter and feedback into `folder`."""
        self.teacher.save(folder)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self.teacher.load(folder)

    def _recorded(self, situations: Sequence[Situation], answers: Answers) -> Answers:
        pairs = zip(situations, answers, strict=True)
        self.record.append([{"situation": s.text, "options": s.options, "p": _digits(answer)} for s, answer in pairs])
        return answers


class RecordedTeacher:
    """Replays the record of a run. It has no weights: the effect of a tuning is in the answers recorded after it."""

    tunable = True

    def __init__(self, run: Path) -> None:
        self.name, self.usage, self.line = f"recorded:{run}", Usage(), 0
        self._lines = list(jsonl.read(run / RECORD))
        if not self._lines:
            raise CoteachError(
                f"teacher {self.name!r}: there is no {RECORD} in {run}; give the folder of a run that asked an LLM"
            )

    def advise(self, situations: Sequence[Situation]) -> Answers:
        """Return the recorded answers. Raises `RunFailed` if the record continues with another question."""
        return [self._answer(situation) for situation in situations]

    def advise_untuned(self, situations: Sequence[Situation]) -> Answers:
        """Return the recorded answers of the untuned model."""
        return self.advise(situations)

    @property
    def feedback(self) -> Feedback:
        """The feedback at this line of the record."""
        lines = (line["feedback"] for line in reversed(self._lines[: self.line]) if "feedback" in line)
        return next(map(Feedback.parse, lines), NOTHING)

    def give_feedback(self, feedback: Feedback) -> bool:
        """Return whether it changed the recorded teacher's prompts. Raises `RunFailed` if the record continues otherwise."""
        before = self.feedback
        if "feedback" not in self._next():
            raise self._differs("in-context feedback")
        return self.feedback != before

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        """Return the recorded report. Raises `RunFailed` if the record continues otherwise."""
        recorded = self._next()
        if "tuned" not in recorded:
            raise self._differs("a tuning")
        return TuneReport(**recorded["tuned"])

    def snapshot(self) -> Mapping[str, Tensor]:
        """Return nothing: there are no weights."""
        return {}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Do nothing: the record continues with the answers after it."""

    def save(self, folder: Path) -> None:
        """Do nothing: there are no weights."""

    def load(self, folder: Path) -> None:
        """Do nothing: there are no weights."""

    def _answer(self, situation: Situation) -> NDArray[np.float64] | None:
        recorded = self._next()
        if recorded.get("situation") != situation.text or recorded.get("options") != list(situation.options):
            raise self._differs(f"the situation {printable(situation.text[:60])!r}")
        return None if recorded["p"] is None else np.array(recorded["p"])

    def _differs(self, asked: str) -> RunFailed:
        return RunFailed(
            f"teacher {self.name!r}: line {self.line} of its record is not {asked}: this run is not the recorded one; "
            "use that run's config.toml, version, engine and number of threads"
        )

    def _next(self) -> dict[str, Any]:
        self.line += 1
        return self._lines[self.line - 1] if self.line <= len(self._lines) else {}


def _digits(answer: NDArray[np.float64] | None) -> list[float] | None:
    return None if answer is None else answer.tolist()
