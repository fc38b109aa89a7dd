"""Turn the facts of a situation into its text and its options, and say what each option slot means to the controllers.

The facts come from a short row of integers (`key.write`): mission, progress, flags, and for each colour the sorts of things
that are known and in reach. Their colours are canonical: renamed in the order in which the mission mentions them, then by
what is known in that colour. Situations that differ by a permutation of colours are therefore one situation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from coteach.grounding.minigrid import encoding as e
from coteach.grounding.minigrid.mission import LOCATION_NAMES, Mission

MAX_OPTIONS = 24

# What an option slot does (its "act").
NO_SLOT, EXPLORE, GO, TAKE, OPEN_UP, CLOSE, PUT_DOWN, PUT_BESIDE, ENTER = range(9)

_CLASS_WORDS = ("key", "ball", "box", "door", "door", "door")
_ADJECTIVES = ("", "", "", "open ", "closed ", "locked ")


@dataclass(frozen=True, order=True)
class Thing:
    """A sort of thing that is known: canonical colour, class (`kind`), tag; and whether the agent can get to one of them."""

    colour: int
    kind: int
    tag: int
    reachable: bool = True

    @property
    def is_door(self) -> bool:
        """Return whether it is a door, in any state."""
        return self.kind >= e.OPEN


@dataclass(frozen=True)
class Facts:
    """The content of a situation, before it is put into words.

    part:       8 integers, the current mission part (columns of `encoding`), with canonical colours.
    done:       for each part, whether it is done.
    held:       the carried thing, or None.
    things:     the known sorts of things, sorted by colour, class, tag.
    more:       whether there is more to explore.
    goal:       0: not seen, 1: out of reach, 2: in reach.
    moves_only: whether the level has only the actions left, right and forward.
    """

    mission: Mission
    part: tuple[int, ...]
    done: tuple[bool, ...]
    held: Thing | None
    things: tuple[Thing, ...]
    more: bool
    goal: int
    moves_only: bool


@dataclass(frozen=True)
class Option:
    """An option's text, and its slot: what to do (`EXPLORE`, `GO`, ...) with which sort of thing."""

    text: str
    act: int
    thing: Thing | None = None


def fits(part: tuple[int, ...], first: int, thing: Thing) -> bool:
    """Return whether a thing satisfies the description that begins at column `first` of a mission part."""
    kind, colour, location = part[first : first + 3]
    if kind in (e.NOTHING, e.A_GOAL) or (colour >= 0 and thing.colour != colour):
        return False
    if location and thing.tag != (e.AT_FIRST if first == e.KIND else e.AT_SECOND):
        return False
    if kind == e.A_DOOR:
        return thing.is_door
    return not thing.is_door and kind in (e.ANY, thing.kind + e.A_KEY)


def describe(facts: Facts) -> str:
    """Return the situation's text."""
    done = [clause for clause, is_done in zip(facts.mission.clauses, facts.done, strict=False) if is_done]
    seen = [f"{_article(t)} {_phrase(t, facts)}{'' if t.reachable else ' out of reach'}" for t in facts.things]
    if facts.goal:
        seen.append("the goal" if facts.goal == 2 else "the goal out of reach")
    sentences = [
        f"Mission: {facts.mission.text or 'none'}.",
        *([f"Done: {', '.join(done)}."] if done else []),
        f"You carry {_article(facts.held) + ' ' + _phrase(facts.held, facts) if facts.held else 'nothing'}.",
        f"You see {', '.join(seen) or 'nothing'}.",
        "There is more to explore." if facts.more else "Everything here is explored.",
    ]
    return " ".join(sentences)


def _article(thing: Thing) -> str:
    return "an" if thing.kind == e.OPEN else "a"


def _where(thing: Thing, facts: Facts) -> str:
    if thing.tag in (e.AT_FIRST, e.AT_SECOND):
        return " " + LOCATION_NAMES[facts.part[e.LOCATION if thing.tag == e.AT_FIRST else e.LOCATION2]]
    if thing.tag == e.BLOCK and thing.is_door:
        return " that is blocked"
    if thing.tag == e.BLOCK:
        doors = {other.colour for other in facts.things if other.is_door and other.tag == e.BLOCK}
        return f" blocking the {e.COLOUR_NAMES[doors.pop()]} door" if len(doors) == 1 else " blocking a door"
    return ""


