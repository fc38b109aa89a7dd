"""Gymnasium's Taxi in words: the direction of the passenger or the destination, and where the taxi is.

While the taxi is empty, the destination does not matter, and the text leaves it out: there are 200 situations instead of
404, so each recurs sooner. It runs for about a minute.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import gymnasium

import coteach

TASK = max(name for name in gymnasium.registry if name.startswith("Taxi-v"))  # Taxi-v3, or v4 in newer versions of Gymnasium
SETTINGS = ("arm=no-tune",)  # the LLM is queried, but not tuned; tuning it too (arm=mutual) takes some minutes more
ACTIONS = ("move south", "move north", "move east", "move west", "pick up the passenger", "drop off the passenger")
STANDS = ((0, 0), (0, 4), (4, 0), (4, 3))
IN_TAXI = 4


def describe(observation):
    """Return a text with what the driver needs. observation: ((row * 5 + column) * 5 + passenger) * 4 + destination."""
    rest, destination = divmod(int(observation), 4)
    place, passenger = divmod(rest, 5)
    row, column = divmod(place, 5)
    north, west = STANDS[destination if passenger == IN_TAXI else passenger]
    way = [("north" if north < row else "south")] * (north != row) + [("west" if west < column else "east")] * (west != column)
    where = f"in the {'-'.join(way)}" if way else "here"
    task = "Drive the passenger to the destination" if passenger == IN_TAXI else "Fetch the passenger"
    return f"{task}, {where}. The taxi is in row {row}, column {column}; the goal is in row {north}, column {west}."


def main(steps=30_000, *settings):
    """Train for `steps` steps; return the summary. settings: as for `coteach train`, for example "arm=student-only"."""
    coteach.register(
        TASK,
        describe=describe,
        actions=ACTIONS,
        scale=20,  # the reward of a delivery
        solved_at=0,  # the return is positive if the way was short and no wrong pick-up was tried
        instruction="You guide a taxi. Answer with the best next step.",
    )
    config = coteach.load(overrides=[f"tasks={TASK}", f"steps={steps}", *SETTINGS, *settings])
    with TemporaryDirectory() as folder, coteach.Run.create(Path(folder) / "taxi", config) as run:
        return coteach.train(config, run)[0]


if __name__ == "__main__":
    result = main(30_000, *sys.argv[1:])  # for example: python examples/taxi.py arm=mutual seed=1 steps=36000
    print(f"{TASK}: the student alone delivers in {result['success']:.0%} of 200 episodes after {result['steps']} steps")
    print(f"80 % were reached after {result['steps_to_80']} steps, with {result['llm_queries']} LLM queries")
