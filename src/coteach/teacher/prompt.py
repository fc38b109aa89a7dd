"""Builds prompts as token ids: the prefix that all situations share, the body of one situation, and each option.

The three are tokenised separately and their ids concatenated, so that every way of scoring sees the same ids. Chat models are
asked through their own template, others in plain text. No model runs here. In-context feedback is part of the prefix: its
sentences follow the instruction, its examples are earlier questions with their answers.
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
_MARK = "\u241e"  # stands for the situation while a chat template is rendered; no template contains it
_ANSWER = "\u241f"


@dataclass(frozen=True)
class Frame:
    """The text around a situation: `prefix` + situation + `suffix` + option + `end`. bos: whether the start token comes first."""

    prefix: str
    suffix: str
    end: str
    bos: bool


@dataclass(frozen=True)
class Prompt:
    """Token ids of one question: `body` follows the shared prefix; each option ends with the end-of-answer token."""

    body: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]


def frame(tokenizer: Any, instruction: str = GRID_WORLD_INSTRUCTION, feedback: Feedback = NOTHING) -> Frame:
    """Return the text around a situation: by the tokenizer's chat template if it has one, else plain text."""
    head = heading(instruction, feedback)
    if not getattr(tokenizer, "chat_template", None):
        answered = "".join(f"{text}{QUESTION} {option}\n\n" for text, option in feedback.examples)
        return Frame(f"{head}\n\n{answered}", f"{QUESTION} ", "\n", bos=True)
    turns = [turn for text, option in feedback.examples for turn in (_says("user", text), _says("assistant", option))]
    turns.append(_says("user", _MARK))
    try:
        return _chat_frame(tokenizer, [_says("system", head), *turns])
    except Exception:  # Jinja's, raised by a template without a system role
        turns[0] = _says("user", f"{head}\n\n{turns[0]['content']}")
        return _chat_frame(tokenizer, turns)


def heading(instruction: str, feedback: Feedback) -> str:
    """Return the instruction, followed by the feedback's sentences."""
    found = [f"\n\n{EVIDENCE}", *(f"\n- {sentence}" for sentence in feedback.evidence)] if feedback.evidence else []
    return instruction + "".join(found)


def briefing(instruction: str, feedback: Feedback) -> str:
    """Return instruction, sentences and examples as one text, for a server's model, which gets no prefix of past answers."""
    worked = [f"\n- {text}{QUESTION} {option}" for text, option in feedback.examples]
    return heading(instruction, feedback) + (f"\n\n{EXAMPLES}" + "".join(worked) if worked else "")


def _says(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _chat_frame(tokenizer: Any, messages: list[dict[str, str]]) -> Frame:
    """Render the chat template with marks in place of situation and answer, and cut it at the marks."""
    answered = [*messages, _says("assistant", _ANSWER)]
    question = _render(tokenizer, messages, add_generation_prompt=True)
    prefix, suffix = question.split(_MARK)
    return Frame(prefix, suffix, _render(tokenizer, answered).split(_ANSWER)[1], bos=False)


def _render(tokenizer: Any, messages: list[dict[str, str]], **how: bool) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False, **how))


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the token ids of `text`: no special tokens are added, those written in the text are recognised."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def prefix_ids(tokenizer: Any, frame: Frame) -> tuple[int, ...]:
    """Return the ids that precede every situation; never empty."""
    bos = (tokenizer.bos_token_id,) if frame.bos and tokenizer.bos_token_id is not None else ()
    return bos + encode(tokenizer, frame.prefix)


def end_id(tokenizer: Any, frame: Frame) -> int:
    """Return the token that ends an answer. Without it, an option that begins another one would always score higher."""
    ids = encode(tokenizer, frame.end)
    return ids[0] if ids else int(tokenizer.eos_token_id)


def build(tokenizer: Any, frame: Frame, situation: Situation) -> Prompt:
    """Return the ids of a situation and of its options."""
    end = end_id(tokenizer, frame)
    body = encode(tokenizer, situation.text) + encode(tokenizer, frame.suffix)
    return Prompt(body, tuple((*encode(tokenizer, option), end) for option in situation.options))


def check_length(prefix: tuple[int, ...], prompt: Prompt, context: int, text: str) -> None:
    """Raise `CoteachError` if prefix, situation and longest option do not fit into the model's context."""
    length = len(prefix) + len(prompt.body) + max(map(len, prompt.options), default=0)
    if length > context:
        raise CoteachError(
            f"prompt of {length} tokens for situation {text[:40]!r}...: the model reads at most {context}; "
            "shorten the grounding's texts or choose a model with a longer context"
        )