def _phrase(thing: Thing, facts: Facts) -> str:
    """Return for example "locked green door", "red ball on your left", "blue ball blocking the green door"."""
    return f"{_ADJECTIVES[thing.kind]}{_plain(thing)}{_where(thing, facts)}"


def _plain(thing: Thing) -> str:
    return f"{e.COLOUR_NAMES[thing.colour]} {_CLASS_WORDS[thing.kind]}"


def options(facts: Facts) -> list[Option]:
    """Return the options that make sense, in a fixed order: at most `MAX_OPTIONS`, those that the mission needs most."""
    found = list(_all_options(facts)) or [Option("explore", EXPLORE)]
    if len(found) <= MAX_OPTIONS:
        return found
    kept = sorted(sorted(range(len(found)), key=lambda k: _relevance(found[k], facts))[:MAX_OPTIONS])
    return [found[k] for k in kept]


def _relevance(option: Option, facts: Facts) -> int:
    """Return 0 for an option that the mission needs, a larger number for one that it needs less."""
    thing = option.thing
    named = thing is not None and (fits(facts.part, e.KIND, thing) or fits(facts.part, e.KIND2, thing))
    if thing is None or named or option.act in (PUT_BESIDE, OPEN_UP):
        return 0
    return 1 if option.act == TAKE and thing.kind == e.KEY or thing.tag == e.BLOCK else 2


def _all_options(facts: Facts) -> Iterator[Option]:
    if facts.more:
        yield Option("explore", EXPLORE)
    things = [] if facts.moves_only else [thing for thing in facts.things if thing.reachable]
    # The agent can go to a door in any state: one option for all the states of a colour.
    if facts.part[e.VERB] in (e.GO_TO, e.NO_VERB):
        named = {f"go to the {_plain(t)}{_where(t, facts)}": t for t in reversed(things)}
        for text, thing in sorted(named.items(), key=lambda item: item[1]):
            yield Option(text, GO, thing)
    if facts.held is None:
        for thing in things:
            if not thing.is_door:
                yield Option(f"pick up the {_plain(thing)}{_where(thing, facts)}", TAKE, thing)
    for thing in things:
        yield from _opening(thing, things, facts)
    if facts.held is not None and not facts.moves_only:
        yield from _putting(facts.held, things, facts)
    if facts.goal == 2:
        yield Option("go to the goal", ENTER)


def _opening(thing: Thing, things: list[Thing], facts: Facts) -> Iterator[Option]:
    if thing.kind in (e.CLOSED, e.LOCKED):
        twins = {t.kind for t in things if t.kind in (e.CLOSED, e.LOCKED) and (t.colour, t.tag) == (thing.colour, thing.tag)}
        adjective = _ADJECTIVES[thing.kind] if len(twins) > 1 else ""
        yield Option(f"open the {adjective}{_plain(thing)}{_where(thing, facts)}", OPEN_UP, thing)
    elif thing.kind == e.BOX and may_hide_key(facts):
        yield Option(f"open the {_plain(thing)}{_where(thing, facts)}", OPEN_UP, thing)
    elif thing.kind == e.OPEN and facts.part[e.VERB] == e.OPEN_IT and fits(facts.part, e.KIND, thing):
        yield Option(f"close the {_plain(thing)}{_where(thing, facts)}", CLOSE, thing)


def may_hide_key(facts: Facts) -> bool:
    """Return whether a box may hide a needed key: a locked door is known, but no key of its colour."""
    keys = {t.colour for t in (*facts.things, *([facts.held] if facts.held else [])) if t.kind == e.KEY}
    return any(t.kind == e.LOCKED and t.colour not in keys for t in facts.things)


def _putting(held: Thing, things: list[Thing], facts: Facts) -> Iterator[Option]:
    name = f"{_plain(held)}{_where(held, facts)}"
    yield Option(f"drop the {name}", PUT_DOWN)
    if facts.part[e.VERB] == e.PUT_NEXT:
        named = {f"put the {name} next to the {_plain(t)}{_where(t, facts)}": t for t in reversed(things)}
        for text, thing in sorted(named.items(), key=lambda item: item[1]):
            yield Option(text, PUT_BESIDE, thing)
