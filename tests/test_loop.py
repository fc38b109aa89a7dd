"""The loop as a whole: what each arm's switches do, that nothing but the seed decides, that a run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import coteach.method.players
from coteach.arms import ARMS
from coteach.config import Config, TeacherConfig, load
from coteach.grounding.base import Situation
from coteach.method import checkpoint
from coteach.method.examiner import Examiner
from coteach.method.loop import Loop, train
from coteach.method.round import play_round
from coteach.method.rung import Rung
from coteach.runs.run_folder import Run
from coteach.student.batch import Batch
from coteach.student.rollout import Rollout
from coteach.teacher.base import Lesson, TuneReport
from coteach.teacher.costs import Usage
from coteach.teacher.feedback import Feedback
from coteach.teacher.make import make_teacher
from coteach.teacher.recorded import Recorder

pytestmark = pytest.mark.slow

UNLOCK = "MiniGrid-Unlock-v0"
SMALL = (
    f"tasks={UNLOCK}",
    "engine=minigrid",
    "threads=1",
    "collect.envs=16",
    "collect.horizon=64",
    "episodes=2",
    "stop_at=1.01",
    "evaluation.levels=4",
)
SCHOOLING = ("teacher.tune_every=2", "teacher.queries_per_round=5", "student.minibatch=256")
SUMMARY = {
    "task", "arm", "seed", "teacher", "steps", "episodes", "success", "return", "steps_to_80", "steps_to_95",
    "teacher_success_before", "teacher_success_after", "situations", "llm_queries", "llm_tokens", "llm_seconds", "tune_seconds",
    "wall_seconds", "steps_per_second",
}  # fmt: skip


class Pupil:
    """Stands in for an LLM: at first it always favours the first option; tuning shifts it to the last."""

    name, tunable, feedback = "pupil", True, Feedback()

    def __init__(self) -> None:
        self.usage, self.asked, self.lessons, self.heard = Usage(), list[str](), list[Lesson](), list[Feedback]()

    @property
    def favourite(self) -> int:
        return -1 if self.usage.tunings else 0

    def advise(self, situations: Sequence[Situation]) -> list[NDArray[np.float64]]:
        self.asked += [situation.text for situation in situations]
        self.usage.queries += len(situations)
        return [self._advice(len(situation.options)) for situation in situations]

    def give_feedback(self, feedback: Feedback) -> bool:
        self.heard.append(feedback)
        return True

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        self.lessons += lessons
        self.usage.tunings += 1
        return TuneReport(len(lessons), 1, 1.0, 0.5, 0.1, 0.0)

    def snapshot(self) -> dict[str, Tensor]:
        return {"tunings": torch.tensor(self.usage.tunings)}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        self.usage.tunings = int(snapshot["tunings"])

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tunings").write_text(str(self.usage.tunings))

    def load(self, folder: Path) -> None:
        self.usage.tunings = int((folder / "tunings").read_text())

    def _advice(self, options: int) -> NDArray[np.float64]:
        advice = np.full(options, 0.2 / options)
        advice[self.favourite] += 0.8
        return advice


@pytest.fixture(autouse=True)
def pupil(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(spec: str, config: TeacherConfig, *_: object) -> Any:
        return Pupil() if spec == "smollm2" else make_teacher(spec, config)

    monkeypatch.setattr(coteach.method.players, "make_teacher", make)


class Played:
    """Some rounds of one rung, and what was seen of them."""

    def __init__(self, tmp_path: Path, arm: str, *settings: str, rounds: int = 3) -> None:
        self.config = load(None, [*SMALL, *SCHOOLING, f"arm={arm}", *settings])
        self.loop = Loop(self.config, Run(tmp_path, self.config))
        self.players = self.loop.players
        self.before = weights(self.loop)
        self.rung = Rung(0, self.config, self.players)
        self.rollouts: list[Rollout] = []
        self.metrics: list[dict[str, Any]] = []
        collect = self.rung.collector.collect
        self.rung.collector.collect = lambda *given: self._keep(collect(*given))  # type: ignore[method-assign]
        for _ in range(rounds):
            self.metrics += play_round(self.players, [self.rung], lambda phase: None)
            self.rung.rounds += 1

    def _keep(self, rollout: Rollout) -> Rollout:
        self.rollouts.append(rollout)
        return rollout

    @property
    def teacher(self) -> Pupil:
        recorder = self.players.teacher
        assert isinstance(recorder, Recorder) and isinstance(recorder.teacher, Pupil)
        return recorder.teacher

    @property
    def learned(self) -> bool:
        return not same(self.before, weights(self.loop))


def weights(loop: Loop) -> dict[str, torch.Tensor]:
    return loop.players.students[0].learner.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """The network's weights agree bit for bit."""
    names = [name for name in a if name.startswith("network.")]
    return bool(names) and all(torch.equal(a[name], b[name]) for name in names)


