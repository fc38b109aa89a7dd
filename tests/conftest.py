"""Settings of all tests: a process has one thread, examples are the same in every run, the user's cache is left alone."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from coteach.runs.machine import cache_folder
from llm_server import Server

settings.register_profile("coteach", derandomize=True, database=None, deadline=None, max_examples=40)
settings.load_profile("coteach")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Answers are kept where no other run finds them; the default LLM is converted once for all, in the user's own cache."""
    converted, folder = cache_folder() / "models", tmp_path_factory.mktemp("cache")
    converted.mkdir(parents=True, exist_ok=True)
    (folder / "models").symlink_to(converted.resolve())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COTEACH_CACHE", str(folder))
        yield


@pytest.fixture
def server() -> Iterator[Server]:
    """An LLM's server on a socket; set its `reply`."""
    made = Server()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A run sets how many threads PyTorch has in its process: the next test has one again."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
