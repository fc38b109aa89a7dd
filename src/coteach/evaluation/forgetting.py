"""What the LLM was before it became a teacher, and whether it still is: neutral prose and general knowledge.

A tuning that teaches one task may cost everything else. `guard` measures the perplexity of a short text and the share of
general questions answered right, with the adapter switched off and with it; both are in `data/guard.json`, written
for this purpose. Deterministic; six seconds of one core for the embedded model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch

from coteach.errors import RunFailed
from coteach.teacher.local.scoring import Scorer, reads_tries
from coteach.teacher.local.teacher import LocalTeacher
from coteach.teacher.prompt import Prompt, encode

LEAD = "Everybody knows this:"
"""Stands before every question, and is computed once for all of them."""
WINDOW = 256
"""Tokens of prose read in one pass."""


@dataclass(frozen=True)
class Guard:
    """`perplexity` of the prose (exp of the mean negative log-likelihood of a token); `right`: share of questions."""

    perplexity: float
    right: float


def guard(teacher: LocalTeacher) -> tuple[Guard, Guard]:
    """Before any tuning, and as the teacher is now. RunFailed where the numbers are not finite."""
    with teacher.lm.adapter.off():
        before = _measure(teacher)
    return before, _measure(teacher)


def questions() -> int:
    """How many general questions there are."""
    return len(_material()["questions"])


def perplexity(model: Any, tokenizer: Any, text: str) -> float:
    """Of `text` under a causal LM, in windows of `WINDOW` tokens; the first token of each is given, not predicted."""
    ids = tokenizer(text)["input_ids"]
    losses = [_losses(model, ids[first : first + WINDOW]) for first in range(0, len(ids), WINDOW)]
    return float(torch.cat(losses).mean().exp())


def right(model: Any, tokenizer: Any, asked: Sequence[Mapping[str, Any]]) -> float:
    """Share of questions whose right answer is more probable than each wrong one.

    Answers are scored as options are: log-probability of the whole answer, a full stop included, in nats. They are not
    calibrated, as there is no advice to give: the question is what the model itself would say.
    """
    prefix = tuple(tokenizer(LEAD)["input_ids"])
    prompts = [_prompt(tokenizer, entry) for entry in asked]
    scores = Scorer(model, prefix, reads_tries(model, prefix, prompts[0])).score(prompts)
    return sum(bool((score[0] > score[1:]).all()) for score in scores) / len(scores)


def _measure(teacher: LocalTeacher) -> Guard:
    model, tokenizer, material = teacher.lm.model, teacher.lm.tokenizer, _material()
    found = Guard(perplexity(model, tokenizer, "\n\n".join(material["text"])), right(model, tokenizer, material["questions"]))
    if not math.isfinite(found.perplexity):
        raise RunFailed(f"teacher {teacher.name!r} has a perplexity of {found.perplexity}: its weights are damaged")
    return found


def _losses(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """(len(ids) - 1,) float32: negative log-likelihood of each token after the first, in nats."""
    with torch.inference_mode():
        tokens = torch.tensor([list(ids)], device=model.device)
        logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
        return torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")


def _prompt(tokenizer: Any, entry: Mapping[str, Any]) -> Prompt:
    """The beginning of a sentence, and how it may go on: the right answer first."""
    answers = [entry["right"], *entry["wrong"]]
    return Prompt(encode(tokenizer, f" {entry['begins']}"), tuple(encode(tokenizer, f" {answer}.") for answer in answers))


def _material() -> dict[str, Any]:
    """`text`: paragraphs; `questions`: each with `begins`, `right` and `wrong`."""
    file = resources.files("coteach") / "data" / "guard.json"
    material: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return material
