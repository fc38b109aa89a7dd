"""Builds prompts as token ids: the prefix that all situations share, the body of one situation, and each option.

Each part is tokenised as it follows the part before it, and the ids are concatenated, so that every way of scoring sees the same
ids. Chat models are asked through their own template, others in plain text. No model runs here. In-context feedback is part of
the prefix: its sentences follow the instruction, its examples are earlier questions with their answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coteach.errors import CoteachError, first_line
from coteach.grounding.base import GRID_WORLD_INSTRUCTION, Situation
from coteach.teacher.feedback import NOTHING, Feedback

QUESTION = "\nNext step:"
EVIDENCE = "What the agent found out:"
EXAMPLES = "What worked:"
TODAY = datetime(2026, 1, 1)
"""The date that templates print which ask for today's: a run has the same prompts on every day."""

_MARK = "\u241e"  # stands for the situation while a chat template is rendered; no template contains it
_ANSWER = "\u241f"
_DATE = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")  # as a template asks for today's date
_OPEN_THOUGHT = re.compile(r"([<\[◁]\|?)((?:\w+:)?(?:think|thought|reason)\w*)(\|?[>\]▷])\s*\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Frame:
    """The text around a situation: `prefix` + situation + `suffix` + option + `end`. bos: whether the start token comes first.

    Spaces at the end of `prefix` and `suffix` are tokenised with what follows: most tokenizers put a word's space into its token.
    """

    prefix: str
    suffix: str
    end: str
    bos: bool

    @property
    def head(self) -> str:
        """The prefix without spaces at its end."""
        return self.prefix.rstrip(" ")

    @property
    def last_line(self) -> str:
        """The last line of `head` that is not empty, with the line ends after it: the context in which a situation is encoded."""
        return self.head[self.head.rstrip().rfind("\n") + 1 :]

    @property
    def lead(self) -> str:
        """The suffix without spaces at its end."""
        return self.suffix.rstrip(" ")


@dataclass(frozen=True)
class Prompt:
    """Token ids of one question: `body` follows the shared prefix; each option ends with the same end-of-answer tokens."""

    body: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]


Turn = tuple[str, str]
"""A message of a chat: its role and its text."""


def frame(tokenizer: Any, instruction: str = GRID_WORLD_INSTRUCTION, feedback: Feedback = NOTHING) -> Frame:
    """Return the text around a situation: by the tokenizer's chat template if it has one, else plain text.

    A template may refuse the system role, drop it, drop earlier turns, or take a message's content only as a list of parts.
    The first conversation that it renders in full is used. Raises `CoteachError` if there is none.
    """
    if not getattr(tokenizer, "chat_template", None):
        answered = "".join(f"{text}{QUESTION} {option}\n\n" for text, option in feedback.examples)
        return Frame(f"{heading(instruction, feedback)}\n\n{answered}", f"{QUESTION} ", "\n", bos=True)
    wrong = ""
    for turns in _conversations(instruction, feedback):
        for in_parts in (False, True):
            try:
                return _chat_frame(tokenizer, turns, in_parts)
            except Exception as error:  # a template can raise any error, and Jinja's own
                wrong = wrong or first_line(error)
    raise CoteachError(
        f"the model's chat template cannot ask about a situation: {wrong}; "
        "give its tokenizer a template that shows every message once, or none (chat_template in tokenizer_config.json)"
    )


def heading(instruction: str, feedback: Feedback) -> str:
    """Return the instruction, followed by the feedback's sentences."""
    found = [f"\n\n{EVIDENCE}", *(f"\n- {sentence}" for sentence in feedback.evidence)] if feedback.evidence else []
    return instruction + "".join(found)


def briefing(instruction: str, feedback: Feedback) -> str:
    """Return instruction, sentences and examples as one text, for a model that gets no prefix of past answers."""
    worked = [f"\n- {text}{QUESTION} {option}" for text, option in feedback.examples]
    return heading(instruction, feedback) + (f"\n\n{EXAMPLES}" + "".join(worked) if worked else "")


def _conversations(instruction: str, feedback: Feedback) -> Iterator[list[Turn]]:
    """Yield the ways to ask, the best first: with a system role, without one, and all in one turn."""
    head = heading(instruction, feedback)
    past = [turn for text, option in feedback.examples for turn in (("user", text), ("assistant", option))]
    (_, first), *others = [*past, ("user", _MARK)]
    yield [("system", head), *past, ("user", _MARK)]
    yield [("user", f"{head}\n\n{first}"), *others]
    if past:
        yield [("user", f"{briefing(instruction, feedback)}\n\n{_MARK}")]


