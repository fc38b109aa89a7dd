"""Grounding on every MiniGrid and BabyAI level of EnvPool: nothing crashes, all values stay in range."""

from __future__ import annotations

import numpy as np
import pytest

from coteach.grounding.base import Observation
from coteach.grounding.minigrid import MiniGridGrounding

pytestmark = pytest.mark.slow

envpool = pytest.importorskip("envpool")

# EnvPool never returns from the first reset of this level (with every seed tried).
ENDLESS = {"BabyAI-SynthS5R2-v0"}
TASKS = [task for task in envpool.list_all_envs() if task.startswith(("MiniGrid-", "BabyAI-")) and task not in ENDLESS]
ENVS, STEPS = 4, 200


def test_every_level_can_be_grounded() -> None:
    assert len(TASKS) > 170
    rng = np.random.default_rng(0)
    for task in TASKS:
        walk(task, rng)


def walk(task: str, rng: np.random.Generator) -> None:
    env = envpool.make(task, env_type="gymnasium", num_envs=ENVS, seed=7, num_threads=1)
    num_actions = int(env.action_space.n)
    grounding = MiniGridGrounding(ENVS, num_actions=num_actions)
    view, _ = env.reset()
    missions, ended = texts(view["mission"]), np.zeros(ENVS, dtype=bool)
    now = grounding.observe(Observation(view["image"], missions), None, np.ones(ENVS, dtype=bool))
    for _ in range(STEPS):
        actions = rng.integers(num_actions, size=ENVS)
        view, _, terminated, truncated, _ = env.step(actions)
        restarted, ended = ended, terminated | truncated
        missions = [new if begun else old for new, old, begun in zip(texts(view["mission"]), missions, restarted, strict=True)]
        options = [len(grounding.situations[int(number)].options) for number in now.situation]
        now = grounding.observe(Observation(view["image"], missions), actions, restarted)
        # One check per step for all environments, so that 170 levels take seconds.
        assert now.features.shape == (ENVS, grounding.layout.size) and now.features.max() <= 1, task
        assert now.actions.min() >= -1 and now.actions.max() < num_actions, task
        assert (now.completed >> options == 0).all() and (now.failed >> options == 0).all(), task
        assert (now.completed & now.failed == 0).all() and not now.completed[restarted].any(), task
        for number, planned in zip(now.situation, now.actions, strict=True):
            situation = grounding.situations[int(number)]
            assert 1 <= len(situation.options) <= grounding.max_options, task
            assert (planned[len(situation.options) :] == -1).all(), task
            assert situation.expert is None or 0 <= situation.expert < len(situation.options), task


def texts(missions: np.ndarray) -> list[str]:
    return [bytes(row).rstrip(b"\0").decode() for row in missions]
