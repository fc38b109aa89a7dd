"""What a server or the network says when there is no reply: one line with the way out that fits."""

from __future__ import annotations

import ssl

import numpy as np
import pytest

pytest.importorskip("openai", reason="the extra `remote` is not installed")

from coteach.errors import CoteachError
from coteach.teacher.remote.endpoint import parse
from coteach.teacher.remote.failures import of_connection
from llm_server import Handler, Server, http
from server_habits import HABITS, RIGHT, SITUATION, advise, behaving


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("429 Too Many Requests", "the server limits calls: wait, lower teacher.concurrency"),
        ("503 Service Unavailable", "look at what the server logs"),
        ("401 Unauthorized", "set the environment variable OPENAI_API_KEY"),
        ("402 Payment Required", "look at your balance there"),
        ("403 Forbidden", "HTTP 403: no; this key, if any, may not do that"),
        ("404 Not Found", "HTTP 404: no; no such model there, or the url lacks its /v1"),
        ("405 Method Not Allowed", "correct the url"),
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


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "slow down", "code": 429}}', "HTTP 429: slow down; the server limits calls"),
        (b'{"error": "model is not loaded"}', "an error for a reply: model is not loaded; look at what the server logs"),
        (b'{"object": "error", "message": "busy", "code": 40303}', "an error for a reply: busy; look at"),
        (b'{"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "down"}}]}', "HTTP 502: down; look at"),
        (b'{"choices": []}', "without text.*; look at what the server logs"),
        (b'data: {"choices": []}', "switch streaming off"),
        (b"<!doctype html>", "is this the url of an OpenAI-compatible server"),
    ],
)
def test_an_error_with_status_200_is_an_error_with_its_way_out(body: bytes, message: str, server: Server) -> None:
    server.reply = lambda handler: handler.send(http(body))
    with pytest.raises(CoteachError, match=message):
        advise(server)


def test_a_server_that_moved_names_its_new_url(server: Server) -> None:
    moved = "Location: https://user:secret@elsewhere.test/v1/chat/completions"
    server.reply = lambda handler: handler.send(http(b"", "301 Moved Permanently", moved))
    with pytest.raises(CoteachError, match="the server is at https://elsewhere.test/v1; give this url") as error:
        advise(server)
    assert "secret" not in str(error.value)


def test_a_limit_that_outlasts_the_deadline_is_named(server: Server) -> None:
    server.reply = lambda handler: handler.send(http(b"{}", "429 Too Many Requests", "Retry-After: 30"))
    with pytest.raises(CoteachError, match="HTTP 429.*the server limits calls"):
        advise(server, deadline=0.5)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"), "SSL_CERT_FILE"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "http:// instead of https://"),
        (ConnectionRefusedError(111, "Connection refused"), "start a server there"),
    ],
)
def test_the_way_out_fits_the_connection(error: OSError, message: str) -> None:
    outer = ConnectionError("Connection error.")
    outer.__cause__ = error
    failed = of_connection(outer, str)
    assert message in failed.way_out and str(failed) == str(error)


@pytest.mark.parametrize("ending", ["", "/", "/chat/completions", "/chat/completions/"])
def test_the_url_may_end_in_the_path_of_the_calls(ending: str) -> None:
    assert parse(f"openai:qwen3@http://127.0.0.1:8080/v1{ending}") == ("qwen3", "http://127.0.0.1:8080/v1")
