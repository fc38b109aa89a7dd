"""Gymnasium's Taxi in words: which way the passenger or the destination lies, and where in the small town the taxi is.

Where the passenger wants to go does not matter while the taxi is empty, so the text leaves it out then: 200 situations
instead of 404, each of which recurs the sooner. Run it: it trains both players for about a minute and prints what came of it.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import gymnasium

import coteach

TASK = max(name for name in gymnasium.registry if name.startswith("Taxi-v"))  # Taxi-v3, or v4 as newer Gymnasiums call it
SETTINGS = ("arm=no-tune",)  # the LLM is asked and overruled; to tune it too (arm=mutual) takes minutes more
ACTIONS = ("move south", "move north", "move east", "move west", "pick up the passenger", "drop off the passenger")
STANDS = ((0, 0), (0, 4), (4, 0), (4, 3))
IN_TAXI = 4


def describe(observation):
    """What the driver should know. The observation is ((row * 5 + column) * 5 + passenger) * 4 + destination."""
    rest, destination = divmod(int(observation), 4)
    place, passenger = divmod(rest, 5)
    row, column = divmod(place, 5)
    north, west = STANDS[destination if passenger == IN_TAXI else passenger]
    way = [("north" if north < row else "south")] * (north != row) + [("west" if west < column else "east")] * (west != column)
    where = f"in the {'-'.join(way)}" if way else "here"
    task = "Drive the passenger to the destination" if passenger == IN_TAXI else "Fetch the passenger"
    return f"{task}, {where}. The taxi is in row {row}, column {column}; the goal is in row {north}, column {west}."


def main(steps=30_000, *settings):
    """Train for `steps` steps; `settings` as `coteach train` takes them, for example "arm=student-only"."""
    coteach.register(
        TASK,
        describe=describe,
        actions=ACTIONS,
        scale=20,  # what a delivery is rewarded with
        solved_at=0,  # an episode's return is positive where the way was short and nothing was picked up in vain
        instruction="You guide a taxi. Answer with the best next step.",
    )
    config = coteach.load(overrides=[f"tasks={TASK}", f"steps={steps}", *SETTINGS, *settings])
    with TemporaryDirectory() as folder, coteach.Run.create(Path(folder) / "taxi", config) as run:
        return coteach.train(config, run)[0]


if __name__ == "__main__":
    result = main(30_000, *sys.argv[1:])  # for example: python examples/taxi.py arm=mutual seed=1 steps=36000
    print(f"{TASK}: the student alone delivers in {result['success']:.0%} of 200 episodes after {result['steps']} steps")
    print(f"80 % were reached after {result['steps_to_80']} steps, with {result['llm_queries']} questions to the LLM")
