"""An LLM's server on a socket, for tests: it answers well, or in whatever way a test wants."""

from __future__ import annotations

import json
import re
import socketserver
import threading
from collections.abc import Callable
from typing import Any

import numpy as np


def completion(text: str = "2", **more: Any) -> bytes:
    """A good reply: nine to one for the second option listed first, whatever is listed."""
    top = [{"token": "1", "logprob": np.log(0.1)}, {"token": "2", "logprob": np.log(0.9)}]
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": {"content": [{"top_logprobs": top}]}}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 40, "completion_tokens": 1}} | more).encode()


def http(body: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {size}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


GOOD = http(completion())


class Server(socketserver.ThreadingTCPServer):
    """Answers every request with what `reply` sends; keeps the requests."""

    daemon_threads = allow_reuse_address = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Callable[[Handler], None] = lambda handler: handler.send(GOOD)
        self.requests: list[bytes] = []
        self.over = threading.Event()
        threading.Thread(target=lambda: self.serve_forever(0.02), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def stop(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client gave up: that is what is tested."""


class Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        length = next(int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length"))
        self.server.requests.append(head + self.rfile.read(length))
        self.server.reply(self)

    def send(self, data: bytes) -> None:
        self.wfile.write(data)


def hang(handler: Handler) -> None:
    """No answer, for longer than anybody waits."""
    handler.server.over.wait(10)


def prefer(handler: Handler) -> None:
    """Nine to one for the option that comes first in the alphabet: an answer that hangs on the question alone."""
    asked = json.loads(handler.server.requests[-1].split(b"\r\n\r\n", 1)[1])["messages"][-1]["content"]
    listed = re.findall(r"^(\w+)[.)] (.*)$", asked, flags=re.MULTILINE)
    best = min(listed, key=lambda entry: entry[1])[0]
    top = [{"token": label, "logprob": np.log(0.9 if label == best else 0.1)} for label, _ in listed]
    handler.send(http(completion(choices=[{"message": {"content": best}, "logprobs": {"content": [{"top_logprobs": top}]}}])))
