"""The executor learns to carry out options without a controller from the events that complete them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from coteach.config import Config, ExecutorConfig, StudentConfig
from coteach.grounding.base import Grounded, Layout, Situation, Situations
from coteach.student.executor import Executor, LearnedControllers, StepBuffer

CELLS, LEFT, RIGHT = 7, 0, 1
OPTIONS = ("go to the left end", "go to the right end")


class Corridor:
    """N walkers in a corridor of seven cells; both ends are options, neither has a controller."""

    max_options, layout, action_names = 2, Layout(flags=CELLS), ("left", "right")

    def __init__(self, walkers: int) -> None:
        self.situations = Situations()
        self.at = np.full(walkers, CELLS // 2)

    def observe(self, observation: Any, actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        if actions is not None:
            self.at = np.where(restarted, CELLS // 2, np.clip(self.at + 2 * actions - 1, 0, CELLS - 1))
        features = (self.at[:, None] == np.arange(CELLS)).astype(np.uint8)
        number = self.situations.number(Situation("Mission: walk.", OPTIONS))
        completed = np.where(restarted, 0, (self.at == 0) * 1 + (self.at == CELLS - 1) * 2)
        without = np.ones((len(self.at), 2), dtype=np.bool_)
        return Grounded(
            features,
            np.full(len(self.at), number),
            np.full((len(self.at), 2), -1, dtype=np.int8),
            completed.astype(np.int64),
            np.zeros(len(self.at), dtype=np.int64),
            without,
        )


def settings(**student: Any) -> Config:
    return Config(student=StudentConfig(hidden=32, **student))


@cache
def walked(learn: bool) -> tuple[Executor, LearnedControllers]:
    """Return an executor after some rounds of random walking."""
    corridor, rng = Corridor(8), np.random.default_rng(0)
    executor = Executor(corridor.layout, 2, settings(), 0, corridor.situations)
    grounding = LearnedControllers(corridor, executor, learn)
    never = np.zeros(8, dtype=np.bool_)
    grounding.observe(None, None, ~never)
    for _ in range(12):
        for _ in range(40):
            grounding.observe(None, rng.integers(0, 2, 8), rng.random(8) < 0.02)
        executor.learn()
    return executor, grounding


@pytest.mark.slow
def test_options_are_learned_from_random_steps() -> None:
    executor, _ = walked(learn=True)
    inside = np.eye(CELLS, dtype=np.uint8)[1:-1]
    for option, action in zip(OPTIONS, (LEFT, RIGHT), strict=True):
        assert (executor.act(inside, [option] * len(inside)) == action).mean() >= 0.8, option


def test_a_missing_controller_is_replaced_by_the_learned_one() -> None:
    _, grounding = walked(learn=True)
    actions = grounding.observe(None, np.zeros(8, dtype=np.int64), np.ones(8, dtype=np.bool_)).actions
    assert (actions[:, 0] == LEFT).mean() >= 0.7 and (actions[:, 1] == RIGHT).mean() >= 0.7


def test_nothing_is_learned_from_an_evaluation() -> None:
    executor, _ = walked(learn=False)
    assert executor.steps is None and executor.learn() == {}


def test_options_named_in_the_configuration_replace_their_controllers() -> None:
    situations = Situations()
    executor = Executor(Layout(flags=3), 2, settings(learned_options=["go to the left"]), 0, situations)
    number = np.array([situations.number(Situation("Mission: walk.", OPTIONS))])
    assert executor.missing(number, None, 3).tolist() == [[True, False, False]]


def test_an_executor_is_saved_and_loaded(tmp_path: Any) -> None:
    executor, _ = walked(learn=True)
    executor.save(tmp_path)
    other = Executor(Layout(flags=CELLS), 2, settings(), 1, executor.situations)
    other.load(tmp_path)
    for name, value in executor.network.state_dict().items():
        assert (other.network.state_dict()[name] == value).all()


@pytest.mark.parametrize("rows", [16, 64])
def test_the_run_up_to_an_event_stays_within_what_is_remembered(rows: int) -> None:
    corridor, rng = Corridor(4), np.random.default_rng(1)
    now = corridor.observe(None, None, np.ones(4, dtype=np.bool_))
    steps = StepBuffer(ExecutorConfig(rows=rows), now.features)
    for _ in range(60):
        actions = rng.integers(0, 2, 4)
        before, now = now, corridor.observe(None, actions, np.zeros(4, dtype=np.bool_))
        assert before.unscripted is not None
        steps.add(before, before.unscripted, actions, now, corridor.situations)
    at, names = steps.sample(64, rng)
    assert steps.filled == rows and (at < rows).all() and set(names) == set(OPTIONS)
    completed = sum(name in steps.completed[row] for row, name in zip(at.tolist(), names, strict=True))
    assert completed >= 2, "events are drawn more often than they happen"
