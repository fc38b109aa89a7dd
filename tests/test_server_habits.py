"""Servers of many habits: the advice is right, or uniform with a note that says why; a thought is never read as an answer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openai", reason="the extra `remote` is not installed")

from coteach.config import Config, TeacherConfig
from coteach.errors import CoteachError, Note
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


def needs_new_limit(asked: dict[str, Any]) -> tuple[str, str] | None:
    if "max_tokens" in asked:
        return "400 Bad Request", "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    return None


PLAIN = "Okay, the user wants me to explore or to drop the key. Option 1 is explore. Hmm. " * 30
TAGGED = "<think>\n" + PLAIN
HARMONY = "<|channel|>analysis<|message|>" + PLAIN
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
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
    "endless thoughts inline": Habit(thinking(TAGGED, needs=10**6), note=STILL),
    "endless thoughts parsed": Habit(thinking(PLAIN, needs=10**6, parsed=True), note=STILL),
    "endless thoughts without an opening tag": Habit(thinking(PLAIN, needs=10**6), note=STILL),
    "endless thoughts in channels": Habit(thinking(HARMONY, needs=10**6), note=STILL),
    "empty content": Habit(lambda label, asked: choice(None), note="uniform so far, because its replies name no option"),
    "chatter": Habit(lambda label, asked: choice("I am glad you ask!"), note="name no option (the last one: 'I am glad you"),
}  # fmt: skip
"""Name -> habit. A new one is one line."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


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


@pytest.mark.parametrize("name", list(HABITS))
def test_a_server_of_any_habit_gives_the_right_advice_or_says_why_not(name: str, server: Server) -> None:
    habit = HABITS[name]
    server.reply = behaving(habit)
    advice, notes = advise(server, **habit.settings)
    if habit.note:
        np.testing.assert_allclose(advice, 1 / 3, atol=1e-6)
        assert len(notes) == 1 and habit.note in notes[0]
    else:
        assert SITUATION.options[int(np.argmax(advice))] == RIGHT and advice.max() > 0.5 and not notes


def test_further_parameters_are_sent_with_every_call_and_are_part_of_the_key(server: Server) -> None:
    server.reply = behaving(HABITS["20 alternatives"])
    cache = AnswerCache(None)
    for extra in ("", '{"top_k": 20, "chat_template_kwargs": {"enable_thinking": true}}'):
        before = len(server.requests)
        advise(server, cache, extra_body=extra)
        sent = [json.loads(request.split(b"\r\n\r\n", 1)[1]) for request in server.requests[before:]]
        assert sent and all(body.get("top_k") == (20 if extra else None) for body in sent)


@pytest.mark.parametrize("wrong", ["top_k=20", "[1]", "{"])
def test_further_parameters_that_are_no_object_are_refused(wrong: str) -> None:
    with pytest.raises(CoteachError, match="teacher.extra_body=.*expected a JSON object"):
        Config(teacher=TeacherConfig(extra_body=wrong))


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("429 Too Many Requests", "the server limits calls: wait, lower teacher.concurrency"),
        ("503 Service Unavailable", "look at what the server logs"),
        ("401 Unauthorized", "set the environment variable OPENAI_API_KEY"),
        ("404 Not Found", "no such model there, or the url lacks its /v1"),
    ],
)
@pytest.mark.slow
def test_the_way_out_fits_what_went_wrong(status: str, message: str, server: Server) -> None:
    server.reply = lambda handler: handler.send(http(b'{"error": {"message": "no"}}', status, "Retry-After: 0"))
    with pytest.raises(CoteachError) as error:
        advise(server)
    assert message in str(error.value) and "start a server" not in str(error.value)


def test_a_server_that_is_not_there_is_to_be_started(server: Server) -> None:
    server.stop()
    with pytest.raises(CoteachError, match="start a server there"):
        advise(server, deadline=5.0)


@pytest.mark.parametrize("retry_after", ["Retry-After: 0", ""])
def test_a_limit_of_calls_is_waited_for(retry_after: str, server: Server) -> None:
    good, refusals = behaving(HABITS["20 alternatives"]), iter([True])

    def reply(handler: Handler) -> None:
        if next(refusals, False):
            handler.send(http(b"{}", "429 Too Many Requests", *filter(None, [retry_after])))
        else:
            good(handler)

    server.reply = reply
    advice, notes = advise(server)
    assert SITUATION.options[int(np.argmax(advice))] == RIGHT and not notes
