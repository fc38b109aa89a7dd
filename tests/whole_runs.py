"""Whole small runs and what they left: for the tests of reliability, short and long."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium
import safetensors.torch

import tiny_lm
from coteach.config import Config, load
from coteach.envs import tasks
from coteach.grounding.base import GRID_WORLD_INSTRUCTION
from coteach.method import players
from coteach.method.loop import train
from coteach.runs.run_folder import Run
from coteach.teacher.answer_cache import AnswerCache
from coteach.teacher.local.teacher import LocalTeacher
from coteach.teacher.make import make_teacher

TUNED = ("arm=mutual", "teacher.tune_every=3", "teacher.tune_steps=2", "teacher.tune_situations=2", "teacher.lora_rank=2")
SMALL = (
    "engine=minigrid",
    "threads=1",
    "collect.envs=8",
    "collect.horizon=32",
    "episodes=2",
    "evaluation.levels=1",
    "student.minibatch=256",
    "teacher.schooling=1",
)
EAGER = (
    "teacher.lesson_outcomes=0",
    "teacher.lesson_fewest_outcomes=0",
    "teacher.lesson_disagreement=-1",
    "evidence.least_promise=-1",
)
"""With these there are lessons from the first outcomes on."""

EPISODE = 64
"""Steps of an episode at most."""
UNLOCK, DOOR_KEY, LOCAL = "MiniGrid-Unlock-v0", "MiniGrid-DoorKey-5x5-v0", "BabyAI-GoToLocal-v0"


def config(*settings: str) -> Config:
    return load(None, [*SMALL, *settings])


@contextmanager
def small(climbed: Sequence[str]) -> Iterator[None]:
    """In here episodes are short: levels of 288 steps would take most of a small run's time."""
    with ExitStack() as patches:
        for task in climbed:
            tasks.check(task)  # imports what registers it
            if task.startswith("MiniGrid-"):  # BabyAI's levels decide for themselves
                patches.enter_context(mock.patch.dict(gymnasium.spec(task).kwargs, max_steps=EPISODE))
        yield


def play(folder: Path, *settings: str, display: Callable[[Any], None] | None = None) -> Path:
    """Train a run in `folder` as the settings say, or go on with it where it exists."""
    exists = (folder / "config.toml").exists()
    with Run.open(folder) if exists else Run.create(folder, config(*settings)) as run, small(run.config.tasks):
        train(run.config, run, display, resume=exists)
    return folder


@contextmanager
def tiny_llm(cache: Path | None = None) -> Iterator[None]:
    """In here `smollm2` is a tiny model of random weights, with an answer cache in `cache`, or of its own in each run."""

    def make(spec: str, config: Any, shared: Any = None, instruction: str = GRID_WORLD_INSTRUCTION) -> Any:
        if spec != "smollm2":
            return make_teacher(spec, config, shared, instruction)
        with mock.patch.dict(tiny_lm.SIZES, {"max_position_embeddings": 4096}):
            loaded = tiny_lm.loaded()
        return LocalTeacher(loaded, config, AnswerCache(cache and cache / "answers.sqlite3"), "tiny")

    with mock.patch.object(players, "make_teacher", make):
        yield


class FullDisk:
    """Lets so many writes of this thread pass; all later ones find no space left. TensorBoard's thread writes when it likes."""

    def __init__(self, after: int) -> None:
        self.after, self.written = after, 0

    def guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        opens = function is io.open

        def call(path: Any, *given: Any, **named: Any) -> Any:
            mode = str(given[0]) if given else str(named.get("mode", "r"))
            if (opens and not set(mode) & set("wax+")) or threading.current_thread() is not threading.main_thread():
                return function(path, *given, **named)
            self.written += 1
            if self.written > self.after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([] if isinstance(path, int) else [str(path)]))
            return function(path, *given, **named)

        return call


@contextmanager
def full_disk(after: int) -> Iterator[FullDisk]:
    """In here the disk is full after so many openings for writing, new folders, renamings and syncs."""
    disk = FullDisk(after)
    with ExitStack() as patches:
        for module, name in ((io, "open"), (os, "fsync"), (os, "replace"), (os, "mkdir")):
            patches.enter_context(mock.patch.object(module, name, disk.guarded(getattr(module, name))))
        yield disk


def interrupting(moments: Sequence[tuple[str, int]]) -> Callable[[Any], None]:
    """A display that presses Ctrl-C when a phase is shown for the n-th time, for each (phase, n)."""
    shown: dict[str, int] = {}

    def show(progress: Any) -> None:
        shown[progress.phase] = shown.get(progress.phase, 0) + 1
        if (progress.phase, shown[progress.phase]) in moments:
            raise KeyboardInterrupt

    return show


def fingerprint(run: Path) -> dict[str, str]:
    """Sha256 of what was learned: the weights of every student and, where there is one, of the teacher's adapter."""
    latest = Run.open(run).latest_checkpoint()
    assert latest is not None
    files = [*latest.glob("student*/student.safetensors"), *latest.glob("teacher/*.safetensors")]
    return {file.relative_to(latest).as_posix(): _sha256(file) for file in files}


def rounds(run: Path) -> list[dict[str, Any]]:
    """The metrics but for the times, and for what the LLM cost: an answer that is in memory already costs nothing."""
    return [
        {key: value for key, value in row.items() if "second" not in key and not key.startswith("llm_")}
        for row in Run.open(run).metrics()
    ]


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(safetensors.torch.load_file(file).items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
