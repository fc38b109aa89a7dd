"""Teacher and student as agents of one PettingZoo environment: their return with random actions, and with an expert's advice.

Run it with `python examples/game.py [TASK]`; it needs `pip install 'coteach[game]'`.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from coteach.envs.game import Game, parallel_env
from coteach.teacher.scripted import OracleTeacher

EPISODES = 20
NOOP = 6
"""MiniGrid's action "done", which does nothing: a student without advice waits for some."""

Play = Callable[[Game, dict[str, Any], dict[str, Any]], dict[str, int]]


def guess(game: Game, seen: dict[str, Any], infos: dict[str, Any]) -> dict[str, int]:
    """Choose at random: an option that can be followed, and an action."""
    mask = seen["teacher"]["action_mask"]
    return {"teacher": game.action_space("teacher").sample(mask), "student": game.action_space("student").sample()}


def cooperate(game: Game, seen: dict[str, Any], infos: dict[str, Any]) -> dict[str, int]:
    """The teacher names the scripted expert's option; the student takes the action that it was advised one step earlier."""
    advice = OracleTeacher().advise([infos["teacher"]["situation"]])[0]
    advised = seen["student"][-game.action_space("student").n :]
    return {"teacher": int(advice.argmax()), "student": int(advised.argmax()) if advised.any() else NOOP}


def common_return(game: Game, play: Play, episodes: int = EPISODES) -> float:
    """Return the mean return over episodes with the seeds 0, 1, ... (both agents get the same reward)."""
    returns = np.zeros(episodes)
    for seed in range(episodes):
        seen, infos = game.reset(seed)
        while game.agents:
            seen, rewards, _, _, infos = game.step(play(game, seen, infos))
            returns[seed] += rewards["student"]
    return float(returns.mean())


if __name__ == "__main__":
    game = parallel_env(*sys.argv[1:])
    for agent in game.possible_agents:
        game.action_space(agent).seed(0)
    print(f"common return over {EPISODES} episodes: random actions {common_return(game, guess):.3f}, ", end="", flush=True)
    print(f"an expert advises and the student follows {common_return(game, cooperate):.3f}")
