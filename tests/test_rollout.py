"""Collecting: which rows the teacher controls, what counts as a step, and which outcomes of options are recorded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from coteach.config import CollectConfig
from coteach.envs import levels, tasks
from coteach.grounding.base import Grounded, Observation, Situations
from coteach.grounding.follower import Ending
from coteach.grounding.minigrid import MiniGridGrounding
from coteach.grounding.outcomes import TERMINAL
from coteach.student.rollout import Collector, Episode, Rollout
from coteach.teacher.scripted import OracleTeacher

UNLOCK = "MiniGrid-Unlock-v0"
LEFT, ACTIONS = 0, 7


class Watched(MiniGridGrounding):
    """The real grounding; `now` and `before` are its last two steps. With `turning`, every controller turns on the spot."""

    def __init__(self, envs: int, turning: bool = False) -> None:
        super().__init__(envs, num_actions=ACTIONS)
        self.turning = turning
        self.now: Grounded
        self.before: Grounded

    def observe(self, observation: Observation, actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        now = super().observe(observation, actions, restarted)
        if self.turning:
            now.actions = np.where(now.actions >= 0, LEFT, -1).astype(np.int8)
        self.before, self.now = getattr(self, "now", now), now
        return now

    def expert(self) -> NDArray[np.int64]:
        """Return the slot that the scripted expert chooses in every environment."""
        slots = [self.situations[int(number)].expert for number in self.now.situation]
        return np.array([0 if slot is None else slot for slot in slots])

    def events(self) -> list[tuple[int, int]]:
        """Return (situation, slot) of every option that the last step completed."""
        found = [(env, slot) for env in np.flatnonzero(self.now.completed) for slot in range(self.max_options)]
        return [(int(self.before.situation[e]), s) for e, s in found if int(self.now.completed[e]) >> s & 1]


class Acting:
    """A student that takes the given actions, or random ones."""

    def __init__(self, choose=None) -> None:
        self.rng = np.random.default_rng(0)
        self.choose = choose or (lambda rows: self.rng.integers(0, ACTIONS, rows))

    def act(self, features):
        rows = len(features)
        return np.asarray(self.choose(rows), dtype=np.int64), np.zeros(rows, np.float32), np.full(rows, 0.5, np.float32)


class Table:
    """A collector on a task that is played step by step."""

    def __init__(self, task: str = UNLOCK, envs: int = 8, share: float = 0.0, patience: int = 40, turning: bool = False) -> None:
        self.grounding = Watched(envs, turning)
        self.collector = Collector(
            tasks.make(task, "minigrid", envs, 0),
            self.grounding,
            CollectConfig(option_patience=patience),
            np.random.default_rng(0),
        )
        self.share = share
        self.collector.assign_all(share)

    def oracle(self, numbers: NDArray[np.int64], optimistic: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the expert's option in these situations, with probability 1."""
        advice = np.zeros((len(numbers), self.grounding.max_options))
        situations = [self.grounding.situations[int(number)] for number in numbers]
        for row, answer in zip(advice, OracleTeacher().advise(situations), strict=True):
            row[int(answer.argmax())] = 1.0
        return advice

    def step(self, student: Acting) -> Rollout:
        """Take one step; the oracle is the teacher."""
        return self.collector.collect(1, student, self.oracle, self.share)

    def expert(self) -> Acting:
        """Return a student that acts like the expert's controller."""

        def choose(rows: int) -> NDArray[np.int64]:
            return np.maximum(self.grounding.now.actions[np.arange(rows), self.grounding.expert()], 0)

        return Acting(choose)


def test_a_restart_is_neither_a_row_nor_a_step() -> None:
    table = Table("MiniGrid-Empty-5x5-v0", envs=4)
    rollout = table.collector.collect(120, Acting(lambda rows: np.full(rows, LEFT)), table.oracle, 0.0)
    assert rollout.truncated.sum(axis=0).tolist() == [1] * 4
    (ended,) = set(np.flatnonzero(rollout.truncated.any(axis=1)).tolist())
    assert ended == 99 and np.flatnonzero(~rollout.valid.all(axis=1)).tolist() == [100]
    assert table.collector.steps == 4 * 119
    assert [episode.length for episode in rollout.episodes] == [100] * 4
    assert not rollout.rewards[100].any() and not (rollout.terminated | rollout.truncated)[100].any()


