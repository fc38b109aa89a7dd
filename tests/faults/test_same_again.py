"""The same run again: with other processes, memories, switches or without the LLM, where these should not matter."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from coteach.errors import CoteachError, RunFailed
from whole_runs import DOOR_KEY, LOCAL, TUNED, UNLOCK, fingerprint, play, rounds, tiny_llm

STUDENT = "student/student.safetensors"
SHORT = (*TUNED, f"tasks={DOOR_KEY}", "steps=800")


def played(folder: Path, *settings: str, cache: Path | None = None) -> tuple[dict[str, str], list[dict[str, object]]]:
    with tiny_llm(cache):
        run = play(folder, *settings)
    return fingerprint(run), rounds(run)


@pytest.mark.parametrize(("task", "seed"), [(DOOR_KEY, 0), (LOCAL, 1)])
def test_a_run_and_its_repetition_have_the_same_weights(task: str, seed: int, tmp_path: Path) -> None:
    settings = (*TUNED, f"tasks={task}", f"seed={seed}", "steps=800")
    once, again = played(tmp_path / "once", *settings), played(tmp_path / "again", *settings)
    assert once == again and set(once[0]) >= {STUDENT}


def test_a_recorded_run_is_played_again_without_any_llm(tmp_path: Path) -> None:
    settings = (*TUNED, f"tasks={UNLOCK},{DOOR_KEY}", "steps=800")
    weights, metrics = played(tmp_path / "run", *settings)
    again = play(tmp_path / "replay", *settings, f"teacher.spec=recorded:{tmp_path / 'run'}")
    assert fingerprint(again) == {STUDENT: weights[STUDENT]} and rounds(again) == metrics


def test_a_record_answers_no_other_run_than_its_own(tmp_path: Path) -> None:
    played(tmp_path / "run", *SHORT)
    with pytest.raises(RunFailed, match=r"line \d+ of its record is not .*: this run is not the recorded one"):
        play(tmp_path / "other", *SHORT, "seed=5", f"teacher.spec=recorded:{tmp_path / 'run'}")
    with pytest.raises(CoteachError, match="no answers.jsonl in .*; give the folder of a run that asked an LLM"):
        play(tmp_path / "none", *SHORT, f"teacher.spec=recorded:{tmp_path}")


def test_a_memory_changes_nothing_but_how_often_the_llm_is_asked(tmp_path: Path) -> None:
    without = played(tmp_path / "without", *SHORT)
    filling, filled = (played(tmp_path / name, *SHORT, cache=tmp_path) for name in ("filling", "filled"))
    assert without == filling == filled


def _play_tiny(folder: Path, cache: Path) -> None:
    with tiny_llm(cache):
        play(folder, *SHORT)


def test_two_processes_that_share_a_memory_do_what_one_does(tmp_path: Path) -> None:
    alone = played(tmp_path / "alone", *SHORT)
    fork = multiprocessing.get_context("fork")
    runs = [tmp_path / "one", tmp_path / "other"]
    both = [fork.Process(target=_play_tiny, args=(run, tmp_path)) for run in runs]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert [(fingerprint(run), rounds(run)) for run in runs] == [alone, alone]
