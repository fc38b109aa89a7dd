"""Teacher specs -> teachers. PyTorch and transformers are imported only where a language model is asked for."""

from __future__ import annotations

from pathlib import Path

from coteach.config import TeacherConfig
from coteach.errors import unknown
from coteach.teacher.base import Teacher
from coteach.teacher.memory import AdviceMemory
from coteach.teacher.scripted import LiarTeacher, OracleTeacher, UniformTeacher

SPECS = ("smollm2", "hf:<id or folder>", "gguf:<file>", "recorded:<run>", "uniform", "oracle", "liar")


def make_teacher(spec: str, config: TeacherConfig, memory: AdviceMemory | None = None) -> Teacher:
    """The teacher that `spec` names; `memory` None remembers within this process only."""
    if spec == "uniform":
        return UniformTeacher()
    if spec == "oracle":
        return OracleTeacher()
    if spec == "liar":
        return LiarTeacher()
    kind, _, name = spec.partition(":")
    if kind == "recorded" and name:
        from coteach.teacher.recorded import RecordedTeacher

        return RecordedTeacher(Path(name).expanduser())
    if spec == "smollm2" or (kind in ("hf", "gguf") and name):
        from coteach.teacher.local import LocalTeacher

        return LocalTeacher.from_spec(spec, config, memory)
    raise unknown("teacher", spec, SPECS)
