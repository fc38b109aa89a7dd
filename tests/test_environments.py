"""Any Gymnasium environment with discrete actions and a text can be a task; others are refused with an error of one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import coteach
import worlds
from coteach.envs import levels, tasks
from coteach.envs import registration as environments
from coteach.envs.registration import Environment, Scoring
from coteach.errors import CoteachError
from coteach.evaluation import episodes as evaluate
from coteach.grounding.base import Grounded, Layout, Situation, Situations
from coteach.method.examiner import Examiner
from coteach.method.players import Players
from worlds import LEFT, RIGHT


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove what a test registers after the test."""
    monkeypatch.setattr(environments, "_registered", {})
    yield


def add(**how: Any) -> Environment:
    made = worlds.environment(**how)
    coteach.add(made)
    return made


def test_an_episode_ends_with_its_last_observation_and_then_restarts() -> None:
    add()
    task = tasks.make("Line-v0", "auto", 2, 0)
    assert (task.engine, task.num_actions) == ("gymnasium", 2) and task.reset() == [0, 0]
    steps = [task.step(np.array([RIGHT, LEFT])) for _ in range(6)]
    assert [step.observation[0] for step in steps] == [1, 2, 3, 4, 0, 1]
    assert [bool(step.terminated[0]) for step in steps] == [False, False, False, True, False, False]
    assert [bool(step.restarted[0]) for step in steps] == [False, False, False, False, True, False]
    assert [float(step.reward[0]) for step in steps] == [0, 0, 0, 1, 0, 0]
    rest = [task.step(np.array([LEFT, LEFT])) for _ in range(14)]
    assert [t for t, step in enumerate(rest) if step.truncated[1]] == [13], "its time limit is kept"
    assert not any(step.terminated[1] for step in rest)


def test_the_seed_determines_every_episode_and_episodes_differ() -> None:
    add(make=worlds.line(anywhere=True))
    first, again, other = ([tasks.make("Line-v0", "auto", 30, seed).reset() for _ in range(2)] for seed in (1, 1, 2))
    assert first == again and first[0] == first[1] != other[0] and len(set(first[0])) > 2


def test_action_numbers_may_start_anywhere() -> None:
    add(make=worlds.line(actions=spaces.Discrete(2, start=3)))
    task = tasks.make("Line-v0", "auto", 1, 0)
    task.reset()
    assert task.step(np.array([RIGHT])).observation == [1]


def test_an_observation_that_the_environment_overwrites_is_copied() -> None:
    shared = np.zeros(1, dtype=np.float32)

    def show(place: int) -> Any:
        shared[0] = place
        return shared

    add(make=worlds.line(space=spaces.Box(0, 9, (1,)), show=show))
    task = tasks.make("Line-v0", "auto", 1, 0)
    first = task.reset()
    task.step(np.array([RIGHT]))
    assert first[0].tolist() == [0.0]


@pytest.mark.parametrize(
    ("reward", "solved_at", "success"), [(1.0, None, 1.0), (1.0, 0.99, 1.0), (1.0, 1.0, 0.0), (-1.0, -2.0, 1.0)]
)
def test_an_episode_is_a_success_above_the_threshold(reward: float, solved_at: float | None, success: float) -> None:
    add(make=worlds.line(reward=reward), solved_at=solved_at)

    class Walker:
        def greedy(self, features: Any) -> Any:
            return np.full(len(features), RIGHT)

    ground = tasks.family("Line-v0").ground
    result = evaluate.evaluate_student(Walker(), "Line-v0", lambda envs, actions: ground(envs, Situations(), actions), 3)
    assert (result.success, result.mean_return, result.mean_length) == (success, reward, 4.0)


def test_the_success_threshold_defaults_to_gymnasiums_reward_threshold() -> None:
    coteach.register("CartPole-v1", worlds.describe, ("left", "right"))
    coteach.register("FrozenLake-v1", worlds.describe, ("left", "down", "right", "up"), solved_at=0)
    thresholds = [tasks.make(name, "auto", 1, 0).scoring.solved_at for name in ("CartPole-v1", "FrozenLake-v1")]
    assert thresholds == [pytest.approx(475.0, rel=1e-5), 0.0] and thresholds[0] < 475.0


def test_rewards_are_scaled_or_replaced_by_the_users_function_for_the_evidence() -> None:
    reward, terminated = np.array([20.0, -10.0, -1.0], np.float32), np.array([True, False, False])
    assert Scoring(scale=20.0).count(reward, terminated).tolist() == pytest.approx([1.0, -0.5, -0.05])
    assert Scoring(evidence_reward=lambda _, ended: ended).count(reward, terminated).tolist() == [1.0, 0.0, 0.0]
    assert Scoring(evidence_reward=lambda _, ended: ended).count(reward, terminated).dtype == np.float32


