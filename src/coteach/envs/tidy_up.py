"""A house to tidy up: a task for which an LLM helps much, because it needs the meaning of many words and few steps.

Two hundred things belong in five places. In an episode the agent holds four things, one after the other, and puts each
in a place. The episode ends at the first mistake; it is rewarded with 1 if all four things are where they belong. Only the
meaning of a thing's name tells where it belongs: without an LLM, the student must find out the place of each thing by trial.
A quarter of the things is held out for `TidyUpNew-v0`: on these, it is measured what the LLM generalises from training.

This is also an example of a task that a package adds: an environment with a text, named by entry points in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gymnasium import Env, spaces

from coteach.envs.registration import Environment

PLACES = {
    "in the fridge": (
        "milk cheese butter yoghurt ham lettuce eggs salmon cream sausages strawberries juice carrots mayonnaise steak tofu "
        "grapes cabbage chicken jam bacon broccoli lemonade beer pudding spinach cucumber tuna celery mustard raspberries turkey "
        "leftovers margarine shrimp parsley ketchup mushrooms lamb radishes"
    ),
    "in the wardrobe": (
        "shirt trousers socks dress sweater coat scarf skirt jacket tie jeans gloves blouse pyjamas belt hat suit cardigan "
        "shorts hoodie underpants raincoat vest tights cap stockings mittens tunic leggings blazer gown bra apron kimono "
        "overalls tuxedo swimsuit sandals boots slippers"
    ),
    "on the bookshelf": (
        "novel dictionary atlas cookbook encyclopedia comic biography textbook magazine diary guidebook thesaurus notebook album "
        "bible thriller almanac anthology memoir paperback play manual poem essay autobiography catalogue fable scrapbook "
        "trilogy reader chronicle phrasebook journal hardcover yearbook booklet songbook bestseller saga directory"
    ),
    "in the toolbox": (
        "hammer screwdriver wrench pliers saw drill nails screws spanner chisel bolts file crowbar sandpaper axe hacksaw clamp "
        "ruler vise mallet washers rivets pincers awl hinge level solder chainsaw jigsaw trowel wire sander staples hatchet "
        "sledgehammer plumb rasp nuts wedge bradawl"
    ),
    "in the bathroom": (
        "shampoo toothbrush soap towel toothpaste razor comb mouthwash deodorant sponge sunscreen plasters perfume tweezers "
        "hairbrush lotion conditioner floss bandage lipstick mascara cologne moisturiser toilet-roll bathrobe washcloth "
        "hairspray loofah cotton-wool aftershave thermometer aspirin ointment eyeliner curlers hairdryer scissors blush gauze "
        "shower-gel"
    ),
}
THINGS = [(thing, place) for place, things in PLACES.items() for thing in things.split()]
TRAINING_THINGS = [number for number in range(len(THINGS)) if number % 4]
HELD_OUT_THINGS = [number for number in range(len(THINGS)) if not number % 4]
TO_TIDY = 4


class House(Env[Any, Any]):
    """The environment. The observation is the number of the thing in the agent's hands; an action puts it in a place.

    things: numbers of the things that an episode is drawn from.
    """

    def __init__(self, things: Sequence[int]) -> None:
        self.observation_space = spaces.Discrete(len(THINGS))
        self.action_space = spaces.Discrete(len(PLACES))
        self.things = things
        self.left: list[int] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Draw another four things to tidy."""
        super().reset(seed=seed)
        self.left = self.np_random.choice(self.things, TO_TIDY, replace=False).tolist()
        return self.left[0], {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Put the held thing in a place. The observation after the last one of an episode repeats that thing."""
        thing = self.left.pop(0)
        wrong = list(PLACES)[action] != THINGS[thing][1]
        over = wrong or not self.left
        return (thing if over else self.left[0]), float(over and not wrong), over, False, {}


def house(task: str, things: Sequence[int]) -> Environment:
    """Return the task of tidying a house with these things (numbers into `THINGS`)."""
    return Environment(
        task,
        describe=lambda thing: f"Mission: put the {THINGS[thing][0]} away. You hold the {THINGS[thing][0]}.",
        actions=[f"put it {place}" for place in PLACES],
        expert=lambda thing: f"put it {THINGS[thing][1]}",
        make=lambda: House(things),
        instruction="You tidy up a house. Answer with where the thing belongs.",
    )


TIDY_UP = house("TidyUp-v0", TRAINING_THINGS)
TIDY_UP_NEW = house("TidyUpNew-v0", HELD_OUT_THINGS)
