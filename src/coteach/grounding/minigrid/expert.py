"""A scripted expert, for the arms `oracle` and `liar`: it chooses an option from the facts of a situation.

It knows no more than the teacher is shown. It takes the first step first: the key before its door, free hands before
picking up, the blocking thing before the blocked door. If it can do nothing for the mission, it explores, then opens doors,
then moves things out of the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from coteach.grounding.minigrid import encoding as e
from coteach.grounding.minigrid import words as w
from coteach.grounding.minigrid.words import Facts, Option, Thing


class _Expert:
    """The rules. Every method returns a slot, or None if it has no option to choose; `first_of` tries several rules in order."""

    def __init__(self, facts: Facts, options: list[Option]) -> None:
        self.facts = facts
        self.options = options

    def slot(self, act: int, test: Callable[[Thing], bool] | None = None) -> int | None:
        """Return the first slot that does `act` to a thing that passes the test."""
        for k, option in enumerate(self.options):
            if option.act == act and (test is None or (option.thing is not None and test(option.thing))):
                return k
        return None

    def first_of(self, slots: Iterable[Callable[[], int | None]]) -> int | None:
        """Return the first slot that one of these rules finds."""
        for slot in slots:
            found = slot()
            if found is not None:
                return found
        return None

    def wanted(self, first: int) -> Callable[[Thing], bool]:
        """Return a test for the description that begins at column `first` of the current mission part."""
        return lambda thing: w.fits(self.facts.part, first, thing)

    def holds(self, test: Callable[[Thing], bool]) -> bool:
        """Return whether the carried thing passes the test."""
        return self.facts.held is not None and test(self.facts.held)

    def choose(self) -> int | None:
        """Choose an option for the current mission part; if there is none, search."""
        verb = self.facts.part[e.VERB]
        if verb == e.NO_VERB:
            return self.slot(w.EXPLORE)
        act = {e.GO_TO: self.go, e.PICK_UP: self.take, e.OPEN_IT: self.open, e.PUT_NEXT: self.put, e.REACH: self.reach}[verb]
        return self.first_of([act, self.search])

    def go(self) -> int | None:
        """Go to the named thing, or put it down if it is carried."""
        target = self.slot(w.GO, self.wanted(e.KIND))
        if target is None and self.holds(self.wanted(e.KIND)):
            return self.slot(w.PUT_DOWN)
        return target

    def reach(self) -> int | None:
        """Go to the goal."""
        return self.slot(w.ENTER)

    def take(self) -> int | None:
        """Pick up the named thing."""
        return self.pick(self.wanted(e.KIND))

    def pick(self, test: Callable[[Thing], bool]) -> int | None:
        """Pick up a thing that passes the test and is in reach; with full hands, put down what is carried first."""
        if not any(t.reachable and not t.is_door and test(t) for t in self.facts.things):
            return self.slot(w.PUT_DOWN) if self.holds(test) else None
        return self.slot(w.PUT_DOWN) if self.facts.held is not None else self.slot(w.TAKE, test)

    def open(self) -> int | None:
        """Open the named door; if it is locked, unlock it; if it is open already, close it first."""
        wanted = self.wanted(e.KIND)
        doors = [t for t in self.facts.things if t.is_door and wanted(t)]
        return self.first_of([
            lambda: self.slot(w.OPEN_UP, lambda t: t.kind == e.CLOSED and wanted(t)),
            lambda: self.unlock([t for t in doors if t.kind == e.LOCKED]),
            lambda: self.slot(w.CLOSE, wanted) if self.all_seen() else None,
        ])  # fmt: skip

    def all_seen(self) -> bool:
        """Return whether an open door has to do: everything is explored, or no closed or locked door is known."""
        return not self.facts.more or not any(t.kind in (e.CLOSED, e.LOCKED) for t in self.facts.things)

    def put(self) -> int | None:
        """Put the first named thing next to the second; pick it up only once the second is known or all is explored."""
        moved, fixed = self.wanted(e.KIND), self.wanted(e.KIND2)
        if self.holds(moved):
            return self.slot(w.PUT_BESIDE, fixed)
        if any(fixed(t) for t in self.facts.things) or not self.facts.more:
            return self.pick(moved)
        return None

    def search(self) -> int | None:
        """Explore, or make a way: for when nothing can be done for the mission now."""
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
        """Open one of these locked doors: with the carried key, else clear the way to them, else fetch a key that fits."""
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
        """Open a box: a key may be in it."""
        return self.slot(w.OPEN_UP, lambda t: t.kind == e.BOX)

    def unblock(self) -> int | None:
        """Pick up a thing that blocks a door; with full hands, put down what is carried first."""
        if self.slot(w.TAKE, lambda t: t.tag == e.BLOCK) is not None:
            return self.slot(w.TAKE, lambda t: t.tag == e.BLOCK)
        if any(t.reachable and not t.is_door and t.tag == e.BLOCK for t in self.facts.things):
            return self.slot(w.PUT_DOWN)
        return None

    def clear(self) -> int | None:
        """Put down what is carried, or pick up anything: for when something unknown is in the way."""
        return self.first_of([lambda: self.slot(w.PUT_DOWN), lambda: self.slot(w.TAKE)])


def choose(facts: Facts, options: list[Option]) -> int | None:
    """Return the option slot that the expert chooses, or None if it has no rule for the situation."""
    return _Expert(facts, options).choose()