def test_the_student_learns_from_scaled_rewards_and_the_evidence_counts_the_users(tmp_path: Path) -> None:
    from coteach.method.loop import Loop, Rung

    add(make=worlds.line(reward=-1.0, step_reward=-1.0), scale=10, solved_at=-19, evidence_reward=lambda _, ended: 0.5 * ended)
    config = coteach.load(overrides=["tasks=Line-v0", "arm=no-llm", "collect.envs=16", "threads=1"])
    loop = Loop(config, coteach.Run(tmp_path, config))
    rung = Rung(0, config, loop.players)
    rollout = rung.collector.collect(64, loop.players.students[0].learner, loop.players.advice.follow, 0.5)
    assert np.unique(rollout.rewards[rollout.valid]).tolist() == [np.float32(-0.1)]
    won = [outcome for outcome in rollout.outcomes if outcome.reward]
    assert len(won) > 5 and all((outcome.reward, outcome.following) == (0.5, -1) for outcome in won)
    successes = [episode for episode in rollout.episodes if episode.success]
    assert successes and all(episode.reward > -19 for episode in successes) and len(successes) < len(rollout.episodes)


class Point(EntryPoint):
    """An entry point without a distribution."""

    made: Any = None

    def load(self) -> Any:
        return type(self).made


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "entry_points", lambda group: (Point("Plugged-v0", "package:LINE", group),))
    environments._points.cache_clear()
    environments._plugged.cache_clear()
    yield
    monkeypatch.undo()
    environments._points.cache_clear()
    environments._plugged.cache_clear()


def test_a_package_adds_a_task_by_an_entry_point(plugged: None) -> None:
    Point.made = worlds.environment()
    assert "Plugged-v0" in levels.task_ids()
    assert tasks.make("Plugged-v0", "auto", 1, 0).reset() == [0]


def test_the_error_for_an_entry_point_of_a_wrong_type_names_it(plugged: None) -> None:
    Point.made = 3
    with pytest.raises(CoteachError, match=r"'Plugged-v0' of the entry point 'package:LINE'.*is a int: expected a coteach.Env"):
        tasks.check("Plugged-v0")