@pytest.mark.parametrize("arm", sorted(ARMS))
def test_an_arms_switches_open_and_close_the_loops_channels(arm: str, tmp_path: Path) -> None:
    played, switches = Played(tmp_path, arm), ARMS[arm]
    advice = played.players.advice.table
    assert all(rollout.controlled.any() == switches.controls for rollout in played.rollouts)
    assert [row["led_share"] > 0 for row in played.metrics] == [switches.controls] * 3
    assert [row["guidance_weight"] > 0 for row in played.metrics] == [switches.guide] * 3
    assert all(("imitation_loss" in row) == switches.learn for row in played.metrics)
    assert played.learned == switches.learn
    assert np.array_equal(advice.exploration, advice.prior) == (not switches.reweigh)
    counted = played.players.advice.evidence.model.tries.sum() > 0
    assert counted == (not switches.raw), "evidence is counted in every arm that has options"
    assert advice.asked.any() == switches.has_teacher
    if switches.prior == "llm":
        asked = len(played.teacher.asked)
        assert asked > 0 and (switches.tune or asked <= 3 * 5), "calls are rationed"
        assert played.teacher.usage.tunings <= switches.tune and (arm != "mutual" or played.teacher.usage.tunings == 1)
    else:
        assert played.players.teacher.name == switches.prior and played.players.teacher.usage.queries == 0


def test_who_is_tuned_is_asked_again_and_leads_otherwise(tmp_path: Path) -> None:
    played = Played(tmp_path, "mutual", "teacher.queries_per_round=100", rounds=2)
    advice, teacher = played.players.advice.table, played.teacher
    assert teacher.usage.tunings == 1 and not advice.asked.any()
    asked, lesson = list(teacher.asked), teacher.lessons[0]
    assert lesson.target.sum() == pytest.approx(1.0) and len(lesson.target) == len(lesson.situation.options)
    assert len(set(asked)) == len(asked), "under the same weights it is asked once"
    earlier = advice.prior.copy()
    play_round(played.players, [played.rung], lambda phase: None)
    again = [i for i in np.flatnonzero(advice.asked) if i < len(earlier) and advice.situations[int(i)].text in asked]
    assert again
    for i in again:
        options = len(advice.situations[int(i)].options)
        assert advice.prior[i].argmax() == options - 1 and (options == 1 or earlier[i].argmax() == 0)


@pytest.mark.parametrize("arm", ["no-tune", "one-way"])
def test_what_worked_is_told_to_the_teacher_of_an_arm_with_feedback_and_it_is_asked_again(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pupil, "favourite", -1)  # to open a door without its key, and to drop the key before it
    played = Played(tmp_path, arm, "teacher.queries_per_round=100", "teacher.feedback=both", rounds=4)
    advice, teacher = played.players.advice.table, played.teacher
    if not ARMS[arm].feedback:
        assert not teacher.heard
        return
    assert len(teacher.heard) == 2 and not advice.asked.any(), "every second round, like tunings"
    model = played.players.advice.evidence.model
    assert teacher.heard[1].examples and teacher.heard[1].evidence
    for text, option in teacher.heard[1].examples:
        numbers = [number for number, situation in enumerate(advice.situations) if situation.text == text]
        slots = [(number, advice.situations[number].options.index(option)) for number in numbers]
        assert any(model.tries[at] > model.failures[at] for at in slots), "it was done there"


