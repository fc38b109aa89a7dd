"""Environments of every kind: each is played, or refused in one line that names the task, what is wrong and the way out."""

from __future__ import annotations

import decimal
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

import coteach
import worlds
from coteach.commands import cli
from coteach.envs import contract, tasks
from coteach.envs.engines import MOST_STEPS, GymnasiumTask
from coteach.errors import CoteachError, Note, RunFailed
from coteach.evaluation.episodes import evaluate_student
from coteach.grounding.base import Situations


class World(gymnasium.Env[Any, Any]):
    """Shows samples of its space; an episode ends with its third step. Each field can be replaced by a wrong one."""

    reward: Any = 1.0
    ends: Any = (True, False)
    length = 3

    def __init__(self, space: spaces.Space[Any] = worlds.PLACE, actions: spaces.Space[Any] | None = None, **fields: Any) -> None:
        self.observation_space, self.action_space = space, actions or spaces.Discrete(2)
        for name, value in fields.items():
            setattr(self, name, value)

    def show(self) -> Any:
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.show(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        assert self.action_space.contains(action), action
        terminated, truncated = self.ends if self.steps >= self.length else (False, False)
        return self.show(), self.reward, terminated, truncated, {}


def registered(make: Any, **more: Any) -> str:
    more = {"actions": ("left", "right"), **more}
    coteach.register("World-v0", make=make, describe=lambda seen: "A world of any kind.", **more)
    return "World-v0"


def played(make: Any, **more: Any) -> GymnasiumTask:
    """Check the task as a run does, and play ten steps of two environments with its grounding."""
    task = registered(make, **more)
    environments = tasks.make(task, "auto", 2, 0)
    grounding = tasks.family(task).ground(2, Situations(), environments.num_actions)
    grounding.observe(environments.reset(), None, np.ones(2, dtype=np.bool_))
    for _ in range(10):
        step = environments.step(np.array([0, 1]))
        grounding.observe(step.observation, np.array([0, 1]), step.restarted)
    assert isinstance(environments, GymnasiumTask)
    environments.close()
    return environments


def doctor(make: Any, **more: Any) -> contract.Report:
    task = registered(make, **more)
    return contract.check(tasks.family(task).ground, tasks.reference(task, 2, 0), 20)


BOX = spaces.Box(-1.0, 1.0, (4,), np.float32)
PICTURE = spaces.Box(0, 255, (20, 30, 3), np.uint8)
GOOD_SPACES: list[spaces.Space[Any]] = [
    spaces.Discrete(4),
    spaces.Discrete(4, start=3),
    spaces.Discrete(4, start=-2),
    BOX,
    spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
    spaces.Box(0, 7, (3,), np.int64),
    spaces.Box(np.array([0.0, -np.inf], np.float32), np.array([1.0, np.inf], np.float32)),
    spaces.Box(0.0, 1.0, (), np.float32),
    PICTURE,
    spaces.Box(0, 255, (3, 20, 30), np.uint8),
    spaces.MultiBinary(3),
    spaces.MultiBinary((2, 3)),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([2, 3], start=[1, -1]),
    spaces.Dict({"a": BOX, "b": spaces.Discrete(3)}),
    spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2))),
    spaces.Dict({"a": spaces.Tuple((BOX, spaces.Dict({"b": PICTURE}))), "c": spaces.Discrete(2, start=1)}),
]
BAD_SPACES: list[tuple[spaces.Space[Any], str]] = [
    (spaces.Text(5), "observation space Text"),
    (spaces.Sequence(spaces.Discrete(2)), "observation space Sequence"),
    (spaces.Graph(BOX, None), "observation space Graph"),
    (spaces.OneOf((spaces.Discrete(2), BOX)), "observation space OneOf"),
    (spaces.Dict({"a": spaces.Tuple((spaces.Text(3),))}), "observation space Text at a/0"),
]


@pytest.mark.parametrize("space", GOOD_SPACES, ids=str)
def test_every_space_of_fixed_size_is_played_alone_and_nested(space: spaces.Space[Any]) -> None:
    played(lambda: World(space))
    nested = spaces.Dict({"x": space, "y": spaces.Tuple((space, spaces.Discrete(2)))})
    played(lambda: World(nested))
    assert doctor(lambda: World(nested)).kept


