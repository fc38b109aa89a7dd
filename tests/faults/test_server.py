"""An LLM's server may do anything: the run goes on with the advice it has, and `usage` says what happened.

The server here is a real one on a socket, which answers well, and then in each of the ways in which servers fail.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openai", reason="the extra `remote` is not installed")

from coteach.config import TeacherConfig
from coteach.errors import CoteachError, RunFailed
from coteach.grounding.base import Situation
from coteach.teacher.remote.circuit_breaker import FAILURES, PAUSE, CircuitBreaker
from coteach.teacher.remote.option_scores import RequestMode
from coteach.teacher.remote.teacher import RemoteTeacher
from llm_server import GOOD, Handler, Server, completion, hang, http

pytestmark = pytest.mark.slow

KEY = "sk-this-is-secret-0123456789"
DEADLINE = 1.0
OPTIONS = ("explore", "open the door")


def until(happened: Callable[[], bool]) -> None:
    """Wait for it; a test that hangs fails here."""
    for _ in range(6000):
        if happened():
            return
        time.sleep(0.01)
    pytest.fail("it never happened")


def situation(number: int) -> Situation:
    return Situation(f"You see {number} doors.", OPTIONS)


def drip(handler: Handler) -> None:
    """A byte at a time: every single one comes in good time, the whole never does."""
    for place in range(len(GOOD)):
        if handler.server.over.wait(0.1):
            return
        handler.send(GOOD[place : place + 1])


def reset(handler: Handler) -> None:
    handler.request.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER of no seconds: RST instead of FIN
    handler.request.close()


SEND = {
    "hangs": hang,
    "drips": drip,
    "resets": reset,
    "429": lambda handler: handler.send(http(b"{}", "429 Too Many Requests", "Retry-After: 30")),
    "500": lambda handler: handler.send(http(b"oops", "500 Internal Server Error")),
    "empty": lambda handler: handler.send(http(b"")),
    "truncated": lambda handler: handler.send(http(completion()[:50], length=500)),
    "not UTF-8": lambda handler: handler.send(http(b'{"choices": "\xff\xfe\xfa"}')),
    "wrong schema": lambda handler: handler.send(http(b'{"choices": {"message": [1, null]}}')),
    "a web page": lambda handler: handler.send(http(b"<!doctype html><p>hello")),
}
NEVER_ENDING = {
    "hangs": f"no answer within {DEADLINE:g} s",
    "drips": f"no answer within {DEADLINE:g} s",
    "429": f"HTTP 429: the same answer for {DEADLINE:g} s",
}
"""Only the deadline ends a call that fails in one of these ways; the server asks to be left alone for 30 s in the last."""


def teacher(url: str, **settings: Any) -> RemoteTeacher:
    return RemoteTeacher(f"openai:some-model@{url}", TeacherConfig(**{"deadline": DEADLINE} | settings))


@pytest.mark.parametrize("failure", SEND)
def test_a_server_that_fails_is_survived_and_asked_again(failure: str, server: Server) -> None:
    asked = teacher(server.url)
    asked.advise([situation(0)])
    server.reply = SEND[failure]
    assert asked.advise([situation(1), situation(2)]) == [None, None]
    assert asked.usage.failures >= 2 and asked.usage.unanswered == 2 and asked.usage.queries == 1
    failed = {call.detail for call in asked.usage.journal if call.outcome == "failed"}
    assert all(failed) and (failure not in NEVER_ENDING or failed == {NEVER_ENDING[failure]})
    server.reply = lambda handler: handler.send(GOOD)
    asked.caller.breaker.record_success()
    assert asked.advise([situation(1)])[0] is not None, "what had no answer is asked about again"


@pytest.mark.parametrize("failure", [*SEND, "401"])
def test_a_server_that_fails_at_the_very_start_is_wrong_use_named_in_one_line(failure: str, server: Server) -> None:
    server.reply = SEND.get(failure, lambda handler: handler.send(http(b"{}", "401 Unauthorized")))
    with pytest.raises(CoteachError) as caught:
        teacher(server.url).advise([situation(0)])
    said = str(caught.value)
    assert server.url in said and "\n" not in said and not isinstance(caught.value, RunFailed)
    assert ("OPENAI_API_KEY" in said) == (failure == "401")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1"])
def test_a_server_that_is_not_there_is_named_with_the_way_out(url: str) -> None:
    with pytest.raises(CoteachError, match="start a server there"):
        teacher(url, deadline=10.0).advise([situation(0)])


@pytest.mark.parametrize("gone", ["refused", "name not found"])
def test_a_server_that_is_gone_is_survived(gone: str, server: Server) -> None:
    asked = teacher(server.url)
    asked.advise([situation(0)])
    server.stop()
    if gone == "name not found":
        asked.endpoint._client.base_url = "http://no-such-host.invalid/v1/"
    assert asked.advise([situation(1), situation(2)]) == [None, None]


def test_a_key_that_is_no_longer_taken_stops_the_run_at_once_with_the_way_out(server: Server) -> None:
    asked = teacher(server.url)
    asked.advise([situation(0)])
    server.requests.clear()
    server.reply = lambda handler: handler.send(http(b"{}", "401 Unauthorized"))
    with pytest.raises(RunFailed, match="set the environment variable OPENAI_API_KEY"):
        asked.advise([situation(1)])
    assert len(server.requests) == 1


def test_too_many_requests_are_tried_again_when_the_server_says(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = teacher(server.url, deadline=20.0)
    asked.advise([situation(0)])
    seen: list[Any] = []

    async def sleep(seconds: float) -> None:
        seen.append(seconds)

    def busy_at_first(handler: Handler) -> None:
        seen.append("asked")
        handler.send(http(b"{}", "429 Too Many Requests", "Retry-After: 7") if len(seen) == 1 else GOOD)

    monkeypatch.setattr("anyio.sleep", sleep)  # with which the client waits
    server.reply = busy_at_first
    assert asked.advise([situation(1)])[0] is not None
    assert seen[:3] == ["asked", 7.0, "asked"] and asked.usage.failures == 0


def test_a_megabyte_is_read_like_any_reply(server: Server) -> None:
    asked = teacher(server.url)
    server.reply = lambda handler: handler.send(http(completion("2" + " and so on" * 100_000)))
    assert asked.advise([situation(0)])[0] is not None
    server.reply = lambda handler: handler.send(
        http(completion("so on " * 170_000, choices=[{"message": {"content": "x " * 500_000}}]))
    )
    np.testing.assert_allclose(asked.advise([situation(1)])[0], [0.5, 0.5])
    assert asked.usage.unreadable > 0 and all(len(call.detail) <= 200 for call in asked.usage.journal)


def test_a_reply_that_names_no_option_is_asked_for_once_more_and_then_counts_as_uniform_advice(server: Server) -> None:
    asked = teacher(server.url, samples=2)
    asked.scorer.mode = RequestMode.SEVERAL
    server.reply = lambda handler: handler.send(http(completion("I would rather not say.")))
    np.testing.assert_allclose(asked.advise([situation(0)])[0], [0.5, 0.5])
    assert len(server.requests) == 2 * 2, "two orders of the options, each asked twice"
    assert asked.usage.unreadable == 4 and asked.usage.failures == 0
    assert {call.detail for call in asked.usage.journal} == {"I would rather not say."}


def test_without_log_probabilities_replies_are_counted_and_every_place_in_the_list_has_its_turn(server: Server) -> None:
    asked = teacher(server.url, samples=6)

    def explore(handler: Handler) -> None:
        listed = handler.server.requests[-1].decode()
        handler.send(http(completion(choices=[{"message": {"content": "1" if "1. explore" in listed else "2"}}])))

    server.reply = explore
    advice = asked.advise([situation(0)])[0]
    assert asked.scorer.mode is RequestMode.SEVERAL
    np.testing.assert_allclose(advice, [3.5 / 4, 0.5 / 4])  # three of three votes in each order, and half a vote
    server.reply = lambda handler: handler.send(http(completion(choices=[{"message": {"content": "1"}}])))
    np.testing.assert_allclose(asked.advise([situation(1)])[0], [0.5, 0.5])  # always the first in the list: no opinion


def test_a_server_that_refuses_parameters_is_asked_without_them(server: Server) -> None:
    def picky(handler: Handler) -> None:
        body = json.loads(handler.server.requests[-1].split(b"\r\n\r\n", 1)[1])
        wrong = [name for name in ("logprobs", "n", "temperature", "max_tokens") if name in body]
        handler.send(http(json.dumps({"error": wrong}).encode(), "400 Bad Request") if wrong else GOOD)

    server.reply = picky
    asked = teacher(server.url)
    assert asked.advise([situation(0)])[0] is not None and asked.scorer.mode is RequestMode.BARE
    refused = asked.usage.failures
    asked.advise([situation(1)])
    assert asked.usage.failures == refused > 0, "what it refuses is found out once"


def test_a_dead_server_is_left_alone_and_asked_once_a_minute(server: Server) -> None:
    now = [0.0]
    asked = teacher(server.url, concurrency=1)
    asked.caller.breaker = CircuitBreaker(lambda: now[0])
    asked.advise([situation(0)])
    server.requests.clear()
    server.reply = SEND["wrong schema"]
    for number in range(1, 8):
        asked.advise([situation(number)])
    assert len(server.requests) == FAILURES
    now[0] += PAUSE - 1
    asked.advise([situation(8)])
    assert len(server.requests) == FAILURES
    now[0] += 1
    failed = asked.usage.failures
    asked.advise([situation(9), situation(10)])
    until(lambda: asked.usage.failures == failed + 1)
    assert len(server.requests) == FAILURES + 1
    now[0] += PAUSE
    server.reply = lambda handler: handler.send(GOOD)
    assert asked.advise([situation(1)]) == [None], "whether it is alive again is found out meanwhile"
    until(lambda: not asked.caller.breaker.is_open)
    assert all(answer is not None for answer in asked.advise([situation(number) for number in range(1, 11)]))


def test_a_server_that_hangs_is_waited_for_by_two_rounds_of_calls_at_most(server: Server) -> None:
    asked = teacher(server.url, concurrency=FAILURES)
    asked.advise([situation(0)])
    server.reply = SEND["hangs"]
    asked.advise([situation(number) for number in range(1, 30)])
    failed = [call.detail for call in asked.usage.journal if call.outcome == "failed"]
    assert set(failed) == {f"no answer within {DEADLINE:g} s"} and asked.caller.breaker.is_open
    assert FAILURES <= len(failed) < 2 * FAILURES, "side by side: those begun before the fifth had failed"


def test_nobody_waits_for_a_dead_server_not_even_for_the_call_of_the_minute(server: Server) -> None:
    """A thousand situations and five calls that never end; what is known is still answered."""
    now = [0.0]
    asked = teacher(server.url, deadline=600.0)  # no call of this test ends by it
    asked.caller.breaker = CircuitBreaker(lambda: now[0])
    asked.advise([situation(0)])
    asked.cache.put_many({asked._key(situation(0)): np.log([0.9, 0.1])})
    server.reply = SEND["wrong schema"]
    asked.advise([situation(number) for number in range(1, 30)])
    assert asked.caller.breaker.is_open
    failures, server.requests[:] = asked.usage.failures, []
    server.reply = lambda handler: handler.server.over.wait() and None
    for minute in range(1, 6):
        now[0] += PAUSE
        for number in range(200):
            assert asked.advise([situation(minute * 1000 + number)]) == [None]
        assert asked.advise([situation(0)])[0] is not None
        until(lambda minute=minute: len(server.requests) == minute)
    assert asked.usage.failures == failures, "all of them are still under way"


def test_the_key_is_in_no_message_whatever_the_server_sends_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    asked = teacher(server.url)
    server.reply = lambda handler: handler.send(
        http(json.dumps({"error": {"message": f"bad {KEY}"}}).encode(), "400 Bad Request")
    )
    with pytest.raises(CoteachError) as caught:
        asked.advise([situation(0)])
    assert KEY.encode() in server.requests[0]
    assert "***" in str(caught.value) and KEY not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert all(KEY not in call.detail for call in asked.usage.journal)


def test_a_key_that_cannot_be_sent_is_not_told_either(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nX")
    with pytest.raises(CoteachError) as caught:
        teacher(server.url).advise([situation(0)])
    assert KEY not in str(caught.value)


def test_a_budget_is_passed_by_no_more_than_the_calls_under_way(server: Server) -> None:
    asked = teacher(server.url, budget_tokens=500, concurrency=4)
    for first in range(0, 40, 8):
        asked.advise([situation(number) for number in range(first, first + 8)])
    assert 500 <= asked.usage.tokens < 500 + 4 * 41
    assert asked.usage.tokens == 41 * len(server.requests) and asked.usage.unanswered > 0
    paid = teacher(server.url, budget_money=0.001, price_in=10.0, price_out=100.0, concurrency=1)
    paid.advise([situation(number) for number in range(8)])
    assert paid.usage.money == pytest.approx(0.001) and paid.usage.calls == 2  # 40 tokens in and one out are 0.0005
