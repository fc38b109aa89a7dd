"""Makes calls of a server: within the budget, a few at a time, behind a circuit breaker; every call is recorded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from coteach.config import TeacherConfig
from coteach.teacher.costs import Call, Usage
from coteach.teacher.remote import replies
from coteach.teacher.remote.circuit_breaker import CircuitBreaker
from coteach.teacher.remote.endpoint import Endpoint
from coteach.teacher.remote.failures import Denied, Failed, Refused

CHARACTERS = 4
"""Characters per token, where the server does not count tokens."""

Messages = list[dict[str, str]]
Unreadable = Callable[[replies.Reply], str]
"""Returns the text of a reply that names no option, and an empty text for any other reply."""


class Withheld(Exception):
    """The call was not made: the budget is used up, or the server counts as dead."""


class Caller:
    """Calls one endpoint and records what the calls cost in `usage`."""

    def __init__(self, endpoint: Endpoint, config: TeacherConfig) -> None:
        self.endpoint, self.config = endpoint, config
        self.usage, self.breaker = Usage(), CircuitBreaker()
        self._slots = asyncio.Semaphore(config.concurrency)

    async def post(self, messages: Messages, unreadable: Unreadable, **parameters: Any) -> replies.Reply:
        """Make one call, and a second one if the body is not a chat completion.

        Raises `Withheld` if no call is made, `Failed`, `Missing`, `Refused` or `Denied` if there is no reply.
        """
        async with self._slots:
            try:
                return await self._call(messages, unreadable, parameters)
            except replies.Malformed:
                pass
            try:
                return await self._call(messages, unreadable, parameters)
            except replies.Malformed as error:
                raise Failed(str(error), error.way_out) from None

    async def _call(self, messages: Messages, unreadable: Unreadable, parameters: dict[str, Any]) -> replies.Reply:
        if self.usage.reached(self.config.budget_tokens, self.config.budget_money) or not self.breaker.allows_call():
            raise Withheld
        began = time.perf_counter()
        try:
            sent = parameters | parameters.get("extra_body", {})
            most = sent.get("max_completion_tokens") or sent.get("max_tokens")
            reply = replies.read_reply(
                await self.endpoint.post({"messages": messages, **parameters}), most if isinstance(most, int) else None
            )
        except Refused as error:
            self.usage.record(Call("refused", 1, seconds=time.perf_counter() - began, detail=str(error)))
            raise
        except (Failed, Denied, replies.Malformed) as error:
            self.breaker.record_failure()
            self.usage.record(Call("failed", 1, seconds=time.perf_counter() - began, detail=str(error)))
            raise
        self.breaker.record_success()
        tokens_in, tokens_out = reply.tokens or _estimate(messages, reply)
        money = (tokens_in * self.config.price_in + tokens_out * self.config.price_out) / 1e6
        text = unreadable(reply)
        outcome, seconds = "unreadable" if text else "ok", time.perf_counter() - began
        self.usage.record(Call(outcome, 1, tokens_in, tokens_out, seconds, money, self.endpoint.clean(text)))
        return reply


def _estimate(messages: Messages, reply: replies.Reply) -> tuple[int, int]:
    """Estimate the tokens in and out from the length of the texts, so that a budget works if the server does not count."""
    characters_in, characters_out = sum(len(message["content"]) for message in messages), sum(map(len, reply.texts))
    return -(-characters_in // CHARACTERS), -(-characters_out // CHARACTERS)
