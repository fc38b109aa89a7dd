"""Saves and loads checkpoints: the players, what they know, and the progress of the run, as safetensors and JSON.

Only this module knows which file contains what. Every object saves and loads its own state.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coteach.errors import CoteachError
from coteach.grounding.base import Situation
from coteach.method.players import Players
from coteach.method.schooling import Schooling, Standing
from coteach.runs.checkpoints import reading
from coteach.runs.run_folder import Run
from coteach.student.student import Student
from coteach.teacher.costs import Usage
from coteach.teacher.recorded import Recorder

TEACHER, KNOWLEDGE, PROGRESS = "teacher", "knowledge.json", "progress.json"


def save(folder: Path, players: Players, schooling: Schooling, progress: dict[str, Any]) -> None:
    """Write everything into `folder`. progress: how far the run has come, as plain JSON."""
    save_players(folder, players)
    if schooling.standing is not None:
        schooling.standing.save(folder)
    (folder / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")


def load(folder: Path, players: Players, schooling: Schooling) -> dict[str, Any]:
    """Load what `save` wrote into `players` and `schooling`; return the progress."""
    load_players(folder, players)
    schooling.standing = Standing.load(folder)
    progress: dict[str, Any] = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    return progress


def save_players(folder: Path, players: Players) -> None:
    """Write the teacher, the students and their knowledge into `folder`."""
    for student, home in _homes(folder, players):
        student.save(home)
    players.teacher.save(folder / TEACHER)
    knowledge = players.advice.save(folder) | {
        "situations": [[s.text, s.options, s.expert] for s in players.situations],
        "usage": players.teacher.usage.totals(),
        "record_lines": players.record.lines if players.record else 0,
        "generator": players.rng.bit_generator.state,
    }
    (folder / KNOWLEDGE).write_text(json.dumps(knowledge), encoding="utf-8")


def load_players(folder: Path, players: Players) -> None:
    """Load what `save_players` wrote: `players` then continue exactly as the saved ones would have."""
    for student, home in _homes(folder, players):
        student.load(home)
    if (folder / TEACHER).is_dir():
        players.teacher.load(folder / TEACHER)
    knowledge = json.loads((folder / KNOWLEDGE).read_text(encoding="utf-8"))
    for text, options, expert in knowledge["situations"]:
        players.situations.number(Situation(text, tuple(options), expert))
    players.advice.load(folder, knowledge)
    players.teacher.usage = Usage(**knowledge["usage"])
    if isinstance(players.teacher, Recorder):
        players.teacher.resume(knowledge["record_lines"])
    players.rng.bit_generator.state = knowledge["generator"]


def players_of(run: Run) -> Players:
    """Return the players of the run's newest checkpoint; CoteachError if there is none."""
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        raise CoteachError(f"{run.folder} has no whole checkpoint: let `coteach train --resume {run.folder}` save one")
    players = Players(run.config)
    with reading(checkpoint):
        load_players(checkpoint, players)
    return players


def _homes(folder: Path, players: Players) -> list[tuple[Student, Path]]:
    """Return each student with its subfolder of a checkpoint: student, student-2, ..."""
    names = ["student", *(f"student-{number}" for number in range(2, len(players.students) + 1))]
    return [(student, folder / name) for student, name in zip(players.students, names, strict=True)]
