"""A finished run as two folders for those who have neither coteach's loop nor its checkpoints.

`teacher/` is the tuned LLM with its adapter merged in, as plain transformers and vLLM load it; `student/` is the student as
safetensors, JSON and ONNX. What a run does not have (an LLM, a student) is left out, and the answer says why.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from coteach.errors import CoteachError, RunFailed
from coteach.export import student, teacher
from coteach.runs.run_folder import Run

if TYPE_CHECKING:
    from coteach.method.players import Players


@dataclass(frozen=True)
class Part:
    """What became of one player: the folder it is in (None: left out), and what it is, or why it is not there."""

    folder: Path | None
    says: str


@dataclass(frozen=True)
class Exported:
    """What `export` wrote."""

    teacher: Part
    student: Part
    files: dict[str, int]
    """Sizes in bytes, by path within the folder."""

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        parts = {"teacher": self.teacher, "student": self.student}
        told = {name: {"folder": part.folder and str(part.folder), "says": part.says} for name, part in parts.items()}
        return {**told, "files": self.files}


def check(run: Run, folder: Path, task: str | None = None) -> dict[str, Any]:
    """The run's summary, at its top what it says of the rung whose student is exported: the last, or that of `task`.

    CoteachError where the run is not finished or has no student for `task`, `folder` is not empty or a package is missing.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CoteachError(f"{folder} exists and is not empty: choose another --to")
    path, rungs = run.folder / "summary.json", len(run.config.tasks)
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rungs": []}
    if (over := len(summary["rungs"])) < rungs:
        raise CoteachError(
            f"{run.folder} is not finished: {over} of {rungs} rungs are over; go on with `coteach train --resume {run.folder}`"
        )
    student.missing(run.config)
    rung: dict[str, Any] = summary["rungs"][_rung(run, task)]
    return summary | rung


def _rung(run: Run, task: str | None) -> int:
    """The rung whose student is `task`'s: one student for all rungs is as the last one left it."""
    names = run.config.tasks
    theirs = names if run.config.together else names[-1:]
    if task is not None and task not in theirs:
        raise CoteachError(f"--task {task}: {run.folder} has no student of it; expected {' or '.join(theirs)}")
    return len(names) - 1 if task is None or not run.config.together else names.index(task)


def export(run: Run, players: Players, folder: Path, task: str | None = None) -> Exported:
    """Write the run's `players` into `folder`, which appears whole or not at all. A tuned teacher is merged for good.

    task: of several students, whose.

    Raises CoteachError as `check` does, and where there is nothing to export; RunFailed where `folder` cannot be written.
    """
    summary = check(run, folder, task)
    llm, no_model, no_student = teacher.language_model(players), teacher.missing(players), student.missing(run.config)
    if llm is None and no_student:
        raise CoteachError(f"{run.folder}: nothing to export: {no_model}, and {no_student}")
    with _whole(folder) as draft:
        taught = teacher.write(llm, players, summary, draft / "teacher") if llm else no_model
        learned = no_student or student.write(players, summary, draft / "student")
        files = {path.relative_to(draft).as_posix(): path.stat().st_size for path in sorted(draft.rglob("*")) if path.is_file()}
    return Exported(
        Part(folder / "teacher" if llm else None, taught), Part(None if no_student else folder / "student", learned), files
    )


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A draft that takes the name `folder` when everything is in it."""
    folder = folder.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield draft
            for path in [draft, *draft.rglob("*")]:  # temporary folders and safetensors files are their owner's alone
                path.chmod(0o755 if path.is_dir() else 0o644)
            os.replace(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise RunFailed(f"cannot write {folder}: {error}; choose another --to") from error
