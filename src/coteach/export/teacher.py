"""Exports the teacher as a plain Hugging Face folder: merged model, tokenizer, model card, and `coteach.json`.

`coteach.json` holds what turns the model's log-probabilities into advice: the text around a situation, the temperature, and
the bias of every option met. The bias is the *untuned* model's score, which the merged model cannot give.
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
    """Return the teacher if it is a local language model whose weights can be merged, else None."""
    from coteach.teacher.local.precision import is_quantised
    from coteach.teacher.local.teacher import LocalTeacher

    teacher = players.teacher
    return teacher if isinstance(teacher, LocalTeacher) and not is_quantised(teacher.lm.model) else None


def missing(players: Players) -> str:
    """Say why `language_model` is None."""
    from coteach.teacher.local.teacher import LocalTeacher

    if isinstance(players.teacher, LocalTeacher):
        return (
            f"the quantised weights of {players.teacher.name!r} cannot take up an adapter: use the adapter in the run's teacher/"
        )
    return f"the teacher {players.teacher.name!r} is not a local language model"


def write(teacher: LocalTeacher, players: Players, summary: dict[str, Any], folder: Path) -> str:
    """Write model, tokenizer, coteach.json and README.md into the new `folder`; returns a one-line description.

    This merges the adapter into the teacher's weights for good: do not ask the teacher afterwards.
    """
    from coteach.teacher.local.models import EXPORTED

    origin = Origin.of(teacher, players, summary)
    folder.mkdir()
    (folder / EXPORTED).write_text(json.dumps(_prompting(teacher, players), indent=2) + "\n", encoding="utf-8")
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        teacher.lm.adapter.merge().save_pretrained(folder)
    _repeat_rotary_base(folder / "config.json")
    teacher.lm.tokenizer.save_pretrained(folder)
    teacher.feedback.save(folder)
    model_card(origin, players.config, summary).save(folder / "README.md")
    before, after = (percent(summary[f"teacher_success_{when}"]) for when in ("before", "after"))
    tuned = f"tuned on {', '.join(origin.tuned_on)}" if origin.tuned_on else "never tuned: these are the base model's weights"
    return f"{origin.base}, {tuned}; success rate of its advice alone on {summary['task']}: {before} before, {after} after"


def _repeat_rotary_base(path: Path) -> None:
    """Write the rotary base under its former name too: older readers of config.json would silently take 10,000 instead."""
    config = json.loads(path.read_text(encoding="utf-8"))
    rotary = config.get("rope_parameters") or {}
    if "rope_theta" in rotary:
        config["rope_theta"] = rotary["rope_theta"]
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _prompting(teacher: LocalTeacher, players: Players) -> dict[str, Any]:
    """Return how to ask the model: the text around a situation, the tokens that end an answer, temperature and bias."""
    from coteach.teacher.prompt import end_ids

    options = sorted({option for situation in players.situations for option in situation.options})
    frame, tokenizer = teacher.lm.frame, teacher.lm.tokenizer
    start = tokenizer.bos_token if frame.bos and tokenizer.bos_token else ""
    return {
        "prefix": start + frame.head,
        "last_line": frame.last_line,
        "before_situation": frame.prefix[len(frame.head) :],
        "suffix": frame.lead,
        "before_option": frame.suffix[len(frame.lead) :],
        "end_token_ids": end_ids(tokenizer, frame),
        "temperature": teacher.config.temperature,
        "bias": dict(zip(options, teacher.bias(options).tolist(), strict=True)),
    }
