"""Servers' habits for tests: what a server refuses, how its model writes, and what it says of the first token."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coteach.config import TeacherConfig
from coteach.errors import Note
from coteach.grounding.base import Situation
from coteach.teacher.answer_cache import AnswerCache
from coteach.teacher.remote.teacher import RemoteTeacher
from llm_server import Handler, Server, http

SITUATION = Situation("Mission: open the door.", ("explore", "open the door", "drop the key"))
RIGHT = "open the door"


@dataclass
class Habit:
    """How a server answers: what it refuses, how its model writes, and what it says of the first token.

    writes:   label of the right option -> choice (a dictionary), for a request.
    refuses:  request -> (status, message) or None.
    room:     tokens that the model needs before its answer.
    """

    writes: Callable[[str, dict[str, Any]], dict[str, Any]]
    refuses: Callable[[dict[str, Any]], tuple[str, str] | None] = lambda asked: None
    note: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


def choice(text: Any, top: Any = None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    if top is not None:
        made["logprobs"] = {"content": [{"top_logprobs": [{"token": token, "logprob": np.log(p)} for token, p in top]}]}
    return made


def first_token(token: Callable[[str], str], alternatives: int = 20) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """A server with log-probabilities of the first token."""

    def writes(label: str, asked: dict[str, Any]) -> dict[str, Any]:
        if not asked.get("logprobs"):
            return choice(label)
        top = [(token(label), 0.9), (token("1" if label != "1" else "2"), 0.05)]
        return choice(token(label), top[:alternatives], finish="length")

    return writes


def thinking(
    thought: str, stops: bool = False, needs: int = 300, end: str = "</think>\n\n", parsed: bool = False
) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """A model that thinks `needs` tokens long before it answers; stops: it does not if its template is told so."""

    def writes(label: str, asked: dict[str, Any]) -> dict[str, Any]:
        if stops and asked.get("chat_template_kwargs", {}).get("enable_thinking") is False:
            return first_token(str)(label, asked)
        most = asked.get("max_tokens", asked.get("max_completion_tokens", 10**6))
        if most < needs:
            beginning = thought[: 4 * most]
            return choice("", finish="length", reasoning_content=beginning) if parsed else choice(beginning, finish="length")
        return choice(label, reasoning_content=thought) if parsed else choice(thought + end + label)

    return writes


def without(*names: str) -> Callable[[dict[str, Any]], tuple[str, str] | None]:
    """Refuses requests that have one of these parameters."""

    def refuses(asked: dict[str, Any]) -> tuple[str, str] | None:
        found = [name for name in names if name in asked]
        return ("400 Bad Request", f"Unsupported parameter: '{found[0]}' is not supported with this model.") if found else None

    return refuses


def no_system(status: str, message: str) -> Callable[[dict[str, Any]], tuple[str, str] | None]:
    return lambda asked: (status, message) if asked["messages"][0]["role"] == "system" else None


def at_most(alternatives: int) -> Callable[[dict[str, Any]], tuple[str, str] | None]:
    def refuses(asked: dict[str, Any]) -> tuple[str, str] | None:
        if asked.get("top_logprobs", 0) > alternatives:
            return "400 Bad Request", f"top_logprobs must be at most {alternatives}"
        return None

    return refuses


def fails(status: str, message: str, *names: str) -> Callable[[dict[str, Any]], tuple[str, str] | None]:
    """Answers requests that have one of these parameters with an error."""
    return lambda asked: (status, message) if any(name in asked for name in names) else None


def without_reason(writes: Callable[[str, dict[str, Any]], dict[str, Any]]) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """A server that does not say why a reply ended."""
    return lambda label, asked: writes(label, asked) | {"finish_reason": None}


def needs_new_limit(asked: dict[str, Any]) -> tuple[str, str] | None:
    if "max_tokens" in asked:
        return "400 Bad Request", "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    return None


PLAIN = "Okay, the user wants me to explore or to drop the key. Option 1 is explore. Hmm. " * 30
TAGGED = "<think>\n" + PLAIN
HARMONY = "<|channel|>analysis<|message|>" + PLAIN
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
SAYS = "We see 2 doors; I may explore. " * 40
STILL = "all its advice is uniform so far, because the model still thinks after 2048 tokens"

HABITS: dict[str, Habit] = {
    "20 alternatives": Habit(first_token(str)),
    "5 alternatives": Habit(first_token(str), at_most(5)),
    "no alternatives": Habit(first_token(str, 0)),
    "no log-probabilities": Habit(lambda label, asked: choice(label)),
    "log-probabilities refused": Habit(lambda label, asked: choice(label), without("logprobs")),
    "one reply at a time": Habit(lambda label, asked: choice(label), without("logprobs", "n")),
    "neither limit nor temperature": Habit(lambda label, asked: choice(label), without("logprobs", "temperature", "max_tokens")),
    "first token with a space": Habit(first_token(lambda label: f" {label}")),
    "first token as byte-level BPE": Habit(first_token(lambda label: f"\u0120{label}")),
    "first token as SentencePiece": Habit(first_token(lambda label: f"\u2581{label}")),
    "first token in bold": Habit(first_token(lambda label: f"**{label}**")),
    "answer in bold": Habit(lambda label, asked: choice(f"**{label}**")),
    "answer in words": Habit(lambda label, asked: choice("You should open the door.")),
    "content in parts": Habit(lambda label, asked: choice([{"type": "text", "text": label}])),
    "max_completion_tokens": Habit(first_token(str), needs_new_limit),
    "system role refused": Habit(first_token(str), no_system("400 Bad Request", "System role not supported")),
    "system role refused by a template": Habit(
        first_token(str), no_system("500 Internal Server Error", "Conversation roles must alternate user/assistant/user")
    ),
    "thoughts inline, can be switched off": Habit(thinking(TAGGED, stops=True)),
    "thoughts parsed, can be switched off": Habit(thinking(PLAIN, stops=True, parsed=True)),
    "thoughts inline": Habit(thinking(TAGGED)),
    "thoughts inline, switch refused": Habit(thinking(TAGGED), without("chat_template_kwargs")),
    "thoughts parsed": Habit(thinking(PLAIN, parsed=True)),
    "thoughts without an opening tag": Habit(thinking(PLAIN)),
    "thoughts in harmony's channels": Habit(thinking(HARMONY, end=FINAL)),
    "thoughts in other tags": Habit(thinking("<thought>" + PLAIN, end="</thought>")),
    **{
        f"thoughts after {begin.strip()}": Habit(thinking(begin + SAYS, end=end))
        for begin, end in {
            "<reasoning>": "</reasoning>",
            "<analysis>": "</analysis>",
            "<scratchpad>": "</scratchpad>",
            "[THINK]": "[/THINK]",
            "\u25c1think\u25b7": "\u25c1/think\u25b7",
            "<seed:think>": "</seed:think>",
            "<|begin_of_thought|>": "<|end_of_thought|>",
            "<|START_THINKING|>": "<|END_THINKING|>",
            "<|inner_prefix|>": "<|inner_suffix|>",
            "<unused94>thought\n": "<unused95>",
            "<|channel>thought\n": "<channel|>",
            "analysis": "assistantfinal",
            "<|channel|>analysis<|message|> ": "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>",
            "Here is my thought process:\n": "Here is my response:\n",
        }.items()
    },
    "thoughts that begin with a number": Habit(thinking("1. The user wants to leave. " * 40)),
    "endless thoughts that begin with a number": Habit(thinking("1. The user wants to leave. " * 400, needs=10**6), note=STILL),
    "endless thoughts that begin with an option": Habit(thinking("1. explore: I see more. " * 400, needs=10**6), note=STILL),
    "endless thoughts that begin with a letter": Habit(thinking("A key! I drop the key. " * 400, needs=10**6), note=STILL),
    "endless thoughts, no reason given": Habit(without_reason(thinking("I explore. " * 999, needs=10**6)), note=STILL),
    "endless thoughts inline": Habit(thinking(TAGGED, needs=10**6), note=STILL),
    "endless thoughts parsed": Habit(thinking(PLAIN, needs=10**6, parsed=True), note=STILL),
    "endless thoughts without an opening tag": Habit(thinking(PLAIN, needs=10**6), note=STILL),
    "endless thoughts in channels": Habit(thinking(HARMONY, needs=10**6), note=STILL),
    "first token with the end of a line": Habit(first_token(lambda label: f"\u010a{label}")),
    "first token in brackets": Habit(first_token(lambda label: f"[{label}")),
    "answer in JSON": Habit(lambda label, asked: choice(f'```json\n{{"answer": {label}}}\n```')),
    "answer after the list": Habit(lambda label, asked: choice(f"1. x\n2. y\n3. z\nAnswer: {label}")),
    "answer cut off after its option": Habit(lambda label, asked: choice(f"{label}. {RIGHT}\nFor the", finish="length")),
    "content in parts, thoughts too": Habit(
        lambda label, asked: choice([{"type": "thinking", "thinking": "explore"}, {"type": "text", "text": label}])
    ),
    "content as a list of texts": Habit(lambda label, asked: choice([label])),
    "content as output_text": Habit(lambda label, asked: choice([{"type": "output_text", "text": label}])),
    "max_tokens unsupported": Habit(first_token(str), fails("400 Bad Request", "Unsupported: 'max_tokens'", "max_tokens")),
    "log-probabilities are a server error": Habit(
        lambda label, asked: choice(label), fails("500 Internal Server Error", "logprobs needs logits_all", "logprobs")
    ),
    "log-probabilities are not implemented": Habit(
        lambda label, asked: choice(label), fails("501 Not Implemented", "no", "logprobs")
    ),
    **{
        f"system role refused: {message}": Habit(first_token(str), no_system("400 Bad Request", message))
        for message in (
            "Only user and assistant roles are supported!",
            "Developer instruction is not enabled for models/gemma-3",
            "System messages are not supported",
            "Jinja Exception: raise_exception",
            "Invalid request",
        )
    },
    "refusal": Habit(lambda label, asked: choice(None, refusal=f"I cannot {RIGHT}."), note="the last one: 'I cannot open"),
    "chatter that is cut off": Habit(
        lambda label, asked: choice("Well. " * 20, finish="length" if asked["max_tokens"] < 40 else "stop"),
        note="name no option (the last one: 'Well. Well.",
    ),
    "empty content": Habit(lambda label, asked: choice(None), note="uniform so far, because its replies name no option"),
    "chatter": Habit(lambda label, asked: choice("I am glad you ask!"), note="name no option (the last one: 'I am glad you"),
}  # fmt: skip
"""Name -> habit. A new one is one line."""


def behaving(habit: Habit) -> Callable[[Handler], None]:
    def reply(handler: Handler) -> None:
        asked = json.loads(handler.server.requests[-1].split(b"\r\n\r\n", 1)[1])
        if refusal := habit.refuses(asked):
            handler.send(http(json.dumps({"error": {"message": refusal[1]}}).encode(), refusal[0]))
            return
        listed = asked["messages"][-1]["content"].splitlines()
        label = next(line for line in listed if line.endswith(f". {RIGHT}")).partition(".")[0]
        choices = [habit.writes(label, asked) for _ in range(asked.get("n", 1))]
        handler.send(http(json.dumps({"choices": choices}).encode()))

    return reply


def advise(server: Server, cache: AnswerCache | None = None, **settings: Any) -> tuple[Any, list[str]]:
    teacher = RemoteTeacher(f"openai:model@{server.url}", TeacherConfig(**{"deadline": 20.0} | settings), cache)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (advice,) = teacher.advise([SITUATION])
        teacher.advise([Situation("Mission: wait.", SITUATION.options)])
    return advice, [str(entry.message) for entry in caught if issubclass(entry.category, Note)]
