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

_NAME = r"(?:\w+:)?(?:think|thought|reason|analysis|reflect|scratch|monolog|deliberat|inner)\w*"
_TAG = r"[<\[◁]\|?{mark}" + _NAME + r"\|?[>\]▷]"
_OPEN = re.compile(
    _TAG.format(mark="(?:begin_of_|start_of_|start_)?") + r"|<unused94>|<\|channel>|here(?: is|'s) my thought process:", re.I
)
_CLOSE = re.compile(
    _TAG.format(mark="(?:/|end_of_|end_|stop_)") + r"|<\|inner_suffix\|>|<unused95>|<channel\|>|here(?: is|'s) my response:", re.I
)
"""How thoughts begin and end: <think>, [THINK], ◁think▷, <seed:think>, <|begin_of_thought|>, <|START_THINKING|>, and what Apertus
(<|inner_prefix|>), MedGemma (<unused94>), Gemma 4 (<|channel>) and Granite (in words) write."""

_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")  # OpenAI's harmony format
_BARE_CHANNEL = re.compile(r"\s*(?:assistant)?(analysis|commentary)(?=[A-Z\"'])")  # the same without its special tokens
_BARE_FINAL = re.compile(r"assistant\s*final")

_CUT = ("length", "max_tokens", "max_output_tokens", "model_length")
"""What servers call the reason that a reply ended at its limit of tokens."""

_FEW_CHARACTERS = 3
"""Characters per token from which on a reply may have been cut off, if the server says neither its tokens nor why it ended."""

_AROUND = r"[\W_\u0120\u010a\u010d\u2581]*"  # the last four are how some servers write a space and the end of a line
_TOKEN = re.compile(rf"{_AROUND}(\d{{1,3}}|[A-Z]){_AROUND}")
_LEAD = r"[\W_]*(?:(?:the|my|final|best|correct|right|next|answer|choice|option|number|letter|step|is|boxed)[\W_]+)*"
_LABEL_LINE = re.compile(_LEAD + r"(\d{1,3}|(?-i:[A-Z]))(?!\w|\.\d)[\W_]*(.*)", re.I)
_LISTED = re.compile(r"^[^\w\n]*(\d{1,3}|[A-Z])\**[.:)]\**[ \t]+\S", re.M)
_FIRST_WORD = re.compile(r"[\W_]*+([^\W_]++)(?!\.\d)(.?)", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])\d{1,3}(?![\w]|\.\d)")
_MARKS = string.punctuation + string.whitespace
_URL = "is this the url of an OpenAI-compatible server, with its /v1?"


class Malformed(Exception):
    """The body is not a chat completion as an OpenAI-compatible server sends it. way_out: what the user can do."""

    def __init__(self, message: str, way_out: str = _URL) -> None:
        super().__init__(message)
        self.way_out = way_out


@dataclass(frozen=True)
class Reply:
    """A server's answer to one call.

    texts:   one or several replies to the question, without the thoughts before the answer.
    cuts:    for each, whether it was cut off, so that it may be a thought or a part of one.
    top:     the likeliest first tokens of the answer with their probabilities; empty if the server gave none.
    tokens:  tokens in and out, as the server counted them; None if it did not.
    thought: whether the model thought before it answered, or came no further than that.
    remark:  why there is no text, in the server's words.
    """

    texts: tuple[str, ...]
    cuts: tuple[bool, ...]
    top: tuple[tuple[str, float], ...] = ()
    tokens: tuple[int, int] | None = None
    thought: bool = False
    remark: str = ""


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


def read_reply(body: bytes, most: int | None = None) -> Reply:
    """Read the replies in the body of a chat completion. most: tokens that a reply may have had; None if there was no limit.

    Raises `Malformed` for any other body.
    """
    try:
        data = json.loads(body)
        choices = data["choices"]
        read = [_answer(choice) for choice in choices]
        tokens = _usage(data.get("usage"))
        each = tokens[1] // len(read) if tokens and read else None
        cuts = tuple(_is_cut(choice, len(text), each, most) for choice, (text, _, _) in zip(choices, read, strict=True))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        streams = body.lstrip().startswith(b"data:")
        way_out = "the server sends its replies in pieces; switch streaming off there" if streams else _URL
        raise Malformed(f"not a chat completion: {_beginning(body)}", way_out) from None
    if not read:
        raise Malformed(f"a chat completion without text: {_beginning(body)}", "look at what the server logs")
    thought = any(thoughtful for _, thoughtful, _ in read)
    top = () if thought else _top(choices[0])
    return Reply(tuple(text for text, _, _ in read), cuts, top, tokens, thought, next((said for *_, said in read if said), ""))


