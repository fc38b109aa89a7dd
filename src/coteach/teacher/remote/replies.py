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

_TAG = r"[<\[◁]\|?{slash}(?:\w+:)?(?:think|thought|reason)\w*\|?[>\]▷]"
_OPEN, _CLOSE = (re.compile(_TAG.format(slash=slash), re.IGNORECASE) for slash in ("", "/"))
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>")  # OpenAI's harmony format
_LABEL_FIRST = re.compile(r"[\W_]*(\d{1,3}|[A-Z])(?![\w]|\.\d)")
_FIRST_WORD = re.compile(r"[\W_]*+([^\W_]++)(?!\.\d)(.?)", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])\d{1,3}(?![\w]|\.\d)")


class Malformed(Exception):
    """The body is not a chat completion as an OpenAI-compatible server sends it."""


@dataclass(frozen=True)
class Reply:
    """A server's answer to one call.

    texts:   one or several replies to the question, without the thoughts before the answer. Empty if a reply was cut off and does
             not begin with a label: it may be a thought.
    top:     the likeliest first tokens of the answer with their probabilities; empty if the server gave none.
    tokens:  tokens in and out, as the server counted them; None if it did not.
    thought: whether the model thought before it answered, or came no further than that.
    cut:     whether a reply was cut off before it named a label.
    """

    texts: tuple[str, ...]
    top: tuple[tuple[str, float], ...] = ()
    tokens: tuple[int, int] | None = None
    thought: bool = False
    cut: bool = False


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
        read = [_answer(choice) for choice in data["choices"]]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise Malformed(f"not a chat completion: {_beginning(body)}") from None
    if not read:
        raise Malformed(f"a chat completion without text: {_beginning(body)}")
    thought = any(thoughtful for _, thoughtful, _ in read)
    top = () if thought else _top(data["choices"][0])
    return Reply(tuple(text for text, _, _ in read), top, _usage(data.get("usage")), thought, any(cut for _, _, cut in read))


def _answer(choice: Any) -> tuple[str, bool, bool]:
    """Return the text of one reply without its thoughts, whether the model thought, and whether the reply was cut off.

    Raises KeyError, TypeError, AttributeError or ValueError if this is no choice of a chat completion.
    """
    message = choice["message"]
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type", "text") == "text")
    if not isinstance(content, str | None):
        raise ValueError("content that is no text")
    text, thought = spoken(content or "")
    thought |= any(message.get(name) for name in ("reasoning_content", "reasoning", "thinking"))
    cut = choice.get("finish_reason") == "length" and not _LABEL_FIRST.match(text)
    return ("" if cut else text), thought, cut


def spoken(text: str) -> tuple[str, bool]:
    """Return a reply without its thoughts, and whether there are any. Of a thought that was cut off nothing is left.

    A thought stands between tags, before a closing tag (if the prompt opened it), or in a channel.
    """
    text = text[-READ:]
    if channels := list(_CHANNEL.finditer(text)):
        last = channels[-1]
        return (text[last.end() :].partition("<|")[0] if last[1] == "final" else ""), True
    closed = list(_CLOSE.finditer(text))
    answer = text[closed[-1].end() :] if closed else text
    opened = _OPEN.search(answer)
    return (answer[: opened.start()] if opened else answer), bool(closed or opened)


def shares(top: Sequence[tuple[str, float]], names: Sequence[str], least: float) -> NDArray[np.float64] | None:
    """Return the share of each label among the likeliest first tokens, (len(names),) float64.

    None if all labels together have a probability below `least`: then the model's first token is not an answer.
    """
    found = dict.fromkeys(names, 0.0)
    for token, probability in top:
        name = token.strip(" \t\r\n.:()*`\"'\u0120\u2581")  # the last two are how some servers write a space
        if name in found:
            found[name] += probability
    share = np.array(list(found.values()))
    mass = share.sum()
    return share / mass if mass >= least else None


def choice(text: str, names: Sequence[str], options: Sequence[str]) -> int | None:
    """Return the index of the option that a reply names, by its label or in words; None if it names none or several."""
    answer, _ = spoken(text)
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
