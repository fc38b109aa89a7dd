"""The steps of a round in detail: collecting rows, one update of a student under guidance, feedback to the teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from coteach.errors import NotFinite, require_finite
from coteach.method.players import Players
from coteach.method.rung import Rung, Turn, blamed
from coteach.student import guidance
from coteach.student.batch import Batch, Imitation
from coteach.student.ppo import gae


def collect(players: Players, rung: Rung, others: int) -> Turn:
    """Collect the rung's rows of this round. others: number of rungs that collect later, with equal shares of the queries."""
    config, advice, arm = players.config, players.advice, players.arm
    coefficient = guidance.imitation_coefficient(config.guidance, rung.curve.student, rung.curve.controlled)
    led_share = guidance.controlled_share(config.collect, coefficient) if arm.controls else 0.0
    advice.budget.reserve_for(others)
    with blamed(rung):
        rollout = rung.collector.collect(config.collect.horizon, rung.student.learner, advice.follow, led_share)
    rung.curve.add_episodes(rollout.episodes, rung.collector.under_way)
    return Turn(rung, rollout, coefficient * config.guidance.weight if arm.guide else 0.0)


def guide(players: Players, turn: Turn) -> dict[str, Any]:
    """Update the student of a turn, if the arm does, and its executor; return the metrics.

    The student is not updated if numbers are not finite; a few such rounds in a row end the run (RunFailed).
    """
    metrics: dict[str, Any] = {}
    if players.arm.learn:
        try:
            metrics = update_student(players, turn)
            turn.rung.learned()
        except NotFinite as error:
            turn.rung.skip(error)
    return metrics | players.learn_options(turn.rung.student)


def update_student(players: Players, turn: Turn) -> dict[str, Any]:
    """Update a student by PPO with guidance; return the metrics. PPO's ratio uses no teacher-controlled rows (off-policy)."""
    config, student, rollout = players.config.student, turn.rung.student, turn.rollout
    potential = players.advice.table.value[rollout.situation] * players.config.guidance.subgoal
    rewards = guidance.shape_rewards(rollout.rewards, potential, rollout.terminated, config.gamma)
    advantages, returns = gae(
        rewards, rollout.values, rollout.terminated, rollout.truncated, rollout.valid, config.gamma, config.gae_lambda
    )
    require_finite(advantages=advantages, returns=returns)
    own, controlled = rollout.valid & ~rollout.controlled, rollout.valid & rollout.controlled
    student.observe_returns(rollout.situation[:-1][own], (returns + potential[:-1])[own], len(players.situations))
    target, imitates = players.targets(student, rollout.situation[:-1][own], rollout.controls[:-1][own])
    require_finite(advice=target)
    batch = Batch(
        features=rollout.features[:-1][own],
        actions=rollout.actions[own],
        logprobs=rollout.logprobs[own],
        values=rollout.values[:-1][own],
        advantages=advantages[own],
        returns=returns[own],
        target=target,
        weight=(turn.weight * imitates).astype(np.float32),
        value_features=rollout.features[:-1][controlled],
        value_returns=returns[controlled],
    )
    student.replay.add(rollout)
    distils = turn.weight > 0 and players.arm.replay and players.config.guidance.replay > 0 and student.replay.filled > 0
    return student.learner.update(batch, (lambda rows: replayed(players, turn, rows)) if distils else None)


def replayed(players: Players, turn: Turn, rows: int) -> Imitation:
    """Draw replayed rows, `guidance.replay` for each of `rows` rows of PPO, with targets from the present advice."""
    student, replay = turn.rung.student, turn.rung.student.replay
    at = replay.sample(round(rows * players.config.guidance.replay), players.rng)
    target, imitates = players.targets(student, replay.situation[at], replay.controls[at])
    require_finite(advice=target)
    return Imitation(replay.features(at), target, (turn.weight * imitates).astype(np.float32))


def teaches(players: Players, rungs: Sequence[Rung]) -> bool:
    """Return whether the present round ends with feedback to the teacher."""
    return (rungs[0].rounds + 1) % players.config.teacher.tune_every == 0


def teach(players: Players, show: Callable[[str], None]) -> dict[str, Any]:
    """Give the teacher in-context feedback and tune it, if the arm does; return the metrics of tuning."""
    if players.arm.feedback:
        players.give_feedback()
    if not players.arm.tune:
        return {}
    show("tune")
    return players.tune()
