"""Teacher and student as agents of one PettingZoo environment: what they earn together when both guess, and when both know.

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
"""MiniGrid's "done", which does nothing: a student that has heard no advice waits for it."""

Play = Callable[[Game, dict[str, Any], dict[str, Any]], dict[str, int]]


def guess(game: Game, seen: dict[str, Any], infos: dict[str, Any]) -> dict[str, int]:
    """Any option that can be followed, and any action."""
    mask = seen["teacher"]["action_mask"]
    return {"teacher": game.action_space("teacher").sample(mask), "student": game.action_space("student").sample()}


def cooperate(game: Game, seen: dict[str, Any], infos: dict[str, Any]) -> dict[str, int]:
    """The teacher says what a scripted expert would; the student does as it was told on the step before."""
    advice = OracleTeacher().advise([infos["teacher"]["situation"]])[0]
    advised = seen["student"][-game.action_space("student").n :]
    return {"teacher": int(advice.argmax()), "student": int(advised.argmax()) if advised.any() else NOOP}


def common_return(game: Game, play: Play, episodes: int = EPISODES) -> float:
    """Mean over episodes that begin from the seeds 0, 1, ... of what each of the two earned."""
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
    print(f"common return over {EPISODES} episodes: both guess {common_return(game, guess):.3f}, ", end="", flush=True)
    print(f"the teacher knows and the student listens {common_return(game, cooperate):.3f}")