@pytest.mark.parametrize(("space", "message"), BAD_SPACES, ids=[type(space).__name__ for space, _ in BAD_SPACES])
def test_a_space_without_a_fixed_size_is_refused(space: spaces.Space[Any], message: str) -> None:
    refused(lambda: World(space), message)


@pytest.mark.parametrize("start", [-3, 0, 5])
def test_actions_that_begin_anywhere_are_played(start: int) -> None:
    played(lambda: World(actions=spaces.Discrete(2, start=start)))


@pytest.mark.parametrize(
    "space", [BOX, spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(2), spaces.Tuple((spaces.Discrete(2),))], ids=str
)
def test_actions_that_are_not_numbered_are_refused(space: spaces.Space[Any]) -> None:
    refused(lambda: World(actions=space), f"its action space {type(space).__name__} is not discrete")


def refused(make: Any, message: str, **more: Any) -> None:
    """A run and the doctor refuse the task with the same line."""
    for use in (played, doctor):
        with pytest.raises(CoteachError) as error:
            use(make, **more)
        text = str(error.value)
        assert text.startswith("task 'World-v0'") and message in text and "\n" not in text


WRONG_OBSERVATIONS: list[tuple[spaces.Space[Any], Any]] = [
    (BOX, 0.5),
    (BOX, [0.5]),
    (BOX, np.zeros((4, 1), np.float32)),
    (BOX, np.full(4, 2.0)),
    (BOX, np.full(4, np.nan)),
    (BOX, "left"),
    (BOX, None),
    (BOX, [[1, 2], [3]]),
    (spaces.Discrete(4), -1),
    (spaces.Discrete(4), 4),
    (spaces.Discrete(4), 1.0),
    (spaces.Discrete(4, start=3), 0),
    (PICTURE, np.zeros((20, 30, 3))),
    (PICTURE, np.full((20, 30, 3), 300)),
    (PICTURE, np.zeros((30, 20, 3), np.uint8)),
    (spaces.MultiBinary(3), [0, 1, 2]),
    (spaces.MultiDiscrete([2, 3]), [0, 3]),
    (spaces.Dict({"a": BOX}), {"b": np.zeros(4, np.float32)}),
    (spaces.Dict({"a": BOX}), np.zeros(4, np.float32)),
    (spaces.Tuple((BOX, spaces.Discrete(2))), (np.zeros(4, np.float32),)),
]


@pytest.mark.parametrize(("space", "shown"), WRONG_OBSERVATIONS, ids=lambda value: " ".join(str(value).split())[:40])
def test_an_observation_outside_its_space_is_refused(space: spaces.Space[Any], shown: Any) -> None:
    refused(lambda: World(space, show=lambda: shown), "is not in its space")


@pytest.mark.parametrize(
    ("space", "shown"),
    [(BOX, np.zeros(4)), (BOX, [0, 0.5, 1, -1]), (spaces.Discrete(4), np.int32(2)), (PICTURE, np.zeros((20, 30, 3), np.int64))],
    ids=["float64 for float32", "list", "numpy integer", "integers that are bytes"],
)
def test_an_observation_of_another_type_that_holds_the_same_is_taken(space: spaces.Space[Any], shown: Any) -> None:
    played(lambda: World(space, show=lambda: shown))


def test_an_observation_that_leaves_its_space_later_ends_the_run_in_one_line() -> None:
    class Shrinks(World):
        def show(self) -> Any:
            return np.zeros(4 if self.steps < 2 else 1, np.float32)

    with pytest.raises(RunFailed, match=r"task 'World-v0': the observation .* is not in its space Box") as error:
        played(lambda: Shrinks(BOX))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "reward",
    [1, 1.0, True, np.float32(1), np.int64(1), np.bool_(1), np.array(1.0), np.array([1.0])],
    ids=lambda r: type(r).__name__,
)
def test_rewards_of_every_type_of_number_count(reward: Any) -> None:
    environments = tasks.reference(registered(lambda: World(reward=reward)), 2, 0)
    environments.reset()
    assert environments.step(np.array([0, 0])).reward.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("reward", [None, "1", [1.0], np.ones(2), decimal.Decimal(1), {}, 1j], ids=lambda r: type(r).__name__)
