"""The connection to an OpenAI-compatible server: chat-completion parameters in, the reply's body or a `CallError` out.

The `openai` client makes the calls, with its own retries. It runs in an event loop on a thread of its own, so that many
calls can be under way while the caller does something else, and a call can be cancelled at its deadline however slowly the
server sends. The API key is read from the environment and removed from every message.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from coteach.errors import CoteachError
from coteach.teacher.remote import failures
from coteach.teacher.remote.failures import KEY, Failed

T = TypeVar("T")

RETRIES = 2
"""Retries of the client, within a call's deadline: after lost connections, 408, 409, 429 (with Retry-After) and 5xx."""

_NO_KEY = "none"  # local servers need no key, but the client does
_PATH = "/chat/completions"
_MOVED = (301, 302, 303)
"""Redirections after which a client sends no question, only a GET."""

_responses: ContextVar[list[Any]] = ContextVar("_responses")
"""All responses of the call under way: those that the client retries or follows, too."""


class Endpoint:
    """One model on one server. deadline: most seconds for a call, retries included."""

    def __init__(self, model: str, url: str, deadline: float) -> None:
        self.model, self.url, self.deadline = model, url, deadline
        self._key = os.environ.get(KEY, "").strip()
        self._client = _client(url, self._key or _NO_KEY, deadline)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name=f"coteach {url}", daemon=True).start()
        weakref.finalize(self, _shut_down, self._loop, self._client).atexit = False

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start `work` in the event loop and return its future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end and return its result; an interrupt cancels it."""
        future = self.begin(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def post(self, body: dict[str, Any]) -> bytes:
        """Return the raw body of the reply to a chat completion. Raises `Failed`, `Missing`, `Refused` or `Denied`."""
        import openai

        responses: list[Any] = []
        _responses.set(responses)
        try:
            async with asyncio.timeout(self.deadline):
                raw = await self._client.chat.completions.with_raw_response.create(model=self.model, **body)
                content = bytes(raw.http_response.content)
        except Exception as error:  # anything that can happen on a network
            raise self._moved(responses) or self._error(error, responses, openai) from None
        if error_inside := self._moved(responses) or failures.of_body(content, self.clean):
            raise error_inside
        return content

    def _error(self, error: Exception, responses: list[Any], openai: Any) -> Exception:
        """Return what went wrong, from what the client raised and the responses that it has got."""
        if isinstance(error, (TimeoutError, openai.APITimeoutError)):
            if not responses or responses[-1].status_code < 400:
                way_out = "raise teacher.deadline, ask a faster server, or correct the url"
                return Failed(f"no answer within {self.deadline:g} s", way_out)
            status = responses[-1].status_code  # the client waited to ask again
            return failures.of_status(status, f"the same answer for {self.deadline:g} s", self.clean)
        if isinstance(error, openai.APIStatusError):
            return failures.of_status(error.status_code, failures.words(error.response.content), self.clean)
        if isinstance(error, openai.APIConnectionError):
            return failures.of_connection(error, self.clean)
        return Failed(self.clean(error.__cause__ or error), "correct the url, the key or teacher.extra_body")  # as headers

    def _moved(self, responses: list[Any]) -> Failed | None:
        """Return the error for a server that is at another url; None if it is not."""
        to = next((answer.headers.get("location") for answer in responses if answer.status_code in _MOVED), None)
        if not to:
            return None
        url = urlsplit(urljoin(f"{self.url}{_PATH}", to))
        target = self.clean(f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}".removesuffix(_PATH))
        return Failed(f"the server is at {target}", "give this url")

    def clean(self, error: object) -> str:
        """Return the first line of a message without the key, at most 200 characters."""
        text = (str(error).strip().splitlines() or [""])[0]
        if isinstance(error, BaseException):
            text = text or type(error).__name__
        for part in self._key.split():  # an error message shows a key with a line break in parts
            text = text.replace(part, "***")
        return text[:200]


def parse(spec: str) -> tuple[str, str]:
    """Split `openai:<model>@<base url>` into model and base url. Raises `CoteachError` if it has another form."""
    model, at, address = spec.removeprefix("openai:").partition("@http")
    url = f"http{address}".rstrip("/").removesuffix(_PATH).rstrip("/")
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        whole = False
    if whole and ("@" in parts.netloc or parts.query):
        # The spec is written into the run folder.
        raise CoteachError(f"teacher 'openai:{model}@...': its url contains a name, a key or a query; give the key as ${KEY}")
    if not (model and at and whole):
        raise CoteachError(f"teacher {spec!r}: expected openai:<model>@<base url>, as openai:qwen3@http://127.0.0.1:8080/v1")
    return model, url


def _client(url: str, key: str, deadline: float) -> Any:
    try:
        import openai
    except ImportError:
        raise CoteachError("teacher 'openai:...': the client is not installed; run: pip install 'coteach[remote]'") from None

    async def keep(response: Any) -> None:
        _responses.get([]).append(response)

    client = openai.DefaultAsyncHttpxClient(timeout=deadline, event_hooks={"response": [keep]})
    return openai.AsyncOpenAI(base_url=url, api_key=key, timeout=deadline, max_retries=RETRIES, http_client=client)


def _shut_down(loop: asyncio.AbstractEventLoop, client: Any) -> None:
    """Close the connections, then stop their event loop."""

    async def close() -> None:
        with contextlib.suppress(Exception):
            await client.close()
        loop.stop()

    asyncio.run_coroutine_threadsafe(close(), loop)
