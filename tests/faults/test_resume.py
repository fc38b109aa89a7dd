"""A run that was stopped and taken up again is the run that was not stopped: weights and metrics agree to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coteach.errors import CoteachError, Note
from coteach.method.examiner import Examiner
from coteach.method.players import Players
from coteach.runs.run_folder import Run
from whole_runs import DOOR_KEY, LOCAL, TUNED, UNLOCK, config, fingerprint, interrupting, play, rounds, tiny_llm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:the round under way")]

SHORT = ("steps=1500", "arm=no-llm")


def stopped(folder: Path, *settings: str, at: list[tuple[str, int]]) -> Path:
    """A run that is interrupted at each of these moments (phase, how often it was shown since it began or was resumed)."""
    for moment in at:
        with pytest.raises(KeyboardInterrupt):
            play(folder, *settings, display=interrupting([moment]))
    return play(folder)


@pytest.mark.parametrize("task", [DOOR_KEY, LOCAL])
def test_a_resumed_run_is_the_run_that_was_not_stopped(task: str, tmp_path: Path) -> None:
    whole = play(tmp_path / "whole", *SHORT, f"tasks={task}")
    torn = stopped(
        tmp_path / "torn", *SHORT, f"tasks={task}", at=[("evaluate", 1), ("collect", 3), ("advise", 2), ("collect", 1)]
    )
    assert len(rounds(whole)) >= 6 and rounds(torn) == rounds(whole)
    assert fingerprint(torn) == fingerprint(whole)


def test_also_where_it_was_stopped_while_the_llm_was_tuned_or_schooled(tmp_path: Path) -> None:
    settings = (*TUNED, "teacher.tune_every=2", "steps=700", f"tasks={DOOR_KEY},{UNLOCK}", "fresh=teacher")
    with tiny_llm(tmp_path / "one"):
        whole = play(tmp_path / "whole", *settings)
    with tiny_llm(tmp_path / "other"):
        # Every second round tunes, the third is followed by schooling when the rung is over.
        torn = stopped(tmp_path / "torn", *settings, at=[("tune", 1), ("schooling", 1), ("advise", 2), ("collect", 2)])
    assert "teacher/adapter_model.safetensors" in fingerprint(whole) and any("tune_lessons" in row for row in rounds(whole))
    assert rounds(torn) == rounds(whole) and fingerprint(torn) == fingerprint(whole)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (whole, torn)]
    untimed = [
        {key: value for key, value in rung.items() if "second" not in key and not key.startswith(("llm", "peak"))}
        for summary in summaries
        for rung in summary["rungs"]
    ]
    assert untimed[:2] == untimed[2:]


def test_schooling_goes_on_with_the_practice_or_the_tuning_that_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is made twice, and the best weights, which are those of an earlier practice, are kept across interruptions."""
    done, stop_at = list[str](), list[int]()
    roll_out, tune = Examiner.roll_out_teacher, Players.tune

    def counted(what: str) -> None:
        done.append(what)
        if len(done) in stop_at:
            raise KeyboardInterrupt

    def worse(examiner: Examiner, climbed: list[str]) -> tuple[float, Any]:
        counted("rollouts")
        _, met = roll_out(examiner, climbed)
        return 0.5 - 0.1 * done.count("tuning"), met

    def tuned(players: Players, *met: Any) -> dict[str, Any]:
        told = tune(players, *met)
        if met:
            counted("tuning")
        return told

    monkeypatch.setattr(Examiner, "roll_out_teacher", worse)
    monkeypatch.setattr(Players, "tune", tuned)
    settings = (*TUNED, "steps=600", f"tasks={UNLOCK}")
    with tiny_llm(tmp_path / "one"):
        whole = play(tmp_path / "whole", *settings)
    assert done == ["rollouts", "tuning", "rollouts"]
    done.clear()
    stop_at[:] = 1, 3, 5
    with tiny_llm(tmp_path / "other"):
        torn = stopped(tmp_path / "torn", *settings, at=[("never", 1)] * 3)
    assert done == ["rollouts"] * 2 + ["tuning"] * 2 + ["rollouts"] * 2, "only what was interrupted is done again"
    assert fingerprint(torn) == fingerprint(whole) and "teacher/adapter_model.safetensors" in fingerprint(whole)
    assert Run.open(torn).metrics()[-1]["round"] == Run.open(whole).metrics()[-1]["round"]


def test_a_rung_that_was_done_when_the_run_stopped_is_not_trained_on(tmp_path: Path) -> None:
    """`held` is in the checkpoint: the student had passed, only the last evaluation was missing."""
    settings = ("arm=student-only", f"tasks={UNLOCK}", "steps=100000", "stop_at=0.0")
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path / "run", *settings, display=interrupting([("schooling", 1)]))
    before = rounds(tmp_path / "run")
    assert before[-1]["steps"] < 100_000
    play(tmp_path / "run")
    assert rounds(tmp_path / "run") == before


def test_envpool_cannot_give_back_its_episodes_and_the_run_says_so(tmp_path: Path) -> None:
    pytest.importorskip("envpool")
    settings = (*SHORT, "steps=700", "engine=envpool", f"tasks={UNLOCK}")
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path / "run", *settings, display=interrupting([("collect", 2)]))
    with pytest.warns(Note, match="cannot be brought back .engine 'envpool'.: new ones begin"):
        play(tmp_path / "run")
    assert [row["round"] for row in rounds(tmp_path / "run")] == list(range(1, len(rounds(tmp_path / "run")) + 1))


def test_a_configuration_of_a_newer_version_is_refused_with_that_version(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", config(*SHORT, f"tasks={DOOR_KEY}")).folder
    (run / "config.toml").write_text("hologram = 3\n" + (run / "config.toml").read_text())
    with pytest.raises(CoteachError, match="unknown field 'hologram'") as refused:
        Run.open(run)
    assert "made by" not in str(refused.value), "the same version: a slip of the pen"
    made = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(made | {"coteach": "9.0"}))
    with pytest.raises(CoteachError, match="made by coteach 9.0: use that version"):
        Run.open(run)
