"""Measures what an LLM forgets when it is tuned: perplexity of neutral prose, and general questions answered correctly.

Tuning an LLM to one task may damage what it knew before (catastrophic forgetting). `measure_forgetting` measures the LLM with the
adapter switched off and with it. The prose and the questions are in `data/general_knowledge.json` and were written for this
purpose. The result is deterministic; it takes six seconds on one core for the embedded model.
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

QUESTION_PREFIX = "Everybody knows this:"
"""The prompt before every question; its keys and values are computed once for all questions."""
WINDOW = 256
"""Tokens of prose in one forward pass."""


@dataclass(frozen=True)
class Knowledge:
    """What an LLM knows.

    perplexity: of the prose, exp of the mean negative log-likelihood of a token.
    right:      share of the questions that are answered correctly, in [0, 1].
    """

    perplexity: float
    right: float


def measure_forgetting(teacher: LocalTeacher) -> tuple[Knowledge, Knowledge]:
    """Return what the LLM knew before any tuning, and what it knows now. RunFailed if the perplexity is not finite."""
    with teacher.lm.adapter.off():
        before = _measure(teacher)
    return before, _measure(teacher)


def question_count() -> int:
    """Return the number of general questions."""
    return len(_material()["questions"])


def perplexity(model: Any, tokenizer: Any, text: str) -> float:
    """Return the perplexity of `text` under a causal LM, in windows of `WINDOW` tokens without the first token of each."""
    ids = tokenizer(text)["input_ids"]
    losses = [_losses(model, ids[first : first + WINDOW]) for first in range(0, len(ids), WINDOW)]
    return float(torch.cat(losses).mean().exp())


def share_right(model: Any, tokenizer: Any, asked: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of questions, in [0, 1], whose right answer is more probable than each wrong one.

    asked: questions with the keys `begins`, `right` and `wrong`.

    Answers are scored like options, by the log-probability of the whole answer with its full stop, in nats. The scores are not
    calibrated, because the question is what the model itself would say.
    """
    prefix = tuple(tokenizer(QUESTION_PREFIX)["input_ids"])
    prompts = [_prompt(tokenizer, entry) for entry in asked]
    scores = Scorer(model, prefix, reads_tries(model, prefix, prompts[0])).score(prompts)
    return sum(bool((score[0] > score[1:]).all()) for score in scores) / len(scores)


def _measure(teacher: LocalTeacher) -> Knowledge:
    """Measure the LLM as it is now."""
    model, tokenizer, material = teacher.lm.model, teacher.lm.tokenizer, _material()
    found = Knowledge(
        perplexity(model, tokenizer, "\n\n".join(material["text"])), share_right(model, tokenizer, material["questions"])
    )
    if not math.isfinite(found.perplexity):
        raise RunFailed(f"teacher {teacher.name!r} has a perplexity of {found.perplexity}: its weights are damaged")
    return found


def _losses(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Return the negative log-likelihood of each token after the first, in nats: (len(ids) - 1,) float32."""
    with torch.inference_mode():
        tokens = torch.tensor([list(ids)], device=model.device)
        logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
        return torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")


def _prompt(tokenizer: Any, entry: Mapping[str, Any]) -> Prompt:
    """Return a question as a prompt: the beginning of a sentence, and its possible endings, the right one first."""
    answers = [entry["right"], *entry["wrong"]]
    return Prompt(encode(tokenizer, f" {entry['begins']}"), tuple(encode(tokenizer, f" {answer}.") for answer in answers))


def _material() -> dict[str, Any]:
    """Return the material: `text`, a list of paragraphs, and `questions`, each with `begins`, `right` and `wrong`."""
    file = resources.files("coteach") / "data" / "general_knowledge.json"
    material: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return material
