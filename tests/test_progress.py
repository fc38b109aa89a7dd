"""The progress of a run: an estimate of the time left, plain lines in a pipe, one panel at a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from coteach.runs.progress import LiveDisplay, PlainDisplay, Progress, aligned, duration, line, make_display, percent

NOW = Progress(
    rung=1, rungs=3, task="MiniGrid-Unlock-v0", steps=25_000, total_steps=100_000, phase="advise", success_student=0.5,
    success_controlled=None, llm_queries=1234, seconds_elapsed=75.0, steps_per_second=1000.0,
)  # fmt: skip


def test_the_time_left_counts_this_rung_and_those_after_it() -> None:
    assert NOW.seconds_left == pytest.approx(75 + 100)
    assert replace(NOW, rung=2, steps=100_000).seconds_left == 0
    assert replace(NOW, steps_per_second=0.0).seconds_left is None
    assert replace(NOW, over=True).seconds_left == pytest.approx(100)
    assert replace(NOW, over=True, rung=2).seconds_left is None, "how long fine-tuning after a rung takes is unknown"


def test_a_line_shows_the_detail_of_a_phase() -> None:
    said = line(replace(NOW, phase="schooling", detail="the LLM alone 85 % after 1 tuning"))
    assert ", schooling (the LLM alone 85 % after 1 tuning), " in said


def test_a_line_has_task_steps_successes_queries_and_times() -> None:
    said = line(NOW)
    for part in (
        "rung 2/3",
        "MiniGrid-Unlock-v0",
        "25,000/100,000 steps",
        "advise",
        "student 50 %",
        "teacher -",
        "1,234 LLM",
        "1m15s",
    ):
        assert part in said
    assert "at most 2m55s left" in said and "\n" not in said


BOTH = replace(
    NOW,
    rung=0,
    rungs=2,
    others=(replace(NOW, rung=1, rungs=2, task="MiniGrid-DoorKey-5x5-v0", steps=60_000, success_student=0.9),),
)
"""Two tasks that are trained on together."""


def test_of_tasks_trained_on_together_all_are_shown() -> None:
    said = line(BOTH)
    assert said.startswith("2 tasks together: MiniGrid-Unlock-v0: 25,000/100,000 steps, student 50 %")
    assert (
        "; MiniGrid-DoorKey-5x5-v0: 60,000/100,000 steps, student 90 %" in said and "2,000 steps/s" in said and "\n" not in said
    )
    stream = io.StringIO()
    with LiveDisplay(Console(file=stream, force_terminal=True, width=100)) as display:
        display(BOTH)
    assert all(part in stream.getvalue() for part in ("2 tasks together", "25,000 of", "60,000 of", "MiniGrid-DoorKey-5x5-v0"))


def test_the_time_left_for_tasks_trained_on_together_is_that_of_the_last_to_end() -> None:
    assert BOTH.seconds_left == pytest.approx(75)
    other = BOTH.others[0]
    assert replace(BOTH, over=True).seconds_left == pytest.approx(40)
    assert replace(BOTH, others=(replace(other, steps_per_second=0.0),)).seconds_left is None
    assert replace(BOTH, over=True, others=(replace(other, over=True),)).seconds_left is None


def test_in_a_pipe_there_is_a_line_per_rung_and_then_one_every_few_seconds() -> None:
    pipe = io.StringIO()
    with PlainDisplay(pipe, interval=1000.0) as display:
        for progress in (NOW, NOW, replace(NOW, phase="tune"), replace(NOW, rung=2)):
            display(progress)
    assert len(pipe.getvalue().splitlines()) == 2
    pipe = io.StringIO()
    with PlainDisplay(pipe, interval=0.0) as display:
        display(NOW)
        display(NOW)
    assert len(pipe.getvalue().splitlines()) == 2
    assert "\x1b" not in pipe.getvalue()


def test_a_stream_that_is_no_terminal_gets_plain_lines() -> None:
    assert isinstance(make_display(io.StringIO()), PlainDisplay)


@pytest.mark.parametrize("colour", [True, False])
def test_at_a_terminal_there_is_one_panel_and_no_color_is_respected(colour: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    with LiveDisplay(Console(file=stream, force_terminal=True, width=100, color_system="standard")) as display:
        display(NOW)
        display(replace(NOW, steps=50_000))
    shown = stream.getvalue()
    last = shown[shown.rindex("coteach: rung") :]
    assert "50,000 of 100,000 steps" in last and "MiniGrid-Unlock-v0" in last
    assert ("\x1b[32m" in shown) == colour


def test_the_columns_of_a_table_are_aligned() -> None:
    assert aligned(("task", "n"), [("A", "10"), ("BBBBBB", "5")]) == "task     n\nA       10\nBBBBBB   5"


def test_shares_and_times_are_formatted() -> None:
    assert [percent(share) for share in (None, 0.0, 0.625, 1.0)] == ["-", "0 %", "62.5 %", "100 %"]
    assert [duration(seconds) for seconds in (None, 0.4, 75, 3600, 7384)] == ["-", "0s", "1m15s", "1h00m", "2h03m"]
