"""Reliability, measured: each test prints the figure that docs/reliability.md quotes. `make soak` runs them all."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from coteach.errors import CoteachError
from coteach.method.loop import Loop
from coteach.method.rung import Rung
from coteach.runs import jsonl
from coteach.runs.checkpoints import intact
from coteach.runs.run_folder import Run
from coteach.teacher.remote import circuit_breaker as patience
from coteach.teacher.remote.circuit_breaker import FAILURES
from killing import EVERY, killed_and_resumed, writers_killed
from llm_server import Server, hang, prefer
from whole_runs import DOOR_KEY, LOCAL, TUNED, UNLOCK, fingerprint, full_disk, interrupting, play, rounds, tiny_llm

pytestmark = [
    pytest.mark.soak,
    pytest.mark.filterwarnings("ignore:the round under way"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

TASKS = (UNLOCK, DOOR_KEY, LOCAL, "MiniGrid-UnlockPickup-v0", "MiniGrid-Dynamic-Obstacles-5x5-v0")
ASKED = (*TUNED, "teacher.queries_per_round=4", "steps=1500")


def figure(what: str, value: str) -> None:
    print(f"\n{what}: {value}", flush=True)


def test_determinism_and_replay_with_the_default_llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run has an answer cache of its own, so that the LLM really answers twice."""
    models = Path(os.environ.get("COTEACH_CACHE", Path.home() / ".cache" / "coteach")) / "models"
    same = replayed = 0
    for task in TASKS[:3]:
        for seed in range(3):
            runs = []
            for name in ("once", "again"):
                folder = tmp_path / f"{task}-{seed}-{name}"
                (folder / "cache").mkdir(parents=True)
                if models.is_dir():
                    (folder / "cache" / "models").symlink_to(models.resolve())
                monkeypatch.setenv("COTEACH_CACHE", str(folder / "cache"))
                runs.append(play(folder / "run", *ASKED, f"tasks={task}", f"seed={seed}"))
            same += fingerprint(runs[0]) == fingerprint(runs[1]) and rounds(runs[0]) == rounds(runs[1])
            assert "teacher/adapter_model.safetensors" in fingerprint(runs[0]) or task == LOCAL
            replay = play(
                tmp_path / f"{task}-{seed}-replay", *ASKED, f"tasks={task}", f"seed={seed}", f"teacher.spec=recorded:{runs[0]}"
            )
            student = "student/student.safetensors"
            replayed += fingerprint(replay)[student] == fingerprint(runs[0])[student] and rounds(replay) == rounds(runs[0])
    figure("the same weights and metrics when run twice", f"{same} of 9")
    figure("the same student when replayed from the record, without an LLM", f"{replayed} of 9")
    assert same == replayed == 9


def test_exact_resume(tmp_path: Path) -> None:
    """Stopped at ten random moments, in rounds, in tunings, in evaluations and between them."""
    chance, same, stops = random.Random(0), 0, 0
    for number in range(10):
        settings = (*TUNED, f"tasks={TASKS[number % len(TASKS)]}", f"seed={number}", "steps=3000")
        with tiny_llm(tmp_path / f"cache-{number}-whole"):
            whole = play(tmp_path / f"whole-{number}", *settings)
        with tiny_llm(tmp_path / f"cache-{number}-torn"):
            torn = tmp_path / f"torn-{number}"
            for phase in chance.sample(["collect", "advise", "tune", "evaluate", "schooling"], 3):
                often = 4 if phase in ("collect", "advise") else 2  # the others do not come in every round
                try:
                    play(torn, *settings, display=interrupting([(phase, chance.randint(1, often))]))
                except KeyboardInterrupt:
                    stops += 1
            play(torn, *settings)
        same += fingerprint(torn) == fingerprint(whole) and rounds(torn) == rounds(whole)
    figure("runs stopped, resumed and equal to those not stopped", f"{same} of 10 ({stops} stops)")
    assert same == 10 and stops >= 15


def test_two_hundred_kills(tmp_path: Path) -> None:
    chance, lost, same, runs = random.Random(0), list[int](), 0, 0
    while len(lost) < 200:
        settings = (f"tasks={TASKS[runs % len(TASKS)]}", f"seed={runs}", "arm=no-llm", "steps=6000")
        whole = play(tmp_path / f"whole-{runs}", *settings)
        torn = tmp_path / f"torn-{runs}"
        lost += killed_and_resumed(torn, settings, 200 - len(lost), chance)
        same += fingerprint(torn) == fingerprint(whole) and rounds(torn) == rounds(whole)
        runs += 1
    figure("SIGKILLs survived", f"{len(lost)} of 200; rounds lost {sum(lost) / 200:.2f} on average, {max(lost)} at most")
    figure("runs killed so and equal to those not killed", f"{same} of {runs}")
    assert max(lost) <= EVERY + 1 and same == runs


def test_a_failure_at_every_write(tmp_path: Path) -> None:
    settings = (f"tasks={DOOR_KEY}", "arm=no-llm", "steps=520")
    whole = play(tmp_path / "whole", *settings)  # the first run of a process also fills caches
    with full_disk(after=10**9) as disk:
        play(tmp_path / "counted", *settings)
    named = same = 0
    for after in range(disk.written):
        folder = tmp_path / str(after)
        with full_disk(after), pytest.raises(CoteachError) as failed:
            play(folder, *settings)
        named += str(folder) in str(failed.value)
        assert all(intact(path) for path in (folder / "checkpoints").glob("step-*"))
        if not (folder / "config.toml").exists():  # there was nothing yet to lose
            folder = tmp_path / f"{after}-anew"
        play(folder, *settings)
        same += fingerprint(folder) == fingerprint(whole) and rounds(folder) == rounds(whole)
    figure("writes that failed, the path named", f"{named} of {disk.written}")
    figure("and resumed to the same weights", f"{same} of {disk.written}")
    assert named == same == disk.written