def test_by_default_nothing_is_told(tmp_path: Path) -> None:
    assert Played(tmp_path, "mutual").teacher.heard == []


def test_guidance_of_no_weight_and_nobody_led_is_the_student_alone(tmp_path: Path) -> None:
    alone = Played(tmp_path, "student-only")
    closed = Played(tmp_path, "uniform", "guidance.weight=0", "collect.led_share_max=0", "collect.led_share_min=0")
    assert alone.learned and same(weights(alone.loop), weights(closed.loop))
    guided = Played(tmp_path, "uniform", "collect.led_share_max=0", "collect.led_share_min=0")
    assert not same(weights(alone.loop), weights(guided.loop)), "with a weight it is not"


def test_only_the_students_own_rows_are_its_policys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played, batches = Played(tmp_path, "no-llm", rounds=0), list[Batch]()
    update = played.players.students[0].learner.update

    def watched(batch: Batch, replay: Any = None) -> dict[str, float]:
        batches.append(batch)
        return update(batch, replay)

    monkeypatch.setattr(played.players.students[0].learner, "update", watched)
    play_round(played.players, [played.rung], lambda phase: None)
    (rollout,), (batch,) = played.rollouts, batches
    own, controlled = rollout.valid & ~rollout.controlled, rollout.valid & rollout.controlled
    assert own.sum() > 100 and controlled.sum() > 100 and not rollout.valid.all()
    assert np.array_equal(batch.features, rollout.features[:-1][own]) and np.array_equal(batch.actions, rollout.actions[own])
    assert np.array_equal(batch.value_features, rollout.features[:-1][controlled]), "the teacher's rows teach the critic"


@pytest.mark.parametrize("arm", ["mutual", "student-only"])
def test_the_seed_decides_everything(arm: str, tmp_path: Path) -> None:
    first, again, other = (Played(tmp_path, arm, f"seed={seed}") for seed in (7, 7, 8))
    assert first.metrics == again.metrics and same(weights(first.loop), weights(again.loop))
    assert np.array_equal(first.players.advice.table.exploration, again.players.advice.table.exploration)
    assert first.metrics != other.metrics and not same(weights(first.loop), weights(other.loop))


def begin(folder: Path, *settings: str) -> tuple[Config, Run]:
    config = load(None, [*SMALL, *SCHOOLING, *settings])
    return config, Run.create(folder, config)


def test_two_runs_with_the_same_seed_leave_the_same_metrics_but_for_the_time(tmp_path: Path) -> None:
    def rows(name: str) -> list[dict[str, Any]]:
        config, run = begin(tmp_path / name, "steps=3500", "arm=mutual")
        with run:
            train(config, run)
        return [{key: value for key, value in row.items() if "second" not in key} for row in run.metrics()]

    once = rows("once")
    assert len(once) == 4 and rows("twice") == once


def interrupting(after: int) -> Callable[[Any], None]:
    """A display that presses Ctrl-C when the given number of rounds has been played."""
    shown = []

    def show(progress: Any) -> None:
        if progress.phase == "collect":
            shown.append(progress)
            if len(shown) == after:
                raise KeyboardInterrupt

    return show


def test_a_run_that_was_interrupted_goes_on_with_the_same_players(tmp_path: Path) -> None:
    config, run = begin(tmp_path / "run", "steps=4500", "arm=mutual")
    with run, pytest.raises(KeyboardInterrupt):
        train(config, run, interrupting(after=3))
    rounds = run.metrics()
    assert [row["round"] for row in rounds] == [1, 2, 3]
    run.log(rounds[-1] | {"round": 4, "steps": 1})  # as a run leaves behind that was killed after its last checkpoint
    run.close()

    with Run.open(tmp_path / "run") as run:
        saved, taken_up = Loop(config, run), Loop(config, run)
        (state,) = taken_up.take_up(run.latest_checkpoint())
        assert (state["rounds"], state["steps"]) == (3, rounds[-1]["steps"])
        assert not same(weights(saved), weights(taken_up)), "what is taken up is not what one begins with"
        players = taken_up.players
        assert (
            players.teacher.usage.tunings == 1 and players.advice.evidence.model.tries.sum() > 0 and len(players.situations) > 0
        )
        assert players.advice.table.asked.shape == (len(players.situations),)
        train(config, run, resume=True)
        later = run.metrics()
    assert [row["round"] for row in later] == list(range(1, len(later) + 1)) and later[:3] == rounds
    assert later[3]["steps"] > rounds[-1]["steps"] and later[-1]["steps"] >= 4500 > later[-2]["steps"]