def test_an_episode_is_counted_whole_however_rounds_cut_it() -> None:
    def episodes(rounds: list[int]) -> list[Episode]:
        table = Table("MiniGrid-Unlock-v0", envs=4)
        student = table.expert()
        parts = [table.collector.collect(steps, student, table.oracle, 0.0) for steps in rounds]
        return [episode for part in parts for episode in part.episodes]

    whole = episodes([100])
    assert len(whole) >= 12 and len({episode.length for episode in whole}) > 3
    assert all(0 < episode.reward <= 1 for episode in whole)
    assert 300 < sum(episode.length for episode in whole) + len(whole) <= 4 * 100, "each has a restart after it, at most"
    assert episodes([7] * 14 + [2]) == whole


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_environments_that_the_teacher_controls_is_kept(share: float) -> None:
    table = Table(share=share)
    for _ in range(60):
        rollout = table.step(Acting())
        assert rollout.controlled.sum() == share * 8


@pytest.mark.slow
@pytest.mark.parametrize("envs", [1, 2, 3, 8])
@pytest.mark.parametrize("share", [0.0625, 0.3, 0.5])
def test_shares_are_kept_over_time_also_in_few_environments(envs: int, share: float) -> None:
    """Environments cannot be divided: the teacher controls every so many episodes, and half of those are optimistic."""
    table = Table("MiniGrid-Empty-5x5-v0", envs=envs, share=share)
    rollout = table.collector.collect(6000, table.expert(), table.oracle, share)
    assert rollout.controlled.mean() == pytest.approx(share, abs=0.01)
    led = [episode for episode in rollout.episodes if episode.controlled]
    assert np.mean([episode.optimistic for episode in led]) == pytest.approx(0.5, abs=0.1)


def test_a_share_that_shrinks_shrinks_with_the_episodes_that_end() -> None:
    table = Table("MiniGrid-Empty-5x5-v0", share=1.0)
    table.share = 0.25
    seen = [int(table.step(Acting()).controlled.sum()) for _ in range(40)]
    assert seen[0] == 8 and seen[-1] == 2 and seen == sorted(seen, reverse=True)


def test_the_oracle_solves_every_episode_and_random_actions_none() -> None:
    controlled, alone = Table(share=1.0), Table(share=0.0)
    by_oracle = [episode for _ in range(120) for episode in controlled.step(Acting()).episodes]
    by_chance = [episode for _ in range(120) for episode in alone.step(Acting()).episodes]
    assert len(by_oracle) >= 24 and all(episode.success and episode.controlled for episode in by_oracle)
    assert not any(episode.success or episode.controlled for episode in by_chance)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_completion_is_counted_once_whoever_acted(share: float) -> None:
    table = Table(share=share)
    student, happened, counted = table.expert(), Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for _ in range(100):
        rollout = table.step(student)
        happened.update(table.grounding.events())
        ended = table.collector.follower.ended
        completed = ended.ending == Ending.COMPLETED
        counted.update(zip(ended.situation[completed].tolist(), ended.slot[completed].tolist(), strict=True))
        counted.update((o.situation, o.slot) for o in rollout.outcomes if o.duration is None and not o.failed)
    table.step(student)  # the end of a followed option is detected on the next step
    ended = table.collector.follower.ended
    completed = ended.ending == Ending.COMPLETED
    counted.update(zip(ended.situation[completed].tolist(), ended.slot[completed].tolist(), strict=True))
    assert sum(happened.values()) > 20 and counted == happened


