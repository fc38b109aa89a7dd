"""Writes the question for an LLM behind a server, and reads its replies. A bad reply is data, never a crash.

From a situation it makes messages; from the body of an HTTP reply a `Reply`; from a reply's text the option that it names, or
from the log-probabilities of the labels a share for each option. Nothing here calls a server.
"""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.grounding.base import GRID_WORLD_INSTRUCTION, Situation

READ = 20_000
"""Characters that are read from the end of a reply: the answer follows any amount of reasoning."""

_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_FIRST_WORD = re.compile(r"[\W_]*+([^\W_]++)(?!\.\d)(.?)", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])\d{1,3}(?![\w]|\.\d)")


class Malformed(Exception):
    """The body is not a chat completion as an OpenAI-compatible server sends it."""


@dataclass(frozen=True)
class Reply:
    """A server's answer to one call.

    texts:  one or several replies to the question.
    top:    the likeliest first tokens with their probabilities; empty if the server gave none.
    tokens: tokens in and out, as the server counted them; None if it did not.
    """

    texts: tuple[str, ...]
    top: tuple[tuple[str, float], ...] = ()
    tokens: tuple[int, int] | None = None


def labels(count: int, letters: bool) -> tuple[str, ...]:
    """Return labels for the options: 1, 2, 3...; with `letters` A, B, C... for more than nine, so that each is a single token."""
    if letters and 9 < count <= len(string.ascii_uppercase):
        return tuple(string.ascii_uppercase[:count])
    return tuple(str(number) for number in range(1, count + 1))


def question(
    situation: Situation, names: Sequence[str], order: Sequence[int], briefing: str = GRID_WORLD_INSTRUCTION
) -> list[dict[str, str]]:
    """Return the messages that ask about `situation` after `briefing`, its options listed in `order` with the labels `names`."""
    listed = "\n".join(f"{name}. {situation.options[slot]}" for name, slot in zip(names, order, strict=True))
    kind = "letter" if names[0] == "A" else "number"
    asked = f"{situation.text}\n\nOptions:\n{listed}\n\nAnswer with the {kind} of the best next step and nothing else."
    return [{"role": "system", "content": briefing}, {"role": "user", "content": asked}]


def read_reply(body: bytes) -> Reply:
    """Read the replies in the body of a chat completion. Raises `Malformed` for any other body."""
    try:
        data = json.loads(body)
        texts = tuple(choice["message"]["content"] or "" for choice in data["choices"])
    except (ValueError, RecursionError, KeyError, TypeError):
        raise Malformed(f"not a chat completion: {_beginning(body)}") from None
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Malformed(f"a chat completion without text: {_beginning(body)}")
    return Reply(texts, _top(data["choices"][0]), _usage(data.get("usage")))


def shares(top: Sequence[tuple[str, float]], names: Sequence[str], least: float) -> NDArray[np.float64] | None:
    """Return the share of each label among the likeliest first tokens, (len(names),) float64.

    None if all labels together have a probability below `least`: then the model's first token is not an answer.
    """
    found = dict.fromkeys(names, 0.0)
    for token, probability in top:
        name = token.strip(" \t\r\n.:()*`\"'")
        if name in found:
            found[name] += probability
    share = np.array(list(found.values()))
    mass = share.sum()
    return share / mass if mass >= least else None


def choice(text: str, names: Sequence[str], options: Sequence[str]) -> int | None:
    """Return the index of the option that a reply names, by its label or in words; None if it names none or several."""
    answer = _THOUGHT.sub(" ", text[-READ:])
    first = _FIRST_WORD.match(answer)
    if first and first[1] in names and (first[1].isdigit() or first[2] in ("", ".", ":", ")", "*", "\n")):
        return list(names).index(first[1])
    in_words = _named(answer.lower(), [option.lower() for option in options])
    if len(in_words) == 1:
        return in_words[0]
    numbers = {number for number in _NUMBER.findall(answer) if number in names}
    return list(names).index(numbers.pop()) if len(numbers) == 1 and not in_words else None


def _named(answer: str, options: Sequence[str]) -> list[int]:
    """Return the indices of the options that occur in `answer` as whole words, without those that are part of a longer one."""
    places = [(place, option) for place, option in enumerate(options) if re.search(rf"(?<!\w){re.escape(option)}(?!\w)", answer)]
    return [place for place, option in places if not any(option != other and option in other for _, other in places)]


def _top(choice: Any) -> tuple[tuple[str, float], ...]:
    """Read the likeliest first tokens with their probabilities; empty if they are missing or malformed."""
    try:
        listed = choice["logprobs"]["content"][0]["top_logprobs"]
        pairs = [(entry["token"], float(entry["logprob"])) for entry in listed]
    except (KeyError, IndexError, TypeError, ValueError):
        return ()
    return tuple((token, math.exp(min(log, 0.0))) for token, log in pairs if isinstance(token, str) and not math.isnan(log))


def _usage(usage: Any) -> tuple[int, int] | None:
    """Read the tokens in and out; None if the server did not count them."""
    if not isinstance(usage, dict):
        return None
    tokens_in, tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not (isinstance(tokens_in, int) and isinstance(tokens_out, int) and min(tokens_in, tokens_out) >= 0):
        return None
    return tokens_in, tokens_out


def _beginning(body: bytes) -> str:
    return repr(body[:60].decode("utf-8", errors="replace")) if body else "an empty body"
