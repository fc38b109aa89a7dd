"""The game as a PettingZoo environment: it keeps PettingZoo's contract, and advice reaches the student one step later."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from pettingzoo.test import parallel_api_test, parallel_seed_test

from coteach.envs import game as games
from coteach.envs.game import STUDENT, TEACHER, Game, parallel_env
from coteach.errors import CoteachError
from coteach.evaluation.episodes import SEED, evaluate_teacher
from coteach.grounding.minigrid import MiniGridGrounding
from coteach.teacher.scripted import OracleTeacher

ROOT = Path(__file__).parents[1]
UNLOCK, SHORT, BARE = "MiniGrid-Unlock-v0", "MiniGrid-Empty-5x5-v0", "MiniGrid-Dynamic-Obstacles-5x5-v0"
FORWARD, DONE = 2, 6


@pytest.fixture(scope="module")
def example() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        return importlib.import_module("game")


def chosen(game: Game, seen: dict[str, Any]) -> dict[str, int]:
    """Draw an action for each agent, the teacher's among the options that can be followed."""
    masks = {TEACHER: seen[TEACHER]["action_mask"], STUDENT: None}
    return {agent: game.action_space(agent).sample(masks[agent]) for agent in game.agents}


@pytest.mark.parametrize("task", [SHORT, UNLOCK, BARE, "BabyAI-GoToLocal-v0"])
def test_it_passes_pettingzoos_own_tests(task: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # their tests only warn of many breaches
        parallel_api_test(parallel_env(task), num_cycles=300)
        parallel_seed_test(lambda: parallel_env(task))


def test_the_same_seed_gives_the_same_episodes() -> None:
    # PettingZoo's own seed test stops after its first step: it calls `any` on a dictionary's keys.
    def play(game: Game) -> list[Any]:
        lines: list[Any] = []
        for agent in game.possible_agents:
            game.action_space(agent).seed(5)
        for seed in (7, None):
            seen, infos = game.reset(seed)
            lines.append((seen, infos))
            while game.agents:
                actions = chosen(game, seen)
                seen, *rest = game.step(actions)
                lines.append((actions, seen, *rest))
        return lines

    first, second = play(parallel_env(SHORT)), play(parallel_env(SHORT))
    assert len(first) > 20 and data_equivalence(first, second)


@pytest.mark.parametrize("task", [UNLOCK, BARE, "MiniGrid-LavaCrossingS9N1-v0"])
def test_observations_are_in_their_space_and_both_agents_get_the_tasks_reward(task: str) -> None:
    game = parallel_env(task)
    for agent in game.possible_agents:
        game.action_space(agent).seed(1)
    seen, _ = game.reset(3)
    steps = 0
    while game.agents:
        assert all(game.observation_space(agent).contains(seen[agent]) for agent in game.agents)
        seen, rewards, terminations, truncations, infos = game.step(chosen(game, seen))
        assert rewards[TEACHER] == rewards[STUDENT] and infos.keys() == rewards.keys() == terminations.keys()
        assert set(terminations.values()) | set(truncations.values()) <= {True, False}
        steps += 1
    assert steps > 1 and (any(terminations.values()) or any(truncations.values()))
    assert game.step({TEACHER: 0, STUDENT: 0}) == ({}, {}, {}, {}, {}), "the episode is over"


def test_the_student_gets_the_action_of_the_advised_option_on_the_next_step() -> None:
    game = parallel_env(UNLOCK)
    actions = int(game.action_space(STUDENT).n)
    seen, infos = game.reset(SEED)
    assert infos[STUDENT]["advice"] is None and not seen[STUDENT][-actions:].any(), "there is no advice on the first step"
    heard = 0
    for _ in range(40):
        options, slot = infos[TEACHER]["situation"].options, int(np.flatnonzero(seen[TEACHER]["action_mask"])[-1])
        seen, _, _, _, infos = game.step({TEACHER: slot, STUDENT: FORWARD})
        now = infos[TEACHER]["situation"].options
        controls = seen[TEACHER]["observation"][-actions * 24 :].reshape(24, actions)
        if options[slot] in now:
            heard += 1
            assert infos[STUDENT]["advice"] == options[slot]
            assert (seen[STUDENT][-actions:] == controls[now.index(options[slot])]).all()
        else:
            assert infos[STUDENT]["advice"] is None and not seen[STUDENT][-actions:].any()
    assert heard > 20


def test_a_slot_without_an_option_is_no_advice() -> None:
    game = parallel_env(UNLOCK)
    seen, infos = game.reset(0)
    assert len(infos[TEACHER]["situation"].options) < 24 and seen[TEACHER]["action_mask"][23] == 0
    seen, *_, infos = game.step({TEACHER: 23, STUDENT: DONE})
    assert infos[STUDENT]["advice"] is None and not seen[STUDENT][-7:].any()


def test_a_seed_gives_the_level_of_an_evaluation_also_after_an_episodes_end() -> None:
    game, fresh = parallel_env(SHORT), parallel_env(SHORT)
    fresh.action_space(STUDENT).seed(0)
    game.reset(1)
    while game.agents:
        game.step({TEACHER: 0, STUDENT: DONE})
    for seed in (SEED, SEED + 1):
        assert data_equivalence(game.reset(seed)[0], fresh.reset(seed)[0])
        for _ in range(5):
            actions = {TEACHER: 0, STUDENT: int(fresh.action_space(STUDENT).sample())}
            assert data_equivalence(game.step(actions)[0], fresh.step(actions)[0])


def test_a_student_that_follows_an_experts_advice_gets_nearly_the_return_of_its_controllers(example: Any) -> None:
    game = parallel_env(UNLOCK)
    for agent in game.possible_agents:
        game.action_space(agent).seed(0)
    together = example.common_return(game, example.cooperate, 10)

    def ground(envs: int, actions: int) -> MiniGridGrounding:
        return MiniGridGrounding(envs, num_actions=actions)

    alone = evaluate_teacher(OracleTeacher().advise, UNLOCK, ground, 40, 10, seed=0).mean_return
    assert alone > 0.9 and alone - 0.05 < together <= alone, "a step is lost whenever the option changes"
    assert example.common_return(game, example.guess, 3) < 0.5 * together


def test_render_returns_pictures_only_with_a_render_mode() -> None:
    game = parallel_env(SHORT, render_mode="rgb_array")
    game.reset(0)
    picture = game.render()
    assert picture is not None and picture.dtype == np.uint8 and picture.shape[2] == 3
    game.close()
    assert parallel_env(SHORT).render() is None


def test_wrong_use_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CoteachError, match="unknown render_mode 'human'"):
        parallel_env(SHORT, render_mode="human")
    with pytest.raises(CoteachError, match="did you mean 'MiniGrid-Unlock-v0'|coteach tasks"):
        parallel_env("MiniGrid-Unlok-v0")
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    with pytest.raises(CoteachError, match=r"pip install 'coteach\[game\]'"):
        importlib.reload(games)