def _answer(choice: Any) -> tuple[str, bool, str]:
    """Return the text of one reply without its thoughts, whether the model thought, and a refusal in the server's words.

    Raises KeyError, TypeError, AttributeError or ValueError if this is no choice of a chat completion.
    """
    message = choice["message"]
    content, parsed = _joined(message.get("content"))
    text, thought = spoken(content)
    parsed |= any(message.get(name) for name in ("reasoning_content", "reasoning", "reasoning_details", "thinking", "thoughts"))
    refusal = message.get("refusal") or (choice.get("finish_reason") if choice.get("finish_reason") == "content_filter" else "")
    return text, bool(thought or parsed), refusal if isinstance(refusal, str) else ""


def _joined(content: Any) -> tuple[str, bool]:
    """Return a message's content as one text, and whether it has parts that are no text, such as thoughts."""
    if not isinstance(content, list | dict):
        if not isinstance(content, str | None):
            raise ValueError("content that is no text")
        return content or "", False
    listed = [content] if isinstance(content, dict) else content
    parts = [{"text": part} if isinstance(part, str) else part for part in listed]
    said = [part["text"] for part in parts if part.get("type", "text") in ("text", "output_text")]
    return "".join(said), len(said) < len(parts)


def _is_cut(choice: Any, characters: int, tokens: int | None, most: int | None) -> bool:
    """Return whether a reply ended at its limit, as the server says, or as its length shows. tokens: of this reply."""
    reason = str(choice.get("finish_reason") or "").lower()
    if reason in _CUT or not most:
        return reason in _CUT
    return tokens >= most if tokens is not None else not reason and characters >= _FEW_CHARACTERS * most


def spoken(text: str) -> tuple[str, bool]:
    """Return a reply without its thoughts, and whether there are any. Of a thought that was cut off nothing is left.

    A thought stands between tags, before a closing tag (if the prompt opened it), or in a channel.
    """
    bare = _BARE_CHANNEL.match(text)
    text = text[-READ:]
    if bare:
        return ["", *_BARE_FINAL.split(text)[1:]][-1], True
    if channels := list(_CHANNEL.finditer(text)):
        last = channels[-1]
        return (text[last.end() :].partition("<|")[0] if last[1] == "final" else ""), True
    if "<|channel|>" in text:  # cut off in its first words
        return "", True
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
        matched = _TOKEN.fullmatch(token)
        name = matched[1] if matched else ""
        if name in found:
            found[name] += probability
    share = np.array(list(found.values()))
    mass = share.sum()
    return share / mass if mass >= least else None


def choice(text: str, names: Sequence[str], options: Sequence[str], cut: bool = False) -> int | None:
    """Return the index of the option that a reply names, by its label or in words; None if it names none or several.

    cut: whether the reply was cut off. It may be a thought then, and is read only if its first line is a label, alone or with
    its option's own text.
    """
    answer, _ = spoken(text)
    lines = [line for line in answer.splitlines() if line.strip()]
    if not lines:
        return None
    lower = [option.lower() for option in options]
    restated = len({label for label in _LISTED.findall(answer) if label in names}) > 1
    if cut:
        return None if restated else _label_alone(lines[0], names, lower, cut=len(lines) == 1)
    last = _label_alone(lines[-1], names, lower)
    if last is not None or restated:  # a list of options is no answer, only what follows it
        return None if restated and _LISTED.match(lines[-1]) else last
    first = _FIRST_WORD.match(answer)
    if first and first[1] in names and (first[1].isdigit() or first[2] in ("", ".", ":", ")", "*", "\n")):
        return list(names).index(first[1])
    in_words = _named(answer.lower(), lower)
    if len(in_words) == 1:
        return in_words[0]
    numbers = {number for number in _NUMBER.findall(answer) if number in names}
    return list(names).index(numbers.pop()) if len(numbers) == 1 and not in_words else None


def _label_alone(line: str, names: Sequence[str], options: Sequence[str], cut: bool = False) -> int | None:
    """Return the option whose label a line holds and, at most, its text (of which `cut` leaves a part); None for other lines."""
    found = _LABEL_LINE.fullmatch(line.strip())
    if not found or found[1] not in names:
        return None
    place, rest = list(names).index(found[1]), found[2].lower().rstrip(_MARKS)
    option = options[place].rstrip(_MARKS)
    return place if rest in ("", option) or (cut and option.startswith(rest)) else None


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
