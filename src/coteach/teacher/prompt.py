"""Words -> token ids: the prefix all situations share, the prompt of one situation, the words of an option.

The three are tokenised apart and their ids concatenated, so that every way of scoring sees the same ids.
Chat models are asked through their own template, others in plain text; nothing here runs a model. What the teacher is
told (`Feedback`) stands in the prefix: sentences after the instruction, examples as questions answered before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coteach.errors import CoteachError
from coteach.grounding.base import GRID_WORLD_INSTRUCTION, Situation
from coteach.teacher.feedback import NOTHING, Feedback

QUESTION = "\nNext step:"
EVIDENCE = "What the agent found out:"
EXAMPLES = "What worked:"
_MARK = "\u241e"  # stands where the situation goes while a chat template is rendered; no template contains it
_ANSWER = "\u241f"


@dataclass(frozen=True)
class Frame:
    """The text around a situation: `prefix` + situation + `suffix` + option + `end`; `bos` leads plain text."""

    prefix: str
    suffix: str
    end: str
    bos: bool


@dataclass(frozen=True)
class Prompt:
    """Token ids of one question: `body` follows the shared prefix; each option ends with the end of the answer."""

    body: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]


def frame(tokenizer: Any, instruction: str = GRID_WORLD_INSTRUCTION, feedback: Feedback = NOTHING) -> Frame:
    """How this tokenizer's model is asked: through its chat template where it has one, in plain text else."""
    head = heading(instruction, feedback)
    if not getattr(tokenizer, "chat_template", None):
        answered = "".join(f"{text}{QUESTION} {option}\n\n" for text, option in feedback.examples)
        return Frame(f"{head}\n\n{answered}", f"{QUESTION} ", "\n", bos=True)
    turns = [turn for text, option in feedback.examples for turn in (_says("user", text), _says("assistant", option))]
    turns.append(_says("user", _MARK))
    try:
        return _chat_frame(tokenizer, [_says("system", head), *turns])
    except Exception:  # a template's own error (jinja's), raised where it knows no system role
        turns[0] = _says("user", f"{head}\n\n{turns[0]['content']}")
        return _chat_frame(tokenizer, turns)


def heading(instruction: str, feedback: Feedback) -> str:
    """What is asked of the model, and below it what the agent found out about its advice."""
    found = [f"\n\n{EVIDENCE}", *(f"\n- {sentence}" for sentence in feedback.evidence)] if feedback.evidence else []
    return instruction + "".join(found)


def briefing(instruction: str, feedback: Feedback) -> str:
    """All of it in one text, for a model that is not asked by completing an answer: the examples stand below the evidence."""
    worked = [f"\n- {text}{QUESTION} {option}" for text, option in feedback.examples]
    return heading(instruction, feedback) + (f"\n\n{EXAMPLES}" + "".join(worked) if worked else "")


def _says(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _chat_frame(tokenizer: Any, messages: list[dict[str, str]]) -> Frame:
    """The chat template rendered with marks in place of situation and answer, cut at the marks."""
    answered = [*messages, _says("assistant", _ANSWER)]
    question = _render(tokenizer, messages, add_generation_prompt=True)
    prefix, suffix = question.split(_MARK)
    return Frame(prefix, suffix, _render(tokenizer, answered).split(_ANSWER)[1], bos=False)


def _render(tokenizer: Any, messages: list[dict[str, str]], **how: bool) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False, **how))


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of `text` alone: no special tokens added, those written in the text recognised."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def prefix_ids(tokenizer: Any, frame: Frame) -> tuple[int, ...]:
    """Ids of what stands before every situation; never empty."""
    bos = (tokenizer.bos_token_id,) if frame.bos and tokenizer.bos_token_id is not None else ()
    return bos + encode(tokenizer, frame.prefix)


def end_id(tokenizer: Any, frame: Frame) -> int:
    """The token that ends an answer: without it, an option's text could be a free prefix of another's."""
    ids = encode(tokenizer, frame.end)
    return ids[0] if ids else int(tokenizer.eos_token_id)


def build(tokenizer: Any, frame: Frame, situation: Situation) -> Prompt:
    """Ids of one situation and of its options."""
    end = end_id(tokenizer, frame)
    body = encode(tokenizer, situation.text) + encode(tokenizer, frame.suffix)
    return Prompt(body, tuple((*encode(tokenizer, option), end) for option in situation.options))


def check_length(prefix: tuple[int, ...], prompt: Prompt, context: int, text: str) -> None:
    """Raise `CoteachError` where prefix, situation and longest option do not fit the model's context."""
    length = len(prefix) + len(prompt.body) + max(map(len, prompt.options), default=0)
    if length > context:
        raise CoteachError(
            f"prompt of {length} tokens for situation {text[:40]!r}...: the model reads at most {context}; "
            "shorten the grounding's texts or choose a model with a longer context"
        )
