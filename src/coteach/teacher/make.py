"""Makes the teacher that a spec names. PyTorch and transformers are imported only for a local LLM."""

from __future__ import annotations

from coteach.config import TeacherConfig
from coteach.errors import CoteachError, unknown
from coteach.grounding.base import GRID_WORLD_INSTRUCTION
from coteach.runs.files import user_path
from coteach.teacher.answer_cache import AnswerCache
from coteach.teacher.base import Teacher
from coteach.teacher.scripted import SCRIPTED

SPECS = (
    "smollm2", "hf:<id or folder>", "gguf:<file>", "openai:<model>@<base url>", "recorded:<run>", *SCRIPTED,
)  # fmt: skip


def make_teacher(
    spec: str, config: TeacherConfig, cache: AnswerCache | None = None, instruction: str = GRID_WORLD_INSTRUCTION
) -> Teacher:
    """Make the teacher that `spec` names. instruction: opens every prompt; cache: None for one within this process."""
    if spec in SCRIPTED:
        return SCRIPTED[spec](config)
    kind, _, name = spec.partition(":")
    if kind == "recorded" and name:
        from coteach.teacher.recorded import RecordedTeacher

        return RecordedTeacher(user_path(name))
    if kind == "openai":
        from coteach.teacher.remote.teacher import RemoteTeacher

        return RemoteTeacher(spec, config, cache, instruction)
    if spec == "smollm2" or (kind in ("hf", "gguf") and name):
        if config.budget_tokens or config.budget_money:
            raise CoteachError(f"teacher {spec!r} runs on this machine: a budget is for openai:<model>@<base url>; leave it out")
        from coteach.teacher.local.teacher import LocalTeacher

        return LocalTeacher.from_spec(spec, config, cache, instruction)
    raise unknown("teacher", spec, SPECS)
