"""A text game made with TextWorld: a house of four rooms, a locked chest with a coin in it, and a key somewhere else.

The teacher chooses among the commands that the game admits. The student may give any command of a fixed list; one that the
game does not admit does nothing and costs a step. Each episode's seed draws one of sixteen houses. It needs `pip install
textworld` (on Linux, with a C compiler to build one of its dependencies), and runs for three to four minutes.
"""

import sys
from copy import copy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import textworld
from gymnasium import Env, spaces
from gymnasium.wrappers import TimeLimit
from textworld.envs import TextWorldEnv
from textworld.generator.game import Event, Quest

import coteach
from coteach.grounding.actions import named_actions

TASK = "Treasure-v0"
SETTINGS = ("arm=no-tune", "collect.envs=32")  # the LLM is not tuned; tuning it too (arm=mutual) takes some minutes more
HOUSES = 16
ROOMS = ("kitchen", "hall", "cellar", "garden")  # clockwise: going round visits every room
THINGS = ("chest", "key", "apple")
COMMANDS = (
    *(f"go {side}" for side in ("north", "east", "south", "west")),
    *(f"examine {thing}" for thing in THINGS),
    *(f"{verb} {thing}" for verb in ("take", "drop") for thing in THINGS[1:]),
    *("eat apple", "unlock chest with key", "lock chest with key", "open chest", "close chest", "take coin from chest"),
)
OPTIONS = dict(zip(COMMANDS, named_actions(COMMANDS), strict=True))


@cache
def house(seed):
    """Make and load a game. The seed places chest, key, apple and player."""
    maker = textworld.GameMaker()
    kitchen, hall, cellar, garden = rooms = [maker.new_room(name) for name in ROOMS]
    maker.connect(kitchen.east, hall.west)
    maker.connect(hall.south, cellar.north)
    maker.connect(cellar.west, garden.east)
    maker.connect(garden.north, kitchen.south)
    chest, key, apple = (maker.new(kind, thing) for kind, thing in zip("ckf", THINGS, strict=True))
    coin = maker.new("o", "coin")
    chest.add(coin)
    chest.add_property("locked")
    apple.add_property("edible")
    maker.add_fact("match", key, chest)
    *places, start = np.random.default_rng(seed).integers(len(rooms), size=4)
    for thing, place in zip((chest, key, apple), places, strict=True):
        rooms[place].add(thing)
    maker.set_player(rooms[start])
    maker.quests = [Quest(win_events=[Event(conditions={maker.new_fact("in", coin, maker.inventory)})])]
    with TemporaryDirectory() as folder:
        maker.build().save(path := f"{folder}/house.json")
        game = TextWorldEnv(textworld.EnvInfos(admissible_commands=True, facts=True))
        game.load(path)
    return game


class Treasure(Env):
    """The game as a Gymnasium environment. Observation: room and admitted commands; taking the coin is rewarded with 1."""

    observation_space = spaces.Dict({"room": spaces.Discrete(len(ROOMS)), "admits": spaces.MultiBinary(len(COMMANDS))})
    action_space = spaces.Discrete(len(COMMANDS))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.game = copy(house(int(self.np_random.integers(HOUSES))))  # its reset renews everything else
        return self.seen(self.game.reset()), {}

    def step(self, action):
        state, score, done = self.game.step(COMMANDS[action])
        return self.seen(state), float(score), done, False, {}

    @staticmethod
    def seen(state):
        room = next(fact.arguments[1].name for fact in state.facts if fact.name == "at" and fact.arguments[0].type == "P")
        return {"room": ROOMS.index(room), "admits": np.isin(COMMANDS, state.admissible_commands).astype(np.int8)}


def admitted(seen):
    """Return the commands that the game admits."""
    return [command for command, yes in zip(COMMANDS, seen["admits"], strict=True) if yes]


def describe(seen):
    """Return a text with the mission, and where the player is, what he carries and what he sees."""
    commands = admitted(seen)
    has = [thing for thing in THINGS if f"drop {thing}" in commands]
    sees = [thing for thing in THINGS if f"examine {thing}" in commands and thing not in has]
    coin = " It is open, and the coin is in it." if "take coin from chest" in commands else ""
    return (
        f"Mission: take the coin out of the locked chest. You are in the {ROOMS[seen['room']]}. "
        f"You carry {listed(has)} and see {listed(sees)}.{coin}"
    )


def expert(seen):
    """Return an expert's command, for the arm `oracle`: one that leads to the coin, else the way to the next room clockwise."""
    useful = ("take coin from chest", "open chest", "unlock chest with key", "take key")
    onward = ("go east", "go south", "go west", "go north")[seen["room"]]
    return next((command for command in useful if command in admitted(seen)), onward)


def listed(things):
    """Return a list of things in words."""
    return " and ".join(f"the {thing}" for thing in things) or "nothing"


def main(steps=20_000, *settings):
    """Train for `steps` steps; return the summary. settings: as for `coteach train`, for example "arm=student-only"."""
    coteach.register(
        TASK,
        describe=describe,
        actions=COMMANDS,
        options=lambda seen: [OPTIONS[command] for command in admitted(seen)],
        expert=expert,
        make=lambda **given: TimeLimit(Treasure(), 30),
        instruction="You play a text game. Answer with the best next command.",
    )
    config = coteach.load(overrides=[f"tasks={TASK}", f"steps={steps}", *SETTINGS, *settings])
    with TemporaryDirectory() as folder, coteach.Run.create(Path(folder) / "treasure", config) as run:
        return coteach.train(config, run)[0]


if __name__ == "__main__":
    result = main(20_000, *sys.argv[1:])  # for example: python examples/text_game.py arm=student-only steps=40000
    print(f"{TASK}: the student alone finds the coin in {result['success']:.0%} of 200 episodes after {result['steps']} steps")
    print(f"80 % were reached after {result['steps_to_80']} steps, with {result['llm_queries']} LLM queries")
