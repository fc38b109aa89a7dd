"""An environment and options of your own: a corridor with a key and a locked door, and three options.

An option has a controller, which gives the next action, and an event that completes it. It runs for about a minute.
`coteach doctor --grounding own_options:CORRIDOR` checks it. A package adds it as a task by the entry point
`Corridor-v0 = "own_options:CORRIDOR"`.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from gymnasium import Env, spaces
from gymnasium.wrappers import TimeLimit

import coteach

DOOR, TAKEN = 11, 12  # the place of the door; the "place" of the key when it is carried
LEFT, RIGHT, TAKE, OPEN = range(4)


class Corridor(Env):
    """Agent and key start at random in twelve places; opening the door with the key is rewarded with 1 and ends the episode."""

    observation_space = spaces.Dict({"agent": spaces.Discrete(12), "key": spaces.Discrete(13)})
    action_space = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = {"agent": int(self.np_random.integers(12)), "key": int(self.np_random.integers(12))}
        return dict(self.seen), {}

    def step(self, action):
        agent, key = self.seen.values()
        opened = action == OPEN and (agent, key) == (DOOR, TAKEN)
        key = TAKEN if action == TAKE and agent == key else key
        self.seen = {"agent": min(max(agent + (action == RIGHT) - (action == LEFT), 0), DOOR), "key": key}
        return dict(self.seen), float(opened), opened, False, {}


def walk(seen, place, then):
    """Return the next action on the way to a place, and at the place the action `then`."""
    return then if seen["agent"] == place else RIGHT if seen["agent"] < place else LEFT


def at_door(before, action):
    """Return whether the step was an attempt to open the door."""
    return before["agent"] == DOOR and action == OPEN


BACK = coteach.Option("go to the left end", lambda seen: LEFT if seen["agent"] else None, lambda b, a, after: not after["agent"])
KEY = coteach.Option("pick up the key", lambda seen: walk(seen, seen["key"], TAKE), lambda b, a, after: after["key"] == TAKEN)
LEAVE = coteach.Option(
    "open the door",
    controller=lambda seen: walk(seen, DOOR, OPEN),
    completed=lambda before, action, after: at_door(before, action) and before["key"] == TAKEN,
    failed=lambda before, action, after: at_door(before, action) and before["key"] != TAKEN,
)
CORRIDOR = coteach.Environment(
    "Corridor-v0",
    describe=lambda seen: f"Mission: open the door. You {'carry the' if seen['key'] == TAKEN else 'see a'} key.",
    actions=("step left", "step right", "take", "open"),
    options=lambda seen: [LEAVE, BACK] if seen["key"] == TAKEN else [BACK, LEAVE, KEY],
    make=lambda **given: TimeLimit(Corridor(), 60),
)


def main(steps=12_000, *settings):
    """Train for `steps` steps; return the summary. settings: as for `coteach train`, for example "arm=student-only"."""
    coteach.add(CORRIDOR)
    config = coteach.load(overrides=["tasks=Corridor-v0", f"steps={steps}", *settings])
    with TemporaryDirectory() as folder, coteach.Run.create(Path(folder) / "corridor", config) as run:
        return coteach.train(config, run)[0]


if __name__ == "__main__":
    result = main()
    print(f"Corridor-v0: the student alone leaves in {result['success']:.0%} of 200 episodes after {result['steps']} steps")
