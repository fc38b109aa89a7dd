"""Hints, shaped rewards and learned options: the teacher's other channels to the student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from coteach.config import StudentConfig, load
from coteach.grounding.base import Grounded, Layout, Situations
from coteach.method import checkpoint
from coteach.method.examiner import Examiner
from coteach.method.loop import Loop
from coteach.method.players import Players
from coteach.method.round import play_round
from coteach.method.rung import Rung
from coteach.runs.run_folder import Run
from coteach.student.guidance import shape_rewards
from coteach.student.hints import HintedGrounding, remove_hints
from coteach.student.network import ActorCritic, read

GAMMA = 0.9


def solve(reward: NDArray[np.float64], following: NDArray[np.int64], over: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return Q (S, A) of a deterministic MDP by value iteration."""
    q = np.zeros_like(reward)
    for _ in range(500):
        q = reward + GAMMA * np.where(over, 0.0, q.max(axis=1)[following])
    return q


@pytest.mark.parametrize("seed", range(5))
def test_shaped_rewards_do_not_change_the_optimal_policy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    states, actions = 12, 3
    reward, following = rng.random((states, actions)), rng.integers(0, states, (states, actions))
    over = rng.random((states, actions)) < 0.1
    potential = rng.normal(size=states) * 5
    # As the loop does it: one row is a transition from a state to the next.
    pairs = np.stack([np.repeat(potential[:, None], actions, axis=1).ravel(), potential[following].ravel()])
    with_potential = shape_rewards(reward.reshape(1, -1).astype(np.float32), pairs, over.reshape(1, -1), GAMMA).reshape(
        reward.shape
    )
    assert not np.allclose(with_potential, reward, atol=0.1)
    plain, other = solve(reward, following, over), solve(with_potential.astype(np.float64), following, over)
    np.testing.assert_allclose(other, plain - potential[:, None], atol=1e-4)
    assert (plain.argmax(axis=1) == other.argmax(axis=1)).all()


class Still:
    """A grounding in which nothing changes; its two options have the actions 1 and 2."""

    max_options, layout, action_names = 2, Layout(flags=2), ("a", "b", "c")

    def __init__(self) -> None:
        self.situations = Situations()

    def observe(self, observation: Any, actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        count, nothing = len(restarted), np.zeros(len(restarted), dtype=np.int64)
        controls = np.tile(np.array([1, 2], dtype=np.int8), (count, 1))
        return Grounded(np.ones((count, 2), dtype=np.uint8), nothing, controls, nothing, nothing)


def test_a_hint_is_what_the_advised_options_controller_does() -> None:
    grounding = HintedGrounding(Still(), lambda numbers: np.tile([0.1, 0.9], (len(numbers), 1)), 0.5, np.random.default_rng(0))
    fresh = np.ones(100, dtype=np.bool_)
    hints = grounding.observe(None, None, fresh).features[:, 2:]
    assert grounding.layout.size == 2 + 4 and (hints.sum(axis=1) == 1).all()
    assert set(hints.argmax(axis=1).tolist()) == {2, 3}, "action 2, or no hint"
    again = grounding.observe(None, np.zeros(100, dtype=np.int64), ~fresh).features[:, 2:]
    assert (again == hints).all(), "hints are for whole episodes"


def test_a_student_alone_gets_no_hints() -> None:
    hints = HintedGrounding(Still()).observe(None, None, np.ones(5, dtype=np.bool_)).features[:, 2:]
    assert (hints == [0, 0, 0, 1]).all()


@pytest.mark.parametrize("layout", [Layout(flags=7), Layout(3, 2, ((3, 4, 4),), (0.0, 0.0), (1.0, 1.0))])
def test_a_network_without_hint_columns_acts_as_with_no_hint(layout: Layout) -> None:
    rng = np.random.default_rng(0)
    features = rng.integers(0, 2, (20, layout.size)).astype(layout.dtype)
    none = np.tile([0, 0, 0, 1], (20, 1))
    habits = rng.normal(size=(layout.size + 4, 3)).astype(np.float32) if layout.binary else None
    network = ActorCritic(layout.widened(4), 3, StudentConfig(hidden=16), torch.Generator().manual_seed(0), habits)
    logits, values = (given.detach() for given in network(read(layout.widened(4), layout.inserted(features, none))))
    remove_hints(network, layout)
    for now, before in zip(network(read(layout, features)), (logits, values), strict=True):
        torch.testing.assert_close(now.detach(), before)
    torch.testing.assert_close(network.policy_of(torch.from_numpy(features)).detach(), logits)


@pytest.mark.slow
@pytest.mark.parametrize("channel", ["guidance.hint=0.5", "guidance.subgoal=0.5", 'student.learned_options=["pick up"]'])
def test_a_channel_goes_through_rounds_and_checkpoints(channel: str, tmp_path: Path) -> None:
    small = ("tasks=MiniGrid-Unlock-v0", "engine=minigrid", "threads=1", "collect.envs=8", "collect.horizon=32", "arm=no-llm")
    config = load(None, [*small, channel])
    loop = Loop(config, Run(tmp_path / "run", config))
    rung = Rung(0, config, loop.players)
    for _ in range(3):
        metrics = play_round(loop.players, [rung], lambda phase: None)[0]
    assert np.isfinite(metrics["policy_loss"])
    assert ("executor_loss" in metrics) == channel.startswith("student.learned")
    checkpoint.save_players(tmp_path / "saved", loop.players)
    other = Loop(config, Run(tmp_path / "run", config))
    checkpoint.load_players(tmp_path / "saved", other.players)
    success = [Examiner(players).evaluate("student", config.tasks[0], 2).returns for players in (loop.players, other.players)]
    assert (success[0] == success[1]).all()


def test_greedy_evaluations_number_their_situations_separately() -> None:
    small = ("tasks=MiniGrid-Unlock-v0", "engine=minigrid", "threads=1", "arm=student-only", "evaluation.levels=8")
    players = Players(load(None, [*small, 'student.learned_options=["pick up"]', "guidance.hint=0.5"]))
    assert 0.0 <= Examiner(players).greedy_success("MiniGrid-Unlock-v0") <= 1.0 and len(players.situations) == 0
