"""Throughput, measured in one process on one machine: training against Stable-Baselines3, scoring, grounding.

Every comparison takes turns (ours, theirs, ours, ...) after a warm-up of both, so that a busy machine burdens both alike,
and reports medians. Rates are per second of wall clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from coteach.config import Config
from coteach.envs import tasks
from coteach.errors import CoteachError
from coteach.grounding.base import Grounding
from coteach.teacher.local.scoring import Scorer, score_one_by_one
from coteach.teacher.prompt import Prompt

TASK = "MiniGrid-DoorKey-8x8-v0"
PEER_ENVIRONMENTS, PEER_STEPS, PEER_MINIBATCH, PEER_EPOCHS = 8, 128, 64, 4
"""Stable-Baselines3's PPO on MiniGrid: its own default minibatch; rollouts shorter than its default, so that turns are."""

Rate = Callable[[], float]
"""Does a piece of work and returns its rate per second."""


def take_turns(ours: Rate, theirs: Rate, repeats: int) -> dict[str, float]:
    """Median rates `ours` and `theirs` of `repeats` turns each, after one that does not count, and their `ratio`."""
    turns = [(ours(), theirs()) for _ in range(repeats + 1)][1:]
    mine, peer = (statistics.median(rates) for rates in zip(*turns, strict=True))
    return {"ours": mine, "theirs": peer, "ratio": mine / peer}


def training_ratio(ours: Rate, task: str = TASK, repeats: int = 5) -> dict[str, Any]:
    """Environment steps per second of training end to end: `ours` (see `coteach_training`) against Stable-Baselines3."""
    return {"task": task, **take_turns(ours, peer_training(task), repeats)}


def coteach_training(task: str = TASK, arm: str = "no-llm", rounds: int = 4) -> Rate:
    """Training by the loop, everything but the LLM included; each call plays `rounds` rounds."""
    from coteach.method.players import Players
    from coteach.method.round import play_round
    from coteach.method.rung import Rung

    config = Config(tasks=[task], arm=arm)
    players = Players(config)
    rung = Rung(0, config, players)

    def rate() -> float:
        steps, began = rung.steps, time.perf_counter()
        for _ in range(rounds):
            play_round(players, [rung], show=lambda phase: None)
        return (rung.steps - steps) / (time.perf_counter() - began)

    return rate


def peer_training(task: str = TASK, rollouts: int = 2) -> Rate:
    """Training by Stable-Baselines3's PPO: flattened image, its own MLP; each call learns from `rollouts` rollouts.

    Raises CoteachError where Stable-Baselines3 is not installed.
    """
    tasks.check(task)
    try:
        import stable_baselines3
    except ImportError as error:
        raise CoteachError("bench: the peer stable-baselines3 is not installed; pip install 'coteach[dev]'") from error
    envs = stable_baselines3.common.vec_env.DummyVecEnv([lambda: _flat(task)] * PEER_ENVIRONMENTS)
    settings = {"n_steps": PEER_STEPS, "batch_size": PEER_MINIBATCH, "n_epochs": PEER_EPOCHS, "seed": 0, "device": "cpu"}
    model = stable_baselines3.PPO("MlpPolicy", envs, **settings)
    steps = rollouts * PEER_ENVIRONMENTS * PEER_STEPS

    def rate() -> float:
        began = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return steps / (time.perf_counter() - began)

    return rate


def _flat(task: str) -> Any:
    import gymnasium
    from minigrid.wrappers import ImgObsWrapper

    return gymnasium.wrappers.FlattenObservation(ImgObsWrapper(gymnasium.make(task)))


def scoring_ratio(model: Any, prefix: Sequence[int], prompts: Sequence[Prompt], repeats: int = 3) -> dict[str, Any]:
    """Situations per second: all options behind the shared prefix in one pass, against one whole pass per option.

    `difference` is the largest between the two, in nats. The one-by-one pass scores one of the prompts in each turn.
    """
    scorer = Scorer(model, prefix)
    single = score_one_by_one(model, prefix, prompts[0])
    difference = float(np.abs(scorer.score(prompts)[0] - single).max())
    packed = _rate_of(lambda: scorer.score(prompts), len(prompts))
    apart = _rate_of(lambda: score_one_by_one(model, prefix, prompts[0]), 1)
    options = statistics.mean(len(prompt.options) for prompt in prompts)
    return {"options": options, "difference": difference, **take_turns(packed, apart, repeats)}


def grounding_rate(
    ground: Callable[[int, int], Grounding], task: str = TASK, envs: int = 64, steps: int = 200, repeats: int = 5
) -> dict[str, Any]:
    """Environment steps per second of grounding alone, under random actions, its situations already met."""
    environments = tasks.make(task, "auto", envs, seed=0)
    grounding = ground(envs, environments.num_actions)
    rng = np.random.default_rng(0)
    grounding.observe(environments.reset(), None, np.ones(envs, dtype=np.bool_))

    def seconds() -> float:
        total = 0.0
        for _ in range(steps):
            actions = rng.integers(0, environments.num_actions, envs)
            step = environments.step(actions)
            began = time.perf_counter()
            grounding.observe(step.observation, actions, step.restarted)
            total += time.perf_counter() - began
        return total

    measured = statistics.median([seconds() for _ in range(repeats + 1)][1:])
    environments.close()
    return {"task": task, "envs": envs, "steps_per_second": steps * envs / measured}


def _rate_of(work: Callable[[], object], amount: int) -> Rate:
    """The rate at which `work` does `amount` units."""

    def rate() -> float:
        began = time.perf_counter()
        work()
        return amount / (time.perf_counter() - began)

    return rate
