"""An OpenAI-compatible server: a question goes there, the body of its reply comes back, or one of four kinds of failure.

The `openai` client does the talking, with its own retries. It runs in an event loop on a thread of its own, so that many
questions are under way at once whatever the caller is doing, and so that a call can be given up when its time is over,
however slowly the server drips. The key is read from the environment and is struck out of every message.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import urlsplit

from coteach.errors import CoteachError

T = TypeVar("T")

KEY = "OPENAI_API_KEY"

RETRIES = 2
"""Of the client, within a call's deadline: for lost connections, 408, 409, 429 (with Retry-After) and 5xx."""

_NO_KEY = "none"  # local servers want none, the client wants one
_REFUSED = (400, 413, 422)


class Failed(Exception):
    """No reply now: later there may be one."""


class Refused(Exception):
    """The server is there, but will not answer this question in this form."""


class Denied(Exception):
    """The server does not let us in: asking again is of no use."""


class Missing(Failed):
    """The server does not have this model, or nothing at this address."""


class Endpoint:
    """One model on one server. deadline: seconds that a call may take, retries included."""

    def __init__(self, model: str, url: str, deadline: float) -> None:
        self.model, self.url, self.deadline = model, url, deadline
        self._key = os.environ.get(KEY, "").strip()
        self._client = _client(url, self._key or _NO_KEY, deadline)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name=f"coteach {url}", daemon=True).start()
        weakref.finalize(self, _leave, self._loop, self._client).atexit = False

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` meanwhile; what becomes of it is in the future, and nobody need ask."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end; an interrupt ends it."""
        future = self.begin(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def post(self, body: dict[str, Any]) -> bytes:
        """The reply to a chat completion's parameters, unread; raises `Failed`, `Missing`, `Refused` or `Denied`."""
        import openai

        try:
            async with asyncio.timeout(self.deadline):
                raw = await self._client.chat.completions.with_raw_response.create(model=self.model, **body)
                return bytes(raw.http_response.content)
        except TimeoutError:
            raise Failed(f"no answer within {self.deadline:g} s") from None
        except openai.APIStatusError as error:
            raise self._refusal(error.status_code, str(error)) from None
        except openai.APITimeoutError:
            raise Failed(f"no answer within {self.deadline:g} s") from None
        except Exception as error:  # connection lost, a name not found, headers that are none: anything the network does
            raise Failed(self.clean(error.__cause__ or error)) from None

    def _refusal(self, status: int, message: str) -> Exception:
        if status in (401, 403):
            return Denied(f"HTTP {status}")
        if status == 404:
            return Missing("HTTP 404")
        return (Refused if status in _REFUSED else Failed)(f"HTTP {status}: {self.clean(message)}")

    def clean(self, error: object) -> str:
        """The first line of a message, short, and without the key."""
        text = (str(error).strip().splitlines() or [""])[0]
        if isinstance(error, BaseException):
            text = text or type(error).__name__
        for part in self._key.split():  # a key with a line break in it is refused, and shown, in parts
            text = text.replace(part, "***")
        return text[:200]


def parse(spec: str) -> tuple[str, str]:
    """`openai:<model>@<base url>` -> model and base url; raises `CoteachError` where it is not of that form."""
    model, at, address = spec.removeprefix("openai:").partition("@http")
    url = f"http{address}".rstrip("/")
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        whole = False
    if whole and ("@" in parts.netloc or parts.query):
        # It would be written into the run folder.
        raise CoteachError(f"teacher 'openai:{model}@...': its url contains a name, a key or a query; give the key as ${KEY}")
    if not (model and at and whole):
        raise CoteachError(f"teacher {spec!r}: expected openai:<model>@<base url>, as openai:qwen3@http://127.0.0.1:8080/v1")
    return model, url


def _client(url: str, key: str, deadline: float) -> Any:
    try:
        import openai
    except ImportError:
        raise CoteachError("teacher 'openai:...': the client is not installed; run: pip install 'coteach[remote]'") from None
    return openai.AsyncOpenAI(base_url=url, api_key=key, timeout=deadline, max_retries=RETRIES)


def _leave(loop: asyncio.AbstractEventLoop, client: Any) -> None:
    """Close the connections, then the loop that they belong to."""

    async def close() -> None:
        with contextlib.suppress(Exception):
            await client.close()
        loop.stop()

    asyncio.run_coroutine_threadsafe(close(), loop)
