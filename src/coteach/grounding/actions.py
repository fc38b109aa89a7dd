"""Options that are the named primitive actions: what any environment with a discrete action space has.

The controller of such an option always takes its action, and to take it completes it.
"""

from __future__ import annotations

from collections.abc import Sequence

from coteach.grounding.options import Option

TYPICAL_DURATION = 1.0
"""Steps that an action takes."""


def named_actions(names: Sequence[str]) -> tuple[Option, ...]:
    """One option for each action, in their order."""
    return tuple(_named(name, index) for index, name in enumerate(names))


def _named(name: str, index: int) -> Option:
    return Option(name, controller=lambda _: index, completed=lambda _, action, __: action == index)