def test_an_installed_packages_tasks_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package is a distribution's metadata on the path."""
    info = tmp_path / "plug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[coteach.tasks]\nFound-v0 = plug_module:LINE\n")
    (tmp_path / "plug_module.py").write_text("import worlds\nLINE = worlds.environment()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    environments._points.cache_clear()
    environments._plugged.cache_clear()
    try:
        assert tasks.make("Found-v0", "auto", 1, 0).reset() == [0]
    finally:
        sys.modules.pop("plug_module", None)
        environments._points.cache_clear()
        environments._plugged.cache_clear()


def test_tasks_of_different_families_cannot_be_rungs_of_one_run() -> None:
    add()
    add(task="Other-v0")
    for names in (["Line-v0", "Other-v0"], ["MiniGrid-Unlock-v0", "Line-v0"]):
        with pytest.raises(CoteachError, match=f"tasks '{names[0]}' and '{names[1]}': one student cannot play both"):
            Players(coteach.load(overrides=[f"tasks={','.join(names)}", "arm=no-llm"]))
    assert tasks.common_family(["MiniGrid-Unlock-v0", "BabyAI-GoToLocal-v0"]).name == "MiniGrid and BabyAI"


@pytest.mark.parametrize("teacher", ["arm=oracle", "arm=liar", "arm=llm-only teacher.spec=oracle"])
def test_teachers_that_need_an_expert_are_refused_for_tasks_without_one(teacher: str) -> None:
    add()
    config = coteach.load(overrides=["tasks=Line-v0", *teacher.split()])
    with pytest.raises(CoteachError, match=r"teacher '(oracle|liar)': no expert plays task 'Line-v0': say .* choose another arm"):
        Players(config)
    coteach.register("Line-v0", grounding=Silent, make=worlds.line())
    with pytest.raises(CoteachError, match=r"'Line-v0'.* in a grounding, Situation.expert"):
        Players(config)


def test_the_oracle_gives_the_experts_choice_and_the_adversarial_teacher_another() -> None:
    add(expert=lambda place: "go right")
    players = {arm: Players(coteach.load(overrides=["tasks=Line-v0", f"arm={arm}", "episodes=5"])) for arm in ("oracle", "liar")}
    assert {arm: Examiner(player).evaluate("teacher", "Line-v0").success for arm, player in players.items()} == {
        "oracle": 1,
        "liar": 0,
    }
    assert {situation.expert for situation in players["oracle"].situations} == {1}


def test_an_expert_that_returns_no_option_is_reported() -> None:
    add(expert=lambda place: "fly")
    with pytest.raises(CoteachError, match="'Line-v0': expert gave 'fly' for the observation 0: expected one of its options"):
        Examiner(Players(coteach.load(overrides=["tasks=Line-v0", "arm=oracle"]))).evaluate("teacher", "Line-v0", 1)


class Silent:
    """A grounding without an expert's choice."""

    max_options, layout, action_names = 2, Layout(flags=1), ("left", "right")

    def __init__(self, num_envs: int, situations: Situations, num_actions: int) -> None:
        self.situations = situations

    def observe(self, observation: list[Any], actions: Any, restarted: Any) -> Grounded:
        count, nothing = len(observation), np.zeros(len(observation), dtype=np.int64)
        situation = np.full(count, self.situations.number(Situation("a line", self.action_names)))
        return Grounded(
            np.zeros((count, 1), np.uint8), situation, np.tile(np.array([0, 1], np.int8), (count, 1)), nothing, nothing
        )


def no_text(_: Any) -> Any:
    return None


GOOD: dict[str, Any] = {"describe": worlds.describe, "actions": ("go left", "go right"), "make": worlds.line()}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"describe": None}, "its observations have no text: give describe="),
    ({"describe": "a line"}, "describe='a line': expected a function"),
    ({"expert": "go left"}, "expert='go left': expected a function"),
    ({"make": worlds.line(actions=spaces.Box(0, 1))}, "its action space Box is not discrete: expected Discrete; give `make`"),
    ({"actions": ("go left",)}, "1 names of actions for 2 actions: expected a name for each"),
    ({"actions": ("go", "go")}, r"actions=\('go', 'go'\): expected different names"),
    ({"actions": "go"}, "actions='go': expected different names"),
    ({"scale": 0}, "scale=0: expected a number above 0"),
    ({"max_options": 63}, r"max_options=63: expected a whole number in \[1..62\]"),
    ({"make": worlds.line(space=spaces.Text(9))}, "observation space Text: expected Box, Discrete, MultiDiscrete"),
    ({"make": lambda: 1 / 0}, "cannot be made: division by zero"),
    ({"make": lambda: None}, "NoneType is no Gymnasium environment"),
    ({"make": None}, "cannot be made: Environment `Line` doesn't exist"),
    ({"rewards": 3}, "register has no 'rewards': expected some of options, max_options"),
    ({"describe": no_text}, "describe gave None for the observation 0: expected a text"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_what_cannot_be_a_task_is_refused_with_an_error_of_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CoteachError, match=message) as error:
        coteach.register("Line-v0", **(GOOD | wrong))
        Examiner(Players(coteach.load(overrides=["tasks=Line-v0", "arm=no-llm"]))).greedy_success("Line-v0")
    assert "\n" not in str(error.value) and "Line-v0" in str(error.value)


def test_ids_that_have_a_grounding_and_engines_that_cannot_play_are_refused() -> None:
    with pytest.raises(CoteachError, match="ids that begin so have a grounding"):
        coteach.register("BabyAI-Mine-v0", worlds.describe, ("left", "right"))
    add()
    with pytest.raises(CoteachError, match="engine 'minigrid': it does not play 'Line-v0'; use the engine gymnasium, or auto"):
        tasks.make("Line-v0", "minigrid", 1, 0)
    with pytest.raises(CoteachError, match="engine 'gymnasium': it does not play 'MiniGrid-Unlock-v0'"):
        tasks.make("MiniGrid-Unlock-v0", "gymnasium", 1, 0)


def test_a_task_that_draws_no_pictures_cannot_be_filmed_but_can_be_trained_on(tmp_path: Path) -> None:
    add()
    config = coteach.load(overrides=["tasks=Line-v0", "arm=no-llm", "steps=512", "collect.envs=8", "episodes=3", "threads=1"])
    with coteach.Run.create(tmp_path / "run", config) as run:
        (summary,) = coteach.train(config, run)
    assert summary["engine"] == "gymnasium" and not (tmp_path / "run" / "videos").exists()
    with pytest.raises(CoteachError, match="'Line-v0': cannot be filmed"):
        Examiner(Players(config)).film("student", "Line-v0")


def test_a_gymnasium_environment_is_filmed(tmp_path: Path) -> None:
    coteach.register("FrozenLake-v1", worlds.describe, ("left", "down", "right", "up"))
    frames = Examiner(Players(coteach.load(overrides=["tasks=FrozenLake-v1", "arm=no-llm"]))).film("student", "FrozenLake-v1")
    assert len(frames) > 1 and frames[0].dtype == np.uint8 and frames[0].ndim == 3
