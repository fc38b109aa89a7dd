"""The teacher as a plain Hugging Face folder: the adapter merged into the model, tokenizer, model card, and how to ask it.

`coteach.json` holds what turns the model's log-probabilities into advice: the text around a situation, the temperature, and
the calibration of every option met, which is the *untuned* model's and could not be had from the merged one.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coteach.export.card import Origin, model_card
from coteach.runs.progress import percent

if TYPE_CHECKING:
    from coteach.method.players import Players
    from coteach.teacher.local.teacher import LocalTeacher


def language_model(players: Players) -> LocalTeacher | None:
    """The teacher, where it is a language model on this machine whose weights can be merged."""
    from coteach.teacher.local.precision import is_packed
    from coteach.teacher.local.teacher import LocalTeacher

    teacher = players.teacher
    return teacher if isinstance(teacher, LocalTeacher) and not is_packed(teacher.model) else None


def missing(players: Players) -> str:
    """Why there is no teacher to export, where there is none."""
    from coteach.teacher.local.teacher import LocalTeacher

    if isinstance(players.teacher, LocalTeacher):
        return (
            f"nothing can be merged into the packed weights of {players.teacher.name!r}: take the adapter in the run's teacher/"
        )
    return f"the teacher {players.teacher.name!r} is no language model on this machine"


def write(teacher: LocalTeacher, players: Players, summary: dict[str, Any], folder: Path) -> str:
    """Write model, tokenizer, coteach.json and README.md into the new `folder`; returns a line about them.

    The teacher's adapter is merged for good: it must not be asked any more.
    """
    from coteach.teacher.local.models import EXPORTED

    origin = Origin.of(teacher, players, summary)
    folder.mkdir()
    (folder / EXPORTED).write_text(json.dumps(_asked(teacher, players), indent=2) + "\n", encoding="utf-8")
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        teacher.adapter.merge().save_pretrained(folder)
    _tell_older_readers(folder / "config.json")
    teacher.tokenizer.save_pretrained(folder)
    teacher.feedback.save(folder)
    (folder / "README.md").write_text(model_card(origin, players.config, summary), encoding="utf-8")
    before, after = (percent(summary[f"teacher_success_{when}"]) for when in ("before", "after"))
    tuned = f"tuned on {', '.join(origin.tuned_on)}" if origin.tuned_on else "never tuned: the weights are the base model's"
    return f"{origin.base}, {tuned}; success of its advice alone {before} before, {after} after, on {summary['task']}"


def _tell_older_readers(path: Path) -> None:
    """Give config.json the rotary base under its former name too: whoever reads only that one takes 10,000 without a word."""
    config = json.loads(path.read_text(encoding="utf-8"))
    rotary = config.get("rope_parameters") or {}
    if "rope_theta" in rotary:
        config["rope_theta"] = rotary["rope_theta"]
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _asked(teacher: LocalTeacher, players: Players) -> dict[str, Any]:
    """How to ask the model: the text before and after a situation, the token that ends an answer, and the calibration."""
    from coteach.teacher.prompt import end_id

    options = sorted({option for situation in players.situations for option in situation.options})
    start = teacher.tokenizer.bos_token if teacher.frame.bos and teacher.tokenizer.bos_token else ""
    return {
        "prefix": start + teacher.frame.prefix,
        "suffix": teacher.frame.suffix,
        "end_token_id": end_id(teacher.tokenizer, teacher.frame),
        "temperature": teacher.config.temperature,
        "bias": dict(zip(options, teacher.bias(options).tolist(), strict=True)),
    }
