"""The examples with an environment: each text describes the environment correctly, and each trains."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from coteach.envs import contract, tasks
from coteach.envs import registration as environments

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "examples"
BRIEF = ("arm=no-llm", "threads=1", "collect.envs=8", "episodes=2", "evaluation.levels=10")


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(environments, "_registered", {})
    yield


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["frozen_lake", "taxi", "cart_pole", "own_options"])
def test_it_trains_and_its_grounding_keeps_the_contract(name: str) -> None:
    summary: dict[str, Any] = example(name).main(500, *BRIEF)
    task = summary["task"]
    assert summary["steps"] >= 500 and summary["engine"] == "gymnasium" and summary["situations"] > 1
    report = contract.check(tasks.family(task).ground, tasks.reference(task, 4, 0), 150)
    assert report.kept and report.completed > 0


def test_a_text_games_expert_finds_every_coin_and_options_are_the_admitted_commands() -> None:
    pytest.importorskip("textworld", reason="the text game needs textworld, which no extra brings")
    game = example("text_game")
    summary = game.main(500, "arm=llm-only", "teacher.spec=oracle", "threads=1", "episodes=16")
    assert summary["teacher_success_after"] == 1.0 and summary["situations"] > 30
    report = contract.check(tasks.family(game.TASK).ground, tasks.reference(game.TASK, 4, 0), 150)
    assert report.kept and report.completed > 0
    env = game.Treasure()
    before, _ = env.reset(seed=0)
    assert env.observation_space.contains(before) and "open chest" not in game.admitted(before)
    after, *_ = env.step(game.COMMANDS.index("open chest"))
    assert game.describe(after) == game.describe(before), "a command that is not admitted changes nothing"


def test_with_three_options_the_corridor_is_learned_without_an_llm() -> None:
    summary = example("own_options").main(10_000, "arm=no-llm", "threads=1", "episodes=50")
    assert summary["success"] >= 0.95, "greedy evaluation"


def test_the_taxis_text_has_direction_and_place() -> None:
    describe = example("taxi").describe
    text = "Fetch the passenger, in the north-west. The taxi is in row 2, column 3; the goal is in row 0, column 0."
    assert describe(((2 * 5 + 3) * 5 + 0) * 4 + 1) == text == describe(((2 * 5 + 3) * 5 + 0) * 4 + 3), (
        "the destination does not matter yet"
    )
    driving = "Drive the passenger to the destination, here. The taxi is in row 4, column 3; the goal is in row 4, column 3."
    assert describe(((4 * 5 + 3) * 5 + 4) * 4 + 3) == driving


def test_the_lake_is_described_as_gymnasium_draws_it() -> None:
    import gymnasium

    lake = example("frozen_lake")
    assert [list(row) for row in lake.LAKE] == gymnasium.make(lake.TASK).unwrapped.desc.astype(str).tolist()
    assert lake.describe(14).endswith("There is ice in the west, the shore in the south, the goal in the east, ice in the north.")
    names = list(lake.SIDES)
    assert [names[action] for action in range(4)] == ["west", "south", "east", "north"]