def test_a_checkpoint_holds_the_players_exactly(tmp_path: Path) -> None:
    played = Played(tmp_path, "mutual", rounds=3)
    checkpoint.save_players(tmp_path / "checkpoint", played.players)
    other = Loop(played.config, Run(tmp_path, played.config)).players
    checkpoint.load_players(tmp_path / "checkpoint", other)
    mine, theirs = played.players, other
    assert same(mine.students[0].learner.state_dict(), theirs.students[0].learner.state_dict())
    assert [asdict(s) for s in mine.situations] == [asdict(s) for s in theirs.situations]
    assert (
        np.array_equal(mine.advice.evidence.model.tries, theirs.advice.evidence.model.tries)
        and mine.advice.evidence.model.state() == theirs.advice.evidence.model.state()
    )
    assert np.allclose(mine.advice.table.prior, theirs.advice.table.prior) and np.array_equal(
        mine.advice.table.asked, theirs.advice.table.asked
    )
    assert mine.draw_seed() == theirs.draw_seed()


def test_the_players_climb_on_with_what_they_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = begin(tmp_path / "run", f"tasks={UNLOCK},MiniGrid-UnlockPickup-v0", "steps=3500", "arm=mutual")
    begun: list[dict[str, Any]] = []
    start = Rung.__init__

    def watched(self: Rung, index: int, config: Config, players: Any, state: Any = None) -> None:
        start(self, index, config, players, state)
        begun.append(
            {
                "weights": players.students[0].learner.state_dict(),
                "tries": players.advice.evidence.model.tries.sum(),
                "met": len(players.situations),
            }
        )

    monkeypatch.setattr(Rung, "__init__", watched)
    with run:
        first, second = train(config, run)
    assert not same(begun[0]["weights"], begun[1]["weights"])
    assert begun[0]["tries"] == 0 < begun[1]["tries"] and begun[0]["met"] < begun[1]["met"]
    assert (first["rung"], second["rung"]) == (0, 1) and second["situations"] > first["situations"]
    assert [row["rung"] for row in run.metrics()] == [0] * 4 + [1] * 4, "each rung has a budget of its own"
    whole = json.loads((run.folder / "summary.json").read_text())
    assert whole["task"] == "MiniGrid-UnlockPickup-v0" and [rung["task"] for rung in whole["rungs"]] == config.tasks


@pytest.mark.parametrize("arm", ["mutual", "student-only", "llm-only"])
def test_the_summary_says_what_the_design_lists(arm: str, tmp_path: Path) -> None:
    config, run = begin(tmp_path / "run", "steps=2500", f"arm={arm}")
    with run:
        train(config, run)
    summary = json.loads((run.folder / "summary.json").read_text())
    assert set(summary) >= SUMMARY
    assert (summary["task"], summary["arm"], summary["seed"]) == (UNLOCK, arm, 0)
    assert (summary["teacher_success_before"] is None) == (arm == "student-only")
    assert (summary["llm_queries"] > 0) == (arm != "student-only")
    rows = [json.loads(line) for line in (run.folder / "advice.jsonl").read_text().splitlines()]
    assert rows and all(len(row["p"]) == len(row["options"]) == len(row["improved"]) == len(row["tries"]) for row in rows)
    assert list((run.folder / "videos").glob("*.gif"))


