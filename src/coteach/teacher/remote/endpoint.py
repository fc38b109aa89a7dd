"""The connection to an OpenAI-compatible server: chat-completion parameters in, the reply's body or one of four errors out.

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
from typing import Any, TypeVar
from urllib.parse import urlsplit

from coteach.errors import CoteachError

T = TypeVar("T")

KEY = "OPENAI_API_KEY"

RETRIES = 2
"""Retries of the client, within a call's deadline: after lost connections, 408, 409, 429 (with Retry-After) and 5xx."""

_NO_KEY = "none"  # local servers need no key, but the client does
_REFUSED = (400, 413, 422)


class Failed(Exception):
    """There was no reply; a later call may get one. way_out: what the user can do."""

    def __init__(self, message: str, way_out: str = "") -> None:
        super().__init__(message)
        self.way_out = way_out


class Refused(Exception):
    """The server rejects this question in this form (HTTP 400, 413 or 422)."""


class Denied(Exception):
    """The server rejects the key (HTTP 401 or 403); asking again is useless."""


class Missing(Failed):
    """The server does not have this model, or nothing at this address (HTTP 404)."""


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

        try:
            async with asyncio.timeout(self.deadline):
                raw = await self._client.chat.completions.with_raw_response.create(model=self.model, **body)
                return bytes(raw.http_response.content)
        except (TimeoutError, openai.APITimeoutError):
            raise Failed(f"no answer within {self.deadline:g} s", "raise teacher.deadline, or ask a faster server") from None
        except openai.APIStatusError as error:
            raise self._refusal(error.status_code, str(error)) from None
        except openai.APIConnectionError as error:
            way_out = "start a server there (as `llama-server -m MODEL.gguf --port 8080`), or correct the url"
            raise Failed(self.clean(error.__cause__ or error), way_out) from None
        except Exception as error:  # connection lost, host not found, invalid headers: anything that can happen on a network
            raise Failed(self.clean(error.__cause__ or error), "correct the url or the key") from None

    def _refusal(self, status: int, message: str) -> Exception:
        if status in (401, 403):
            return Denied(f"HTTP {status}")
        if status == 404:
            return Missing("HTTP 404")
        said = f"HTTP {status}: {self.clean(message)}"
        if status in _REFUSED:
            return Refused(said)
        limited = "the server limits calls: wait, lower teacher.concurrency, or look at your quota there"
        return Failed(said, limited if status == 429 else "look at what the server logs")

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
    url = f"http{address}".rstrip("/")
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
    return openai.AsyncOpenAI(base_url=url, api_key=key, timeout=deadline, max_retries=RETRIES)


def _shut_down(loop: asyncio.AbstractEventLoop, client: Any) -> None:
    """Close the connections, then stop their event loop."""

    async def close() -> None:
        with contextlib.suppress(Exception):
            await client.close()
        loop.stop()

    asyncio.run_coroutine_threadsafe(close(), loop)