def test_a_reward_that_is_no_number_is_refused(reward: Any) -> None:
    refused(lambda: World(reward=reward), "reward is")


@pytest.mark.parametrize("ends", [(True, True), (False, True), (np.True_, np.False_), (1, 0)], ids=str)
def test_every_way_to_end_an_episode_begins_a_new_one(ends: Any) -> None:
    for length in (1, 3):
        environments = tasks.reference(registered(lambda: World(ends=ends, length=length)), 2, 0)  # noqa: B023
        environments.reset()
        rows = [environments.step(np.array([0, 1])) for _ in range(2 * (length + 1))]
        assert [bool(row.restarted[0]) for row in rows] == ([False] * length + [True]) * 2
        assert bool(rows[length - 1].terminated[0]) == bool(ends[0]) and bool(rows[length - 1].truncated[0]) == bool(ends[1])


def raising(name: str, **more: Any) -> Any:
    """Makes worlds one of whose methods raises."""

    def raises(*given: Any, **named: Any) -> Any:
        raise ZeroDivisionError("division by zero\nin the world")

    return lambda: World(**{name: raises}, **more)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (raising("reset"), "reset(seed=...) raised ZeroDivisionError: division by zero (" + __file__),
        (raising("step"), "step(0) raised ZeroDivisionError: division by zero (" + __file__),
        (raising("show"), "raised ZeroDivisionError: division by zero"),
        (lambda: World(reset=lambda: (0, {})), "reset(seed=...) raised TypeError"),
        (lambda: World(reset=lambda seed: 0), "reset returned a int: expected (observation, info)"),
        (lambda: World(reset=lambda seed: np.zeros(2)), "reset returned a ndarray"),
        (lambda: World(reset=lambda seed: (0, 1)), "reset returned a tuple of 2"),
        (lambda: World(step=lambda action: (0, 1.0, True, {})), "step returned a tuple of 4"),
        (lambda: World(step=lambda action: None), "step returned a NoneType"),
        (lambda: World(step=lambda action: (0, 1.0, "yes", False, {})), "terminated is 'yes'"),
        (lambda: World(step=lambda action: (0, 1.0, True, None, {})), "truncated is None"),
        (lambda: 1 / 0, "cannot be made: division by zero"),
        (lambda: None, "no Gymnasium environment"),
    ],
)
def test_an_environment_that_breaks_gymnasiums_rules_is_refused(make: Any, message: str) -> None:
    refused(make, message)


def test_an_environment_that_breaks_later_ends_the_run_in_one_line() -> None:
    class Breaks(World):
        def step(self, action: Any) -> Any:
            return super().step(action) if self.steps < 2 else 1 / 0

    with pytest.raises(RunFailed, match=r"task 'World-v0': step\(0\) raised ZeroDivisionError: division by zero \(.*line \d+\)"):
        played(Breaks)


def test_an_environment_whose_close_raises_costs_a_note_only() -> None:
    with pytest.warns(Note, match="task 'World-v0': close raised ZeroDivisionError: division by zero"):
        played(raising("close"))


def test_an_environment_that_cannot_draw_is_not_filmed() -> None:
    environments = tasks.reference(registered(raising("render")), 1, 0)
    with pytest.raises(CoteachError, match="task 'World-v0': cannot be filmed"):
        environments.frame(0)


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: TimeLimit(env, 5)], ids=["bare", "wrapped"])
def test_one_environment_for_all_is_refused(wrap: Any) -> None:
    shared = World()
    refused(lambda: wrap(shared), "make returned the same World twice: expected a new one")


def endless() -> World:
    return World(length=10**9)


