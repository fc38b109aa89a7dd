"""What can go wrong with a call of a server: four errors, each with the way out that fits what the server or the network said.

Made from an HTTP status, from an error inside a body of status 200, or from the exception of a connection.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable
from typing import Any

KEY = "OPENAI_API_KEY"

_LOGS = "look at what the server logs"
_URL = "correct the url, which ends in /v1 as a rule"
_WAYS_OUT = {
    402: "look at your balance there",
    405: _URL,
    410: "choose another model or url",
    429: "the server limits calls: wait, lower teacher.concurrency, or look at your quota there",
    503: f"wait if it still loads its model, or {_LOGS}",
}
"""By HTTP status; `_LOGS` for all others."""

_REFUSED = (400, 413, 422)
_WRONG_KEY = re.compile(
    r"(in|not )?valid api[ _-]?key|api[ _-]?key.{0,40}(valid|incorrect|missing|required|expired)", re.IGNORECASE
)


class CallError(Exception):
    """A call without a reply. way_out: what the user can do. status: of HTTP, 0 if there was none. said: the server's words."""

    def __init__(self, message: str, way_out: str = "", status: int = 0, said: str = "") -> None:
        super().__init__(message)
        self.way_out, self.status, self.said = way_out, status, said


class Failed(CallError):
    """There was no reply; a later call may get one."""


class Refused(CallError):
    """The server rejects this question in this form (HTTP 400, 413 or 422)."""


class Denied(CallError):
    """The server rejects the key (HTTP 401 or 403); asking again is useless."""


class Missing(Failed):
    """The server does not have this model, or nothing at this address (HTTP 404)."""


def of_status(status: int, said: str, clean: Callable[[object], str]) -> CallError:
    """Return the error for an HTTP status. said: what the server said; clean: makes a line of it, without the key."""
    message = f"HTTP {status}: {clean(said)}" if said else f"HTTP {status}"
    if status == 401 or (status == 400 and _WRONG_KEY.search(said)):
        wanted = f"the server wants a key, or another one; set the environment variable {KEY}"
        return Denied(f"HTTP {status}", wanted, status, said)  # without its words, which may show a part of the key
    if status == 403:
        return Denied(message, f"this key, if any, may not do that; look at your account there, or set {KEY}", status, said)
    if status == 404:
        return Missing(message, "no such model there, or the url lacks its /v1", status, said)
    if status in _REFUSED:
        return Refused(message, "", status, said)
    return Failed(message, _WAYS_OUT.get(status, _LOGS), status, said)


def of_connection(error: BaseException, clean: Callable[[object], str]) -> Failed:
    """Return the error for a connection that was not made or was lost."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    message = clean(error.__cause__ or error)
    if "CERTIFICATE_VERIFY_FAILED" in message or any(isinstance(link, ssl.SSLCertVerificationError) for link in chain):
        return Failed(message, "its certificate is not trusted; name the file of its authority in SSL_CERT_FILE")
    if any(isinstance(link, ssl.SSLError) for link in chain) or "SSL" in message:
        return Failed(message, "the server does not speak TLS in this way; is its url http:// instead of https://?")
    names = {type(link).__name__ for link in chain}
    if "ProxyError" in names:
        return Failed(message, "look at HTTP_PROXY and HTTPS_PROXY, or except the server in NO_PROXY")
    if names & {"RemoteProtocolError", "ReadError", "WriteError"}:
        return Failed(message, f"the connection was closed: {_LOGS}, or correct the url (https:// or http://)")
    return Failed(message, "start a server there (as `llama-server -m MODEL.gguf --port 8080`), or correct the url")


def of_body(body: bytes, clean: Callable[[object], str]) -> CallError | None:
    """Return the error that a body of status 200 holds in place of a reply; None if it holds none."""
    try:
        data = json.loads(body) if b'"error"' in body else None
        choices = data["choices"] if data and data.get("choices") else []
        found = next((entry for entry in choices if entry.get("error")), None) if choices else data
        error = found and (found.get("error") or (found.get("object") == "error" and found))
    except (ValueError, RecursionError, TypeError, AttributeError):
        return None
    if not error:
        return None
    numbers = [str(error.get(name)) for name in ("code", "status")] if isinstance(error, dict) else []
    status = next((int(number) for number in numbers if re.fullmatch("[45][0-9][0-9]", number)), 0)
    text = words(json.dumps({"error": error}).encode())
    return of_status(status, text, clean) if status else Failed(f"an error for a reply: {clean(text)}", _LOGS, said=text)


def words(body: bytes) -> str:
    """Return what the body of an error says, in one line: its message, or its beginning; empty for a web page."""
    text = body.decode("utf-8", errors="replace").strip()
    try:
        data: Any = json.loads(text)
        while isinstance(data, dict):
            data = next((data[name] for name in ("error", "message", "detail", "msg") if data.get(name)), json.dumps(data))
        text = data if isinstance(data, str) else json.dumps(data)
    except (ValueError, RecursionError):
        pass
    return "" if text.startswith("<") or text in ("{}", "[]", "null") else " ".join(text.split())