def test_options_completed_by_the_student_have_no_duration() -> None:
    table = Table(share=0.0)
    student = table.expert()
    rollouts = [table.step(student) for _ in range(60)]
    outcomes = [outcome for rollout in rollouts for outcome in rollout.outcomes]
    assert outcomes and all(outcome.duration is None for outcome in outcomes)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_option_that_ends_an_episode_leads_nowhere_and_has_its_reward(share: float) -> None:
    table = Table(share=share)
    student = table.expert()
    rollouts = [table.step(student) for _ in range(100)]
    rewarded = [o for rollout in rollouts[:-1] for o in rollout.outcomes if o.reward > 0]
    ended = sum(int(rollout.terminated.sum()) for rollout in rollouts[:-2])
    assert 10 < ended <= len(rewarded)
    assert all(outcome.following == TERMINAL and not outcome.failed for outcome in rewarded)
    others = [o for rollout in rollouts for o in rollout.outcomes if o.reward == 0 and not o.failed]
    assert others and all(outcome.following >= 0 for outcome in others)


def test_an_option_cut_off_by_the_time_limit_has_no_outcome() -> None:
    table = Table("MiniGrid-Empty-5x5-v0", envs=4, share=1.0, patience=1000, turning=True)
    student = Acting()
    until = [table.step(student) for _ in range(100)]
    assert until[-1].truncated.all() and (table.collector.follower.slot >= 0).all()
    after = table.step(student)
    assert table.collector.follower.ended.ending.tolist() == [Ending.EPISODE_END] * 4
    assert after.outcomes == []


def test_an_option_that_never_ends_fails_by_timeout() -> None:
    table = Table("MiniGrid-Empty-5x5-v0", envs=4, share=1.0, patience=30, turning=True)
    student = Acting()
    outcomes = [outcome for _ in range(99) for outcome in table.step(student).outcomes]
    late = [outcome for outcome in outcomes if outcome.duration == 30]
    assert len(late) >= 4 and all(outcome.failed for outcome in late)


def test_options_are_drawn_uniformly_without_advice() -> None:
    table = Table(share=1.0)

    def nothing(numbers: NDArray[np.int64], optimistic: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.zeros((len(numbers), table.grounding.max_options))

    rollout = table.collector.collect(100, Acting(lambda rows: np.full(rows, LEFT)), nothing, 1.0)
    followed = Counter((o.situation, o.slot) for o in rollout.outcomes if o.duration is not None)
    busiest = Counter(situation for situation, _ in followed.elements()).most_common(1)[0][0]
    assert len([slot for situation, slot in followed if situation == busiest]) > 1


def going_on(task: str, tmp_path: Path) -> Iterator[tuple[Collector, MiniGridGrounding]]:
    """Yield a collector in the middle of its episodes, and another one restored from the JSON of the first."""
    situations = Situations()
    state = None
    for _ in range(2):
        environments = tasks.make(task, "minigrid", 12, seed=4)
        grounding = MiniGridGrounding(12, situations, environments.num_actions)
        collector = Collector(environments, grounding, CollectConfig(option_patience=15), np.random.default_rng(1), state)
        if state is None:
            collector.assign_all(0.5)
            collector.collect(97, Acting(lambda rows: np.random.default_rng(2).integers(0, 3, rows)), uniform, 0.5)
            (tmp_path / "state.json").write_text(json.dumps(collector.state()))
        state = json.loads((tmp_path / "state.json").read_text())
        collector.rng = np.random.default_rng(3)
        yield collector, grounding


def uniform(numbers: NDArray[np.int64], optimistic: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.ones((len(numbers), MiniGridGrounding.max_options))


@pytest.mark.parametrize("task", levels.task_ids()[::12])
def test_episodes_under_way_are_restored_with_their_belief_maps(task: str, tmp_path: Path) -> None:
    (first, one), (second, other) = going_on(task, tmp_path)
    for mine, theirs in zip(one.belief, other.belief, strict=True):
        assert np.array_equal(mine, theirs)
    kept, again = (collector.collect(40, Acting(), uniform, 0.5) for collector in (first, second))
    for name in ("features", "situation", "controls", "actions", "rewards", "terminated", "truncated", "valid", "controlled"):
        assert np.array_equal(getattr(kept, name), getattr(again, name)), name
    assert (
        kept.outcomes == again.outcomes
        and kept.episodes == again.episodes
        and first.controlled.any()
        and not first.controlled.all()
    )
