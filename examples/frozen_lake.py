"""Gymnasium's FrozenLake in words: where the goal is, and what is next to the agent.

The ice is slippery: two of three steps go in another direction than chosen, so that no policy reaches the goal in more than
about three of four episodes. It runs for about two minutes.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from gymnasium.envs.toy_text.frozen_lake import MAPS

import coteach

TASK = "FrozenLake-v1"
SETTINGS = ("arm=no-tune",)  # the LLM is queried, but not tuned; tuning it too (arm=mutual) takes some minutes more
LAKE = MAPS["4x4"]
SIDES = {"west": (0, -1), "south": (1, 0), "east": (0, 1), "north": (-1, 0)}  # in the order of the actions
THINGS = {"H": "a hole", "G": "the goal", "F": "ice", "S": "ice"}


def beside(row, column):
    """Return what is at a place: ice, a hole, the goal or the shore."""
    inside = 0 <= row < len(LAKE) and 0 <= column < len(LAKE)
    return THINGS[LAKE[row][column]] if inside else "the shore"


def describe(observation):
    """Return a text with the goal and what is around the agent. observation: row * 4 + column."""
    row, column = divmod(int(observation), len(LAKE))
    around = ", ".join(f"{beside(row + down, column + right)} in the {side}" for side, (down, right) in SIDES.items())
    return f"Reach the goal in the south-east, and fall into no hole. The ice is slippery. There is {around}."


def main(steps=40_000, *settings):
    """Train for `steps` steps; return the summary. settings: as for `coteach train`, for example "arm=student-only"."""
    coteach.register(TASK, describe=describe, actions=tuple(f"go {side}" for side in SIDES))
    config = coteach.load(overrides=[f"tasks={TASK}", f"steps={steps}", *SETTINGS, *settings])
    with TemporaryDirectory() as folder, coteach.Run.create(Path(folder) / "lake", config) as run:
        return coteach.train(config, run)[0]


if __name__ == "__main__":
    result = main()
    print(f"{TASK}: the student alone reaches the goal in {result['success']:.0%} of 200 episodes after {result['steps']} steps")
    before, after = result["teacher_success_before"], result["teacher_success_after"]
    print(f"the LLM's advice alone: {before:.0%} before, {after:.0%} after; {result['llm_queries']} LLM queries")
