"""The same run again: with other processes, memories, switches or without the LLM, where these should not matter."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from coteach.errors import CoteachError, RunFailed
from coteach.runs.run_folder import Run
from whole_runs import DOOR_KEY, LOCAL, TUNED, UNLOCK, fingerprint, play, rounds, tiny_llm

pytestmark = pytest.mark.slow

STUDENT = "student/student.safetensors"
SETTINGS = (*TUNED, "teacher.tune_every=2", "steps=700", "seed=2")
"""Three rounds: the LLM is tuned after the second, and when they are over (with this seed: a reward was found by then)."""
SHORT = (*SETTINGS, f"tasks={DOOR_KEY}")

Played = tuple[dict[str, str], list[dict[str, object]]]


def learned(run: Path) -> Played:
    return fingerprint(run), rounds(run)


def played(folder: Path, *settings: str, cache: Path | None = None) -> Played:
    with tiny_llm(cache):
        return learned(play(folder, *settings))


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `SHORT` that had no memory but its own."""
    folder = tmp_path_factory.mktemp("once") / "run"
    played(folder, *SHORT)
    return folder


def test_a_run_and_its_repetition_have_the_same_weights(once: Path, tmp_path: Path) -> None:
    again = played(tmp_path / "again", *SHORT)
    assert again == learned(once) and set(again[0]) >= {STUDENT, "teacher/adapter_model.safetensors"}


def test_also_where_situations_hardly_ever_recur(tmp_path: Path) -> None:
    settings = (*SETTINGS, f"tasks={LOCAL}", "seed=1")
    assert played(tmp_path / "one", *settings) == played(tmp_path / "again", *settings)


def test_a_recorded_run_is_played_again_without_any_llm(tmp_path: Path) -> None:
    settings = (*SETTINGS, f"tasks={UNLOCK},{DOOR_KEY}")
    weights, metrics = played(tmp_path / "run", *settings)
    again = play(tmp_path / "replay", *settings, f"teacher.spec=recorded:{tmp_path / 'run'}")
    assert fingerprint(again) == {STUDENT: weights[STUDENT]} and rounds(again) == metrics


def test_a_record_answers_no_other_run_than_its_own(once: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"line \d+ of its record is not .*: this run is not the recorded one"):
        play(tmp_path / "other", *SHORT, "seed=5", f"teacher.spec=recorded:{once}")
    with pytest.raises(CoteachError, match="no answers.jsonl in .*; give the folder of a run that asked an LLM"):
        play(tmp_path / "none", *SHORT, f"teacher.spec=recorded:{tmp_path}")


def _play_tiny(folder: Path, cache: Path) -> None:
    with tiny_llm(cache):
        play(folder, *SHORT)


def test_a_memory_changes_nothing_but_how_often_the_llm_is_asked(once: Path, tmp_path: Path) -> None:
    """Two processes fill it at once, and a third run finds it filled."""
    fork = multiprocessing.get_context("fork")
    runs = [tmp_path / "one", tmp_path / "other", tmp_path / "filled"]
    both = [fork.Process(target=_play_tiny, args=(run, tmp_path)) for run in runs[:2]]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    _play_tiny(runs[2], tmp_path)
    assert [learned(run) for run in runs] == [learned(once)] * 3
    queries, last = (Run.open(run).metrics()[-1]["llm_queries"] for run in (once, runs[2]))
    assert last == 0 < queries
