"""Exports a finished run as two folders that can be used without coteach.

`teacher/` is the tuned LLM with its adapter merged in, which plain transformers and vLLM load; `student/` is the student as
safetensors, JSON and ONNX. A player that the run does not have is left out, and the result says why.
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
    """One exported player: its folder (None: left out), and a line that describes it or says why it was left out."""

    folder: Path | None
    says: str


@dataclass(frozen=True)
class Exported:
    """The result of `export`."""

    teacher: Part
    student: Part
    files: dict[str, int]
    """Size in bytes of each file, by its path within the folder."""

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        parts = {"teacher": self.teacher, "student": self.student}
        shown = {name: {"folder": part.folder and str(part.folder), "says": part.says} for name, part in parts.items()}
        return {**shown, "files": self.files}


def check(run: Run, folder: Path, task: str | None = None) -> dict[str, Any]:
    """Return the run's summary, with the entries of the exported student's rung (the last, or that of `task`) at its top.

    Raises CoteachError if the run is not finished, has no student for `task`, `folder` is not empty or a package is missing.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CoteachError(f"{folder} exists and is not empty: choose another --to")
    path, rungs = run.folder / "summary.json", len(run.config.tasks)
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rungs": []}
    if (done := len(summary["rungs"])) < rungs:
        raise CoteachError(
            f"{run.folder} is not finished: {done} of {rungs} rungs are done; continue with `coteach train --resume {run.folder}`"
        )
    student.missing(run.config)
    rung: dict[str, Any] = summary["rungs"][_rung_index(run, task)]
    return summary | rung


def _rung_index(run: Run, task: str | None) -> int:
    """Return the index of the rung whose student belongs to `task`; a student carried from rung to rung belongs to the last."""
    names = run.config.tasks
    with_student = names if run.config.together else names[-1:]
    if task is not None and task not in with_student:
        raise CoteachError(f"--task {task}: {run.folder} has no student of it; expected {' or '.join(with_student)}")
    return len(names) - 1 if task is None or not run.config.together else names.index(task)


def export(run: Run, players: Players, folder: Path, task: str | None = None) -> Exported:
    """Write the run's `players` into `folder`, which appears complete or not at all.

    This merges the adapter of a tuned teacher into its weights for good. task: which student, where the run has several.

    Raises CoteachError as `check` does, and if there is nothing to export; RunFailed if `folder` cannot be written.
    """
    summary = check(run, folder, task)
    llm, no_model, no_student = teacher.language_model(players), teacher.missing(players), student.missing(run.config)
    if llm is None and no_student:
        raise CoteachError(f"{run.folder}: nothing to export: {no_model}, and {no_student}")
    with _atomic(folder) as draft:
        about_teacher = teacher.write(llm, players, summary, draft / "teacher") if llm else no_model
        about_student = no_student or student.write(players, summary, draft / "student")
        files = {path.relative_to(draft).as_posix(): path.stat().st_size for path in sorted(draft.rglob("*")) if path.is_file()}
    return Exported(
        Part(folder / "teacher" if llm else None, about_teacher),
        Part(None if no_student else folder / "student", about_student),
        files,
    )


@contextmanager
def _atomic(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `folder` when the block ends without an error."""
    folder = folder.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield draft
            for path in [draft, *draft.rglob("*")]:  # temporary folders and safetensors files are readable by their owner alone
                path.chmod(0o755 if path.is_dir() else 0o644)
            os.replace(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise RunFailed(f"cannot write {folder}: {error}; choose another --to") from error