def test_without_an_llm_the_student_learns_to_unlock_a_door(tmp_path: Path) -> None:
    config = load(None, [f"tasks={UNLOCK}", "arm=no-llm", "steps=60000", "threads=1", "episodes=50", "stop_at=0.97"])
    with Run.create(tmp_path / "run", config) as run:
        (summary,) = train(config, run)
    assert summary["steps"] <= 62_000
    assert summary["success"] >= 0.8, "greedy, alone, on the reference environments"


@pytest.mark.parametrize("fresh", ["nothing", "teacher", "student"])
def test_what_is_not_carried_over_begins_anew(fresh: str, tmp_path: Path) -> None:
    played = Played(tmp_path, "mutual", f"fresh={fresh}")
    players = played.players
    before, tries, spent = weights(played.loop), players.advice.evidence.model.tries.sum(), players.teacher.usage.queries
    players.next_rung()
    assert same(before, weights(played.loop)) == (fresh != "student")
    assert (players.advice.evidence.model.tries.sum() == tries) == (fresh != "teacher") and tries > 0
    assert players.teacher.usage.queries == spent > 0, "what was spent stays recorded"
    play_round(players, [Rung(1, load(None, [*SMALL, *SCHOOLING, f"tasks={UNLOCK},{UNLOCK}"]), players)], lambda phase: None)


def test_the_student_alone_is_examined_and_a_rung_ends_when_the_reference_confirms_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = begin(tmp_path / "run", "steps=30000", "arm=student-only", "stop_at=0.95")
    confirmed = iter([0.9, 0.96])

    def alone(self: Any, who: str, task: str) -> dict[str, float]:
        return {"success": next(confirmed, 1.0), "return": 0.5} if who == "student" else {}

    monkeypatch.setattr(Examiner, "greedy_success", lambda self, task: 1.0)
    monkeypatch.setattr(Examiner, "success_and_return", alone)
    with run:
        (summary,) = train(config, run)
    evaluations = [row["success_greedy"] for row in run.metrics() if "success_greedy" in row]
    assert summary["held"] and summary["budget"] == 30_000 > summary["steps"]
    assert len(evaluations) == len(summary["curve"]) == 6, "five in a row, refused once, confirmed at the next"
    assert summary["steps_to_80"] == summary["steps_to_95"] == summary["curve"][2][0]


def test_a_teacher_at_school_is_taught_where_it_went_and_keeps_its_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(tmp_path, "mutual", "teacher.tune_every=100", rounds=4)
    went = np.flatnonzero(played.players.advice.table.value > 0)[-2:]
    grades = iter([0.2, 0.8, *[0.5] * 100])

    def roll_out(self: Any, climbed: list[str]) -> tuple[float, NDArray[np.float64]]:
        met = np.zeros(len(self.players.situations))
        met[went] = 7.0
        return next(grades), met

    monkeypatch.setattr(Examiner, "roll_out_teacher", roll_out)
    while played.loop.schooling.advance([UNLOCK]):
        pass
    situations = played.players.situations
    assert {lesson.situation.text for lesson in played.teacher.lessons} <= {situations[int(i)].text for i in went}
    assert len(played.teacher.lessons) > 1, "it was taught again and again"
    assert played.teacher.usage.tunings == 1, "the second grade was the best: the weights after the first tuning"
    assert not played.players.advice.table.asked.any(), "what other weights said is to be asked again"


def test_without_schooling_the_teacher_stays_as_the_rounds_left_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(tmp_path, "mutual", "teacher.tune_every=100", "teacher.schooling=0", rounds=2)
    monkeypatch.setattr(Examiner, "roll_out_teacher", pytest.fail)
    assert not played.loop.schooling.advance([UNLOCK])


def test_practice_is_the_teachers_advice_alone(tmp_path: Path) -> None:
    players = Played(tmp_path, "mutual", rounds=1).players
    success, met = Examiner(players).roll_out_teacher([UNLOCK])
    assert 0.0 <= success <= 1.0 and met.sum() >= 2, "every episode chose at least once"
    assert players.advice.table.initialised[met > 0].all()