def test_two_writers_of_one_memory(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = writers_killed(tmp_path / "answers.sqlite3", kills=200, chance=random.Random(0))
    figure("kills of two writers that share an answer cache", f"200; {found:,} answers in it, all right")


def test_a_dead_teacher_costs_no_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose server hangs from its 20th call on, beside one with every answer in memory and one without a teacher, in turns.

    Medians of five, after a turn that fills memory and caches. Seconds are those of rounds, on the processor, so that other
    work on the machine does not count; those in which it waited for the server, until that counted as dead, stand for
    themselves. The call of the minute is made every two seconds. The two taught runs hear other advice and so meet other
    situations; a student alone keeps no evidence, follows no options and imitates nothing.
    """
    pytest.importorskip("openai")
    spent = [0.0]

    def timed(loop: Loop, rungs: list[Rung], played: Any = Loop.play_round) -> list[dict[str, Any]]:
        began = time.process_time()
        metrics: list[dict[str, Any]] = played(loop, rungs)
        spent[0] += time.process_time() - began
        return metrics

    monkeypatch.setattr(Loop, "play_round", timed)
    monkeypatch.setattr(patience, "PAUSE", 2.0)
    living, dying = Server(), Server()
    living.reply = prefer
    dying.reply = lambda handler: (prefer if len(dying.requests) < 20 else hang)(handler)
    steps = int(os.environ.get("SOAK_TAUGHT_STEPS", "40000"))
    common = ("tasks=MiniGrid-UnlockPickup-v0", f"steps={steps}", "engine=auto", "collect.envs=64", "collect.horizon=128")
    kinds = {
        "student alone": ("arm=student-only",),
        "answers in memory": ("arm=mutual", f"teacher.spec=openai:m@{living.url}"),
        "dead teacher": ("arm=mutual", f"teacher.spec=openai:m@{dying.url}", "teacher.deadline=2"),
    }
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    waited, calls = list[float](), list[int]()
    for turn in range(6):
        for kind, settings in kinds.items():
            dying.requests.clear()
            living.requests.clear()
            monkeypatch.setenv("COTEACH_CACHE", str(tmp_path / (f"{turn}" if kind == "dead teacher" else "kept")))
            spent[0] = 0.0
            run = play(tmp_path / f"{kind}-{turn}", *common, *settings)
            summary = json.loads((run / "summary.json").read_text())
            rates[kind].append(summary["steps"] / spent[0])
            if kind == "dead teacher":
                waited.append(summary["llm_seconds"])
                calls.append(len(dying.requests))
        assert turn == 0 or not living.requests, "all of it was in memory"
    living.stop()
    dying.stop()
    rate = {kind: statistics.median(measured[1:]) for kind, measured in rates.items()}
    for kind, value in rate.items():
        share = value / rate["answers in memory"]
        figure(f"steps per second of the processor, {kind}", f"{value:,.0f}, {share:.1%} of that with answers in memory")
    figure("waited until it counted as dead", f"{max(waited):.1f} s at most, a call 2 s; calls: {min(calls)} to {max(calls)}")
    assert max(waited) < (FAILURES + 1) * 2
    assert rate["dead teacher"] > 0.95 * rate["answers in memory"]


def test_two_million_steps(tmp_path: Path) -> None:
    """Memory after the first fifth, when situations, replay and caches are filled, against the most at any time after it."""
    run, steps = tmp_path / "run", int(os.environ.get("SOAK_STEPS", "2000000"))
    words = [
        "train",
        "--task",
        "MiniGrid-UnlockPickup-v0",
        "--arm",
        "no-llm",
        "--threads",
        "1",
        "--steps",
        str(steps),
        "--out",
        str(run),
    ]
    begun = time.monotonic()
    with subprocess.Popen([sys.executable, "-m", "coteach", *words, "episodes=10"], stderr=subprocess.DEVNULL) as process:
        seen = list[tuple[int, int, int]]()
        while process.poll() is None:
            time.sleep(2.0)
            done = int(jsonl.last(run / "metrics.jsonl").get("steps", 0))
            try:
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                seen.append((done, pages * os.sysconf("SC_PAGE_SIZE") // 2**20, len(os.listdir(f"/proc/{process.pid}/fd"))))
            except OSError:
                break
    assert process.returncode == 0 and json.loads((run / "summary.json").read_text())["steps"] >= steps
    warm = [row for row in seen if steps / 5 <= row[0] < steps]
    first, most, files = warm[0][1], max(row[1] for row in warm), {row[2] for row in warm}
    figure("memory", f"{first} MiB after a fifth of {steps:,} steps, {most} MiB at most later: {most / first - 1:+.1%}")
    figure("open files", f"{min(files)} to {max(files)}; {time.monotonic() - begun:.0f} s")
    assert most < 1.05 * first and max(files) - min(files) <= 2
    assert Run.open(run).latest_checkpoint() is not None
