"""A house to tidy up: a task where an LLM pays, because words are many, what they mean is no secret, and steps are few.

Two hundred things belong in five places. An episode is four of them, one after the other in the agent's hands; it is rewarded
only if all four end up where they belong, and over at the first that does not. Nothing but the meaning of its name says where a
thing belongs: without an LLM that is found out thing by thing. A quarter of the things is kept for `TidyUpNew-v0`: what
the LLM says about those, never having been taught about any, is what carried over.

It is also a task as a package would add one: an environment, put into words, named by entry points in pyproject.toml.
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
MET = [number for number in range(len(THINGS)) if number % 4]
NEW = [number for number in range(len(THINGS)) if not number % 4]
TO_TIDY = 4


class House(Env[Any, Any]):
    """Observed is the number of the thing in the agent's hands; an action puts it in one of the places."""

    def __init__(self, things: Sequence[int]) -> None:
        self.observation_space = spaces.Discrete(len(THINGS))
        self.action_space = spaces.Discrete(len(PLACES))
        self.things = things
        self.left: list[int] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Another four things to tidy."""
        super().reset(seed=seed)
        self.left = self.np_random.choice(self.things, TO_TIDY, replace=False).tolist()
        return self.left[0], {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Put what is held in a place."""
        thing = self.left.pop(0)
        wrong = list(PLACES)[action] != THINGS[thing][1]
        over = wrong or not self.left
        return (thing if over else self.left[0]), float(over and not wrong), over, False, {}


def house(task: str, things: Sequence[int]) -> Environment:
    """The task of tidying a house in which these things lie about."""
    return Environment(
        task,
        describe=lambda thing: f"Mission: put the {THINGS[thing][0]} away. You hold the {THINGS[thing][0]}.",
        actions=[f"put it {place}" for place in PLACES],
        expert=lambda thing: f"put it {THINGS[thing][1]}",
        make=lambda: House(things),
        instruction="You tidy up a house. Answer with where the thing belongs.",
    )


TIDY_UP = house("TidyUp-v0", MET)
TIDY_UP_NEW = house("TidyUpNew-v0", NEW)
