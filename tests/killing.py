"""Killing a training again and again: each time at a random moment, with a signal that no program can answer."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from coteach import loop
from coteach.run import Run, intact
from whole_runs import play

EVERY = 2
"""Rounds between checkpoints here: many are made, so that many kills fall into one."""


def killed_and_resumed(folder: Path, settings: Sequence[str], kills: int, chance: random.Random) -> list[int]:
    """Train, killed so often and resumed, to the end; returns the rounds that each kill cost.

    After each kill the run must be readable: whole checkpoints, metrics, the files that people read.
    """
    lost = []
    while len(lost) < kills:
        process = _forked(folder, settings)
        time.sleep(chance.uniform(0.0, 1.0) ** 2 * 4.0)
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if os.WIFSIGNALED(status):
            lost.append(_rounds_lost(folder))
        else:
            assert os.waitstatus_to_exitcode(status) == 0, "it ended by itself, and well"
            break
    while len(lost) < kills:  # it was over before it was killed so often: what is left are kills of a run that is done
        lost.append(0)
    with mock.patch.object(loop, "CHECKPOINT_ROUNDS", EVERY):
        play(folder, *settings)
    return lost


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
    rung = json.loads((latest / "progress.json").read_text())["rung"]
    return sum((row["rung"], row["round"]) > (rung["index"], rung["rounds"]) for row in played)
