"""Train with any LLM on an OpenAI-compatible server as the teacher.

    python examples/own_llm.py                                            # its own server with SmolLM2, about a minute
    python examples/own_llm.py openai:qwen3@http://127.0.0.1:8080/v1      # yours: vLLM, Ollama, llama.cpp, a hosted one

It needs `pip install 'coteach[remote]'` and, if no server is named, xllamacpp (llama.cpp with its server, as a wheel). The
server's key is read from OPENAI_API_KEY. The run is in runs/own-llm; its calls.jsonl has a line for every call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from coteach.commands import cli
from coteach.runs.machine import cores
from coteach.teacher.local.embedded import source

TRAIN = ["train", "--task", "MiniGrid-UnlockPickup-v0", "--steps", "20000", "--out", "runs/own-llm", "episodes=20"]


@contextmanager
def serving(**settings: Any) -> Iterator[str]:
    """Serve the model that comes with coteach on this machine; yield the base URL. settings: of xllamacpp's CommonParams."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(source())
    params.n_parallel, params.n_ctx, params.verbosity = 2, 8192, -1
    for threads in (params.cpuparams, params.cpuparams_batch):  # half of the cores: the student needs the others
        threads.n_threads, threads.poll = max(cores() // 2, 1), 0
    for name, value in settings.items():
        setattr(params, name, value)
    server = xllamacpp.Server(params)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server  # this stops it


def main() -> int:
    """Train a short rung; the last lines show the LLM's usage. When `--budget` is used up, training goes on without queries."""
    if len(sys.argv) > 1:
        return cli.main([*TRAIN, "--teacher", sys.argv[1], "--budget", "200000tokens"])
    with serving() as url:
        return cli.main([*TRAIN, "--teacher", f"openai:smollm2@{url}", "--budget", "200000tokens"])


if __name__ == "__main__":
    raise SystemExit(main())
