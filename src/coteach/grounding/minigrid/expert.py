"""A scripted expert for the `oracle` arm: from the facts of a situation, the option a sensible person would take.

It sees what the teacher sees, no more: means come before ends (a key before its door, free hands before picking up,
the way cleared before the door), and where nothing is left to do for the mission it explores, then opens doors, then clears ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from coteach.grounding.minigrid import encoding as e
from coteach.grounding.minigrid import words as w
from coteach.grounding.minigrid.words import Facts, Option, Thing


class _Expert:
    def __init__(self, facts: Facts, options: list[Option]) -> None:
        self.facts = facts
        self.options = options

    def slot(self, act: int, test: Callable[[Thing], bool] | None = None) -> int | None:
        """The first slot that does `act` to a thing that passes the test."""
        for k, option in enumerate(self.options):
            if option.act == act and (test is None or (option.thing is not None and test(option.thing))):
                return k
        return None

    def first_of(self, slots: Iterable[Callable[[], int | None]]) -> int | None:
        for slot in slots:
            found = slot()
            if found is not None:
                return found
        return None

    def wanted(self, first: int) -> Callable[[Thing], bool]:
        return lambda thing: w.fits(self.facts.part, first, thing)

    def holds(self, test: Callable[[Thing], bool]) -> bool:
        return self.facts.held is not None and test(self.facts.held)

    def choose(self) -> int | None:
        verb = self.facts.part[e.VERB]
        if verb == e.NO_VERB:
            return self.slot(w.EXPLORE)
        act = {e.GO_TO: self.go, e.PICK_UP: self.take, e.OPEN_IT: self.open, e.PUT_NEXT: self.put, e.REACH: self.reach}[verb]
        return self.first_of([act, self.search])

    def go(self) -> int | None:
        target = self.slot(w.GO, self.wanted(e.KIND))
        if target is None and self.holds(self.wanted(e.KIND)):
            return self.slot(w.PUT_DOWN)
        return target

    def reach(self) -> int | None:
        return self.slot(w.ENTER)

    def take(self) -> int | None:
        return self.pick(self.wanted(e.KIND))

    def pick(self, test: Callable[[Thing], bool]) -> int | None:
        """Pick up a thing in reach, after putting down what is carried."""
        if not any(t.reachable and not t.is_door and test(t) for t in self.facts.things):
            return self.slot(w.PUT_DOWN) if self.holds(test) else None
        return self.slot(w.PUT_DOWN) if self.facts.held is not None else self.slot(w.TAKE, test)

    def open(self) -> int | None:
        wanted = self.wanted(e.KIND)
        doors = [t for t in self.facts.things if t.is_door and wanted(t)]
        return self.first_of([
            lambda: self.slot(w.OPEN_UP, lambda t: t.kind == e.CLOSED and wanted(t)),
            lambda: self.unlock([t for t in doors if t.kind == e.LOCKED]),
            lambda: self.slot(w.CLOSE, wanted) if self.all_seen() else None,
        ])  # fmt: skip

    def all_seen(self) -> bool:
        """Whether a door that is open already is the only one to be had."""
        return not self.facts.more or not any(t.kind in (e.CLOSED, e.LOCKED) for t in self.facts.things)

    def put(self) -> int | None:
        moved, fixed = self.wanted(e.KIND), self.wanted(e.KIND2)
        if self.holds(moved):
            return self.slot(w.PUT_BESIDE, fixed)
        if any(fixed(t) for t in self.facts.things) or not self.facts.more:
            return self.pick(moved)
        return None

    def search(self) -> int | None:
        """Nothing to be done for the mission at once: learn more, or make a way."""
        locked = [t for t in self.facts.things if t.kind == e.LOCKED]
        return self.first_of([
            lambda: self.slot(w.EXPLORE),
            lambda: self.slot(w.OPEN_UP, lambda t: t.kind == e.CLOSED),
            lambda: self.unlock(locked),
            self.unbox,
            self.unblock,
            self.clear,
        ])  # fmt: skip

    def unlock(self, doors: list[Thing]) -> int | None:
        """Open one of the locked doors: with the key in hand, or clearing the way, or fetching a key."""
        colours = {door.colour for door in doors}
        if self.holds(lambda t: t.kind == e.KEY and t.colour in colours):
            assert self.facts.held is not None
            mine = self.facts.held.colour
            opening = self.slot(w.OPEN_UP, lambda t: t.kind == e.LOCKED and t.colour == mine)
            if opening is not None:
                return opening
        blocked = [door for door in doors if not door.reachable]
        if blocked and len(blocked) == len(doors):
            return self.unblock()
        free = {door.colour for door in doors if door.reachable}
        return self.pick(lambda t: t.kind == e.KEY and t.colour in free)

    def unbox(self) -> int | None:
        return self.slot(w.OPEN_UP, lambda t: t.kind == e.BOX)

    def unblock(self) -> int | None:
        """Take what blocks a door out of the way; hands must be free first."""
        if self.slot(w.TAKE, lambda t: t.tag == e.BLOCK) is not None:
            return self.slot(w.TAKE, lambda t: t.tag == e.BLOCK)
        if any(t.reachable and not t.is_door and t.tag == e.BLOCK for t in self.facts.things):
            return self.slot(w.PUT_DOWN)
        return None

    def clear(self) -> int | None:
        """Something unknown is in the way: move things about."""
        return self.first_of([lambda: self.slot(w.PUT_DOWN), lambda: self.slot(w.TAKE)])


def choose(facts: Facts, options: list[Option]) -> int | None:
    """The slot the expert takes, or None where it knows none."""
    return _Expert(facts, options).choose()