def _chat_frame(tokenizer: Any, turns: Sequence[Turn], in_parts: bool) -> Frame:
    """Render the chat template with marks in place of situation and answer, and cut it at the marks."""
    question = _render(tokenizer, turns, in_parts, add_generation_prompt=True)
    prefix, *suffixes = question.split(_MARK)
    if len(suffixes) != 1 or (in_parts and "'type'" in prefix):
        raise ValueError(f"it shows a user's message {len(suffixes)} times")
    _require_in_order(prefix, [text.split(_MARK)[0] for _, text in turns])
    try:
        answered = _render(tokenizer, [*turns, ("assistant", _ANSWER)], in_parts)
    except Exception:  # a template that shows no answers: the end-of-sequence token ends them
        answered = ""
    lead, *ends = answered.partition(_MARK)[2].split(_ANSWER)
    end = ends[0] if len(ends) == 1 else ""
    longer = bool(ends) and lead.startswith(suffixes[0])  # what the template writes between its generation prompt and an answer
    return Frame(prefix, _without_thought(lead if longer else suffixes[0]), end, bos=False)


def _require_in_order(rendered: str, texts: Sequence[str]) -> None:
    """Raise ValueError if not all `texts` occur in `rendered`, one after the other; white space does not count."""
    rendered, begin = "".join(rendered.split()), 0
    for text in texts:
        bare = "".join(text.split())
        found = rendered.find(bare, begin)
        if found < 0:
            raise ValueError(f"it leaves out the message that begins {text[:40]!r}")
        begin = found + len(bare)


def _without_thought(suffix: str) -> str:
    """Close the thought that a reasoning model's generation prompt opens: what follows is the answer."""
    opened = _OPEN_THOUGHT.search(suffix)
    return f"{suffix.rstrip()}\n\n{opened[1]}/{opened[2]}{opened[3]}\n\n" if opened else suffix


def _render(tokenizer: Any, turns: Sequence[Turn], in_parts: bool, **how: bool) -> str:
    messages = [{"role": role, "content": [{"type": "text", "text": text}] if in_parts else text} for role, text in turns]
    template = _DATE.sub(lambda call: repr(TODAY.strftime(call[2])), tokenizer.get_chat_template())
    return str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, enable_thinking=False, **how))


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the token ids of `text`: no special tokens are added, those written in the text are recognised."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def follow(tokenizer: Any, before: str, text: str) -> tuple[int, ...]:
    """Return the token ids of `text` as it follows `before`; those of `text` alone if a token would span both.

    Tokenizers of the SentencePiece kind put a space before a text that stands alone.
    """
    whole, head = encode(tokenizer, before + text), encode(tokenizer, before)
    return whole[len(head) :] if whole[: len(head)] == head else encode(tokenizer, text)


def prefix_ids(tokenizer: Any, frame: Frame) -> tuple[int, ...]:
    """Return the ids that precede every situation; never empty."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ids = encode(tokenizer, frame.head)
    return (start, *ids) if (frame.bos and tokenizer.bos_token_id is not None) or not ids else ids


def end_ids(tokenizer: Any, frame: Frame) -> tuple[int, ...]:
    """Return the tokens that end an answer. Without them, an option that begins another one would always score higher.

    They are those of the frame's end up to a special token, if only white space precedes it; else the first one. Raises
    `CoteachError` if there is no end at all.
    """
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    ids = follow(tokenizer, "a", frame.end)
    if ids:
        until = next((place for place, token in enumerate(ids) if token in special), 0)
        return ids[: until + 1] if not tokenizer.decode(ids[:until]).strip() else ids[:1]
    if tokenizer.eos_token_id is None:
        raise CoteachError("the model's tokenizer has no token that ends an answer: set eos_token in tokenizer_config.json")
    return (int(tokenizer.eos_token_id),)


def build(tokenizer: Any, frame: Frame, situation: Situation) -> Prompt:
    """Return the ids of a situation and of its options."""
    body = follow(tokenizer, frame.last_line, frame.prefix[len(frame.head) :] + situation.text + frame.lead)
    space, end = frame.suffix[len(frame.lead) :], end_ids(tokenizer, frame)
    return Prompt(body, tuple((*follow(tokenizer, frame.lead, space + option), *end) for option in situation.options))


def length(prefix: Sequence[int], prompt: Prompt) -> int:
    """Return the number of tokens of prefix, situation and longest option."""
    return len(prefix) + len(prompt.body) + max(map(len, prompt.options), default=0)


def check_length(prefix: Sequence[int], prompt: Prompt, context: int, text: str) -> None:
    """Raise `CoteachError` if prefix, situation and longest option do not fit into the model's context."""
    tokens = length(prefix, prompt)
    if tokens > context:
        raise CoteachError(
            f"prompt of {tokens} tokens for situation {text[:40]!r}...: the model reads at most {context}; "
            "shorten the grounding's texts or choose a model with a longer context"
        )
