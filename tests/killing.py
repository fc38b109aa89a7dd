"""Killing a training again and again: each time at a random moment, with a signal that no program can answer."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from coteach.method import loop
from coteach.runs.checkpoints import intact
from coteach.runs.run_folder import Run
from coteach.teacher.answer_cache import AnswerCache
from whole_runs import play

EVERY = 2
"""Rounds between checkpoints here: many are made, so that many kills fall into one."""


def killed_and_resumed(
    folder: Path, settings: Sequence[str], kills: int, chance: random.Random, longest: float = 4.0
) -> list[int]:
    """Train, killed so often (or less, if it ends before) and resumed, to the end; returns the rounds that each kill cost.

    longest: seconds between two kills, at most. After each kill the run must be readable: whole checkpoints, metrics, the
    files that people read.
    """
    lost = []
    while len(lost) < kills:
        process = _forked(folder, settings)
        time.sleep(chance.uniform(0.0, 1.0) ** 2 * longest)
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if os.WIFSIGNALED(status):
            lost.append(_rounds_lost(folder))
        else:
            assert os.waitstatus_to_exitcode(status) == 0, "it ended by itself, and well"
            break
    with mock.patch.object(loop, "CHECKPOINT_ROUNDS", EVERY):
        play(folder, *settings)
    return lost


def writers_killed(path: Path, kills: int, chance: random.Random) -> int:
    """Two processes write into one answer cache and are killed in turn; returns how many answers it holds, all of them right."""
    writers = [_writing(path, number) for number in range(2)]
    for kill in range(kills):
        time.sleep(chance.uniform(0.02, 0.1))
        os.kill(writers[kill % 2], signal.SIGKILL)
        os.waitpid(writers[kill % 2], 0)
        writers[kill % 2] = _writing(path, kill)
    for writer in writers:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
    found = AnswerCache(path).get_many([str(number) for number in range(ANSWERS)])
    assert all(scores.tolist() == [float(key), -float(key)] for key, scores in found.items())
    return len(found)


ANSWERS = 5000


def _writing(path: Path, seed: int) -> int:
    """A child that puts answers, each a function of its key, into a memory and looks others up, without end."""
    process = os.fork()
    if process == 0:
        chance, cache = random.Random(seed), AnswerCache(path)
        while True:
            keys = [str(chance.randrange(ANSWERS)) for _ in range(20)]
            cache.put_many({key: np.array([float(key), -float(key)]) for key in keys[:10]})
            cache.get_many(keys)
    return process


def _forked(folder: Path, settings: Sequence[str]) -> int:
    """A child that trains; it shares what this process has loaded, which takes far longer than a kill."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            with warnings.catch_warnings(), mock.patch.object(loop, "CHECKPOINT_ROUNDS", EVERY):
                warnings.simplefilter("ignore")
                play(folder, *settings)
            code = 0
        finally:
            os._exit(code)
    return process


def _rounds_lost(folder: Path) -> int:
    """Rounds in the metrics that the newest checkpoint does not know."""
    if not (folder / "config.toml").exists():  # it had hardly begun
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    run = Run.open(folder)
    assert all(intact(path) for path in (folder / "checkpoints").glob("step-*")), "whole or absent"
    for name in ("summary.json", "checkpoints/best.json"):
        if (folder / name).exists():
            json.loads((folder / name).read_text())
    latest, played = run.latest_checkpoint(), run.metrics()
    if latest is None:
        return len(played)
    (rung,) = json.loads((latest / "progress.json").read_text())["rungs"]
    return sum((row["rung"], row["round"]) > (rung["index"], rung["rounds"]) for row in played)
