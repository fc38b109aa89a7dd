"""Options that are primitive actions with a name: the default for an environment with discrete actions.

The controller of such an option always takes its action. Taking the action completes the option.
"""

from __future__ import annotations

from collections.abc import Sequence

from coteach.grounding.options import Option

ACTION_DURATION = 1.0
"""Steps that an option of this kind takes."""


def named_actions(names: Sequence[str]) -> tuple[Option, ...]:
    """Return one option for each action, in the order of `names`, by which the teacher knows them."""
    return tuple(_named(name, index) for index, name in enumerate(names))


def _named(name: str, index: int) -> Option:
    """Return the option that takes the action with this index."""
    return Option(name, controller=lambda _: index, completed=lambda _, action, __: action == index)
