"""What is asked of an LLM behind a server, and how its replies are read. A bad reply is data here, never a crash.

In goes a situation, or the body of an HTTP reply; out come messages, a `Reply`, the slot of the option that a text names,
or shares of the options by the log-probabilities of their labels. Nothing here talks to anybody.
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
"""Characters at a reply's end that are read: an answer stands there, after any amount of thought."""

_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_FIRST_WORD = re.compile(r"[\W_]*+([^\W_]++)(?!\.\d)(.?)", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])\d{1,3}(?![\w]|\.\d)")


class Malformed(Exception):
    """The body is not what an OpenAI-compatible server sends."""


@dataclass(frozen=True)
class Reply:
    """What a server answered.

    texts:  one or several replies to one question.
    top:    probabilities of the likeliest first tokens; empty where the server gave none.
    tokens: in and out, as the server counted them; None where it did not.
    """

    texts: tuple[str, ...]
    top: tuple[tuple[str, float], ...] = ()
    tokens: tuple[int, int] | None = None


def labels(count: int, letters: bool) -> tuple[str, ...]:
    """What the options are called: 1, 2, 3..., or A, B, C... where more than nine must be single tokens."""
    if letters and 9 < count <= len(string.ascii_uppercase):
        return tuple(string.ascii_uppercase[:count])
    return tuple(str(number) for number in range(1, count + 1))


def question(
    situation: Situation, names: Sequence[str], order: Sequence[int], briefing: str = GRID_WORLD_INSTRUCTION
) -> list[dict[str, str]]:
    """The messages that ask about `situation` after `briefing`, its options (slots) listed in `order` under `names`."""
    listed = "\n".join(f"{name}. {situation.options[slot]}" for name, slot in zip(names, order, strict=True))
    kind = "letter" if names[0] == "A" else "number"
    asked = f"{situation.text}\n\nOptions:\n{listed}\n\nAnswer with the {kind} of the best next step and nothing else."
    return [{"role": "system", "content": briefing}, {"role": "user", "content": asked}]


def read_reply(body: bytes) -> Reply:
    """The replies in the body of a chat completion; raises `Malformed` for whatever else it may be."""
    try:
        data = json.loads(body)
        texts = tuple(choice["message"]["content"] or "" for choice in data["choices"])
    except (ValueError, RecursionError, KeyError, TypeError):
        raise Malformed(f"not a chat completion: {_glimpse(body)}") from None
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Malformed(f"a chat completion without text: {_glimpse(body)}")
    return Reply(texts, _top(data["choices"][0]), _usage(data.get("usage")))


def shares(top: Sequence[tuple[str, float]], names: Sequence[str], least: float) -> NDArray[np.float64] | None:
    """(len(names),) probability of each label among the likeliest first tokens.

    None where all labels together have less than `least`: then the model's first token was no answer.
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
    """The place in `options` that a reply names, by its label or in words; None where it names none or several."""
    said = _THOUGHT.sub(" ", text[-READ:])
    first = _FIRST_WORD.match(said)
    if first and first[1] in names and (first[1].isdigit() or first[2] in ("", ".", ":", ")", "*", "\n")):
        return list(names).index(first[1])
    in_words = _named(said.lower(), [option.lower() for option in options])
    if len(in_words) == 1:
        return in_words[0]
    numbers = {number for number in _NUMBER.findall(said) if number in names}
    return list(names).index(numbers.pop()) if len(numbers) == 1 and not in_words else None


def _named(said: str, options: Sequence[str]) -> list[int]:
    """Options that occur in `said` as whole words, those left out that are part of a longer one which occurs."""
    places = [(place, option) for place, option in enumerate(options) if re.search(rf"(?<!\w){re.escape(option)}(?!\w)", said)]
    return [place for place, option in places if not any(option != other and option in other for _, other in places)]


def _top(choice: Any) -> tuple[tuple[str, float], ...]:
    """Likeliest first tokens with their probabilities, so far as they are there and make sense."""
    try:
        listed = choice["logprobs"]["content"][0]["top_logprobs"]
        pairs = [(entry["token"], float(entry["logprob"])) for entry in listed]
    except (KeyError, IndexError, TypeError, ValueError):
        return ()
    return tuple((token, math.exp(min(log, 0.0))) for token, log in pairs if isinstance(token, str) and not math.isnan(log))


def _usage(usage: Any) -> tuple[int, int] | None:
    """Tokens in and out; None where the server did not count them."""
    if not isinstance(usage, dict):
        return None
    tokens_in, tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not (isinstance(tokens_in, int) and isinstance(tokens_out, int) and min(tokens_in, tokens_out) >= 0):
        return None
    return tokens_in, tokens_out


def _glimpse(body: bytes) -> str:
    return repr(body[:60].decode("utf-8", errors="replace")) if body else "nothing at all"