def test_an_environment_without_a_time_limit_is_cut_off_and_the_doctor_calls_it_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coteach.envs.engines.MOST_STEPS", 50)
    task = registered(endless)

    class Left:
        def greedy(self, features: Any) -> Any:
            return np.zeros(len(features), dtype=np.int64)

    with pytest.warns(Note, match="an episode had no end after 50 steps and is truncated; wrap") as notes:
        result = evaluate_student(Left(), task, lambda n, a: tasks.family(task).ground(n, Situations(), a), episodes=3)
    assert result.lengths.tolist() == [50] * 3 and len(notes) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        report = doctor(endless)
    assert not report.kept and any("no episode ended" in finding.what for finding in report.findings)


def test_a_limit_that_the_task_is_registered_with_is_kept_without_a_word() -> None:
    assert MOST_STEPS > 40
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        assert doctor(endless, max_episode_steps=7).kept
        environments = tasks.reference("World-v0", 2, 0)
        environments.reset()
        ends = [bool(environments.step(np.array([0, 0])).truncated[0]) for _ in range(7)]
    assert ends == [False] * 6 + [True]


def test_a_return_equal_to_gymnasiums_threshold_is_a_success() -> None:
    for threshold in (0.7, 100.0, -3.0):
        name = f"Threshold{abs(int(threshold * 10))}-v0"
        gymnasium.register(name, lambda: World(reward=0.0, length=1), reward_threshold=threshold)
        coteach.register(name, lambda seen: "A world.", ("left", "right"))
        scoring = tasks.reference(name, 1, 0).scoring
        assert float(np.float32(threshold)) > scoring.solved_at > threshold - 1e-3 * abs(threshold)


def test_what_an_environment_prints_is_kept_out_of_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Prints(World):
        def step(self, action: Any) -> Any:
            print("a step!")
            return super().step(action)

    task = registered(lambda: Prints(length=2))
    words = ["train", "--task", task, "--arm", "no-llm", "--steps", "64", "--envs", "4", "--threads", "1", "--json"]
    assert cli.main([*words, "--out", str(tmp_path / "run"), "collect.horizon=8", "episodes=2", "evaluation.levels=2"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["rungs"][0]["task"] == task and "a step!" in err


def test_a_time_limit_of_the_environment_is_kept_however_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coteach.envs.engines.MOST_STEPS", 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        environments = tasks.reference(registered(lambda: gymnasium.wrappers.OrderEnforcing(TimeLimit(endless(), 80))), 1, 0)
        environments.reset()
        ends = [bool(environments.step(np.array([0])).truncated[0]) for _ in range(80)]
    assert ends == [False] * 79 + [True]


@pytest.mark.parametrize(
    ("space", "good", "bad"),
    [
        (spaces.MultiDiscrete([2, 3]), [0, 1], [2, 1]),
        (spaces.MultiDiscrete([2, 3]), [0, 1], [-1, 1]),
        (spaces.MultiBinary(3), [0, 1, 1], [0, 2, 1]),
    ],
    ids=str,
)
def test_a_part_that_would_be_anothers_flag_ends_the_run_when_it_comes_later(space: Any, good: Any, bad: Any) -> None:
    class Leaves(World):
        def show(self) -> Any:
            return np.array(good if self.steps < 2 else bad, space.dtype)

    with pytest.raises(RunFailed, match="is not in its space Multi"):
        played(lambda: Leaves(space))


@pytest.mark.parametrize("reward", [1e39, -1e39, 10**400], ids=["1e39", "-1e39", "10**400"])
def test_a_reward_beyond_float32_is_refused_with_the_way_out(reward: Any) -> None:
    refused(lambda: World(reward=reward), "larger than 3.4e+38, the largest float32 number; scale it down")


def test_a_masked_reward_is_no_number() -> None:
    refused(lambda: World(reward=np.ma.masked), "expected a number")


def test_the_evidence_counts_one_number_for_each_reward() -> None:
    environments = tasks.reference(registered(World, evidence_reward=lambda reward, ended: 1.0), 2, 0)
    with pytest.raises(RunFailed, match=r"evidence_reward gave \(\) for rewards \(2,\)"):
        environments.scoring.count(np.zeros(2, np.float32), np.zeros(2, np.bool_))
