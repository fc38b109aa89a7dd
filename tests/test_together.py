"""One teacher with a student on each of several tasks at once: what they share, what is a student's own, what a run leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coteach.commands import cli
from coteach.commands.common import load_players
from coteach.errors import CoteachError, RunFailed
from coteach.method import examiner, steps
from coteach.method.loop import Loop
from coteach.method.players import Players
from coteach.method.queries import choose_queries
from coteach.method.round import play_round
from coteach.method.rung import Rung
from coteach.runs import jsonl
from coteach.runs.run_folder import Run
from coteach.student.student import Student
from coteach.teacher.costs import Usage
from coteach.teacher.recorded import RECORD
from whole_runs import DOOR_KEY, EAGER, LOCAL, config, fingerprint, interrupting, play, rounds, tiny_llm

pytestmark = pytest.mark.slow

DOOR_KEY_6 = "MiniGrid-DoorKey-6x6-v0"
"""In which many situations are word for word those of a smaller room."""

PAIR = (f"tasks={DOOR_KEY},{DOOR_KEY_6}", "together=true")


def begun(folder: Path, *settings: str) -> tuple[Loop, list[Rung]]:
    """A loop with its rungs, before the first round."""
    settled = config(*PAIR, *settings)
    loop = Loop(settled, Run.create(folder, settled))
    return loop, [Rung(index, settled, loop.players) for index in range(2)]


def weights(student: Student) -> dict[str, torch.Tensor]:
    return {name: value for name, value in student.learner.state_dict().items() if name.startswith("network.")}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_what_one_student_found_out_is_known_where_the_other_meets_the_same_situation(tmp_path: Path) -> None:
    loop, (first, second) = begun(tmp_path / "run", "arm=no-llm", "collect.horizon=128")
    for _ in range(6):
        play_round(loop.players, [first], lambda phase: None)
    model, advice = loop.players.advice.evidence.model, loop.players.advice.table
    tried = model.tries.sum(axis=1) > 0
    assert second.steps == 0 and second.curve.episodes == 0
    turn = steps.collect(loop.players, second, others=0)
    met = np.unique(turn.rollout.situation)
    known = met[met < len(tried)][tried[met[met < len(tried)]]]
    assert len(known) > 3, "the other task has situations of this one"
    assert not np.allclose(advice.exploration[known], advice.prior[known]), "and the evidence there overrules the prior"


def test_the_teacher_is_asked_about_a_situation_once_for_both(tmp_path: Path) -> None:
    with tiny_llm():
        loop, rungs = begun(tmp_path / "run", "arm=mutual", "teacher.queries_per_round=1000", "teacher.tune_every=100")
        met: list[set[int]] = [set(), set()]
        for _ in range(3):
            for number, rung in enumerate(rungs):
                met[number] |= set(np.unique(steps.collect(loop.players, rung, others=0).rollout.situation).tolist())
            play_round(loop.players, rungs, lambda phase: None)
    asked = [(row["situation"], *row["options"]) for row in jsonl.read(tmp_path / "run" / RECORD)]
    assert len(set(asked)) == len(asked) == loop.players.teacher.usage.queries > 10
    both = {(situation.text, *situation.options) for situation in map(loop.players.situations.__getitem__, met[0] & met[1])}
    assert both & set(asked)


def test_students_are_of_their_own(tmp_path: Path) -> None:
    loop, (first, second) = begun(tmp_path / "run", "arm=no-llm")
    assert (first.student, second.student) == tuple(loop.players.students)
    assert not same(weights(first.student), weights(second.student)), "they begin with weights of their own"
    before = [weights(rung.student) for rung in (first, second)]
    row, *others = play_round(loop.players, [first], lambda phase: None)
    assert "policy_loss" in row and not others
    assert not same(before[0], weights(first.student)) and same(before[1], weights(second.student))
    assert first.student.replay.filled > 0 == second.student.replay.filled
    assert first.curve is not second.curve and second.student.own_rows.size == 0


def test_calls_are_shared_fairly(tmp_path: Path) -> None:
    loop, rungs = begun(tmp_path / "run", "arm=no-llm")
    advice = loop.players.advice
    play_round(loop.players, rungs, lambda phase: None)
    table, budget = advice.table, advice.budget
    many = np.flatnonzero(table.has_choice())
    table.prior_weight[:] = np.inf
    table.asked[:] = False
    assert len(many) > 9
    advice.begin_round(9)
    budget.reserve_for(others=2)
    assert len(choose_queries(table, many, budget.available, 0.08)) == 3, "a third of them"
    advice.query(many[:1])
    budget.reserve_for(others=1)
    assert len(choose_queries(table, many, budget.available, 0.08)) == 4, "who asks less leaves more to the others"
    budget.reserve_for(others=0)
    assert len(choose_queries(table, many, budget.available, 0.08)) == 8


def test_who_is_tuned_is_tuned_for_all_and_every_line_says_so(tmp_path: Path) -> None:
    small = (*EAGER, "teacher.tune_every=2", "teacher.tune_steps=1", "teacher.tune_situations=2", "teacher.lora_rank=2")
    with tiny_llm():
        loop, rungs = begun(tmp_path / "run", "arm=mutual", *small)
        untuned = play_round(loop.players, rungs, lambda phase: None)
        for rung in rungs:
            rung.rounds = 1
        tuned = play_round(loop.players, rungs, lambda phase: None)
    assert all("tune_lessons" not in row for row in untuned) and all(row["tune_lessons"] > 0 for row in tuned)
    assert loop.players.teacher.usage.tunings == 1


def test_at_school_the_teachers_best_weights_are_those_that_are_best_over_all_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiny_llm():
        loop, _ = begun(tmp_path / "run", "arm=mutual")
        players = loop.players
    grades = iter([0.5, 0.5, 0.8, 0.1, 0.0, 0.9])  # by turns on one task and on the other
    tunings = 0

    def tune(self: Players, met: Any = None) -> dict[str, Any]:
        nonlocal tunings
        tunings += 1
        return {"tune_lessons": 1} if tunings < 3 else {}

    kept: list[int] = []
    monkeypatch.setattr(examiner, "play_first_episodes", lambda player, environments, grounding: next(grades))
    monkeypatch.setattr(Players, "tune", tune)
    monkeypatch.setattr(players.teacher, "snapshot", lambda: tunings)
    monkeypatch.setattr(players.teacher, "restore", kept.append)
    while loop.schooling.advance([DOOR_KEY, DOOR_KEY_6]):
        pass
    assert kept == [0], "0.5 on both is better than 0.8 and 0.1, or 0.0 and 0.9"


def test_numbers_that_are_not_finite_are_blamed_on_the_rung_they_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, rungs = begun(tmp_path / "run", "arm=no-llm")
    step = rungs[1].environments.step

    def spoilt(actions: Any) -> Any:
        found = step(actions)
        found.reward[0] = np.nan
        return found

    monkeypatch.setattr(rungs[1].environments, "step", spoilt)
    with pytest.raises(RunFailed, match=r"^rung 2, round 1: .*rewards"):
        play_round(loop.players, rungs, lambda phase: None)


def test_parts_of_what_was_spent_add_up() -> None:
    spent = Usage(queries=7, tokens_in=100, seconds=3.0)
    parts = [spent.part(number, 3) for number in range(3)]
    assert [part.queries for part in parts] == [2, 2, 3] and sum(part.tokens_in for part in parts) == 100
    assert sum(part.seconds for part in parts) == pytest.approx(3.0) and spent.part(0, 1) == spent


@pytest.mark.filterwarnings("ignore:the round under way")
def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path: Path) -> None:
    settings = (f"tasks={DOOR_KEY},{LOCAL}", "together=true", "arm=no-llm", "steps=1200")
    whole = play(tmp_path / "whole", *settings)
    for moment in (("evaluate", 1), ("collect", 3), ("advise", 2), ("collect", 1)):
        with pytest.raises(KeyboardInterrupt):
            play(tmp_path / "torn", *settings, display=interrupting([moment]))
    torn = play(tmp_path / "torn")
    assert len(fingerprint(whole)) == 2 and fingerprint(torn) == fingerprint(whole)
    assert {row["task"] for row in rounds(whole)} == {DOOR_KEY, LOCAL} and rounds(torn) == rounds(whole)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small run on both tasks, as the command line makes it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", "--task", DOOR_KEY, "--task", DOOR_KEY_6, "--together", "--arm", "oracle", "--engine", "minigrid"]
    small = ["--envs", "8", "--threads", "1", "--steps", "600", "episodes=2", "evaluation.levels=2", "collect.horizon=32"]
    assert cli.main([*words, *small, "--out", str(folder)]) == 0
    return folder


def test_a_run_leaves_a_summary_of_each_task(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert [rung["task"] for rung in summary["rungs"]] == [DOOR_KEY, DOOR_KEY_6] and summary["task"] == DOOR_KEY_6
    assert all(rung["steps"] >= 600 and rung["curve"] and rung["teacher_success_after"] is not None for rung in summary["rungs"])
    rows = Run.open(finished).metrics()
    assert [(row["rung"], row["task"]) for row in rows[:4]] == [(0, DOOR_KEY), (1, DOOR_KEY_6)] * 2, "they take turns"
    assert len(list((finished / "videos").glob("*.gif"))) == 2


def test_each_task_is_played_by_its_own_student(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", str(finished), "--episodes", "2", "--json"]) == 0
    assert [row["task"] for row in json.loads(capsys.readouterr().out)["rows"]] == [DOOR_KEY, DOOR_KEY_6]
    players = load_players(Run.open(finished))
    first, last = players.students
    assert (players.student_of(DOOR_KEY), players.student_of(DOOR_KEY_6)) == (first, last)
    assert players.student_of(LOCAL) is last and not same(weights(first), weights(last))
    assert cli.main(["watch", str(finished), "--task", DOOR_KEY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == DOOR_KEY


def test_one_of_the_students_is_exported(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import safetensors.torch

    player = load_players(Run.open(finished))
    for task in (DOOR_KEY, DOOR_KEY_6):
        assert cli.main(["export", str(finished), "--to", str(tmp_path / task), "--task", task]) == 0
        folder = tmp_path / task / "student"
        written = safetensors.torch.load_file(folder / "student.safetensors")
        network = player.student_of(task).learner.network.state_dict()
        assert same(network, written)
        described = json.loads((folder / "student.json").read_text())
        assert (described["task"], described["trained_on"]) == (task, [task])
    assert cli.main(["export", str(finished), "--to", str(tmp_path / "other"), "--task", LOCAL]) == 2
    assert f"has no student of it; expected {DOOR_KEY} or {DOOR_KEY_6}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((f"tasks={LOCAL}",), f"tasks has '{LOCAL}' alone"),
        ((f"tasks={LOCAL},{DOOR_KEY},{LOCAL}",), f"tasks has '{LOCAL}' twice"),
        ((f"tasks={LOCAL},{DOOR_KEY}", "fresh=student"), "fresh=student is for one after the other"),
        (("together=1",), "together=1: expected true or false"),
    ],
)
def test_what_cannot_be_together_is_refused_in_one_line(settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(CoteachError) as refused:
        config("together=true", *settings)
    assert said in str(refused.value) and "\n" not in str(refused.value)
