"""Options of your own: their controllers, their events, and the errors of wrong definitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from coteach.errors import CoteachError
from coteach.grounding.actions import named_actions
from coteach.grounding.base import Situations
from coteach.grounding.options import Option, OptionGrounding
from coteach.grounding.spaces import Encoder

NOBODY = np.zeros(2, dtype=np.bool_)
UP = Option("climb", lambda seen: 1 if seen < 8 else None, lambda before, action, after: after == 8)
DOWN = Option("fall", lambda seen: 0, lambda before, action, after: after < before, lambda before, action, after: after >= before)


def ground(offer: Any, describe: Any = lambda seen: f"You are on step {seen}.", slots: int = 3) -> OptionGrounding:
    return OptionGrounding(2, Situations(), describe, offer, Encoder(spaces.Discrete(9), "x"), ("down", "up"), slots, "Stairs-v0")


def see(grounding: OptionGrounding, seen: Sequence[int], actions: Sequence[int] | None = None, restarted: Any = NOBODY) -> Any:
    return grounding.observe(seen, None if actions is None else np.array(actions), np.array(restarted))


def test_controllers_return_an_action_or_none() -> None:
    now = see(ground(lambda seen: [UP, DOWN]), [7, 8])
    assert now.actions.tolist() == [[1, 0, -1], [-1, 0, -1]] and now.actions.dtype == np.int8
    assert now.features[:, 7:].tolist() == [[1, 0], [0, 1]]


def test_an_event_counts_for_the_options_of_the_previous_step_whoever_acted() -> None:
    grounding = ground(lambda seen: [DOWN, UP] if seen < 8 else [DOWN])
    see(grounding, [7, 5])
    now = see(grounding, [8, 5], [1, 0])
    assert now.completed.tolist() == [0b10, 0] and now.failed.tolist() == [0b01, 0b01]
    later = see(grounding, [7, 4], [0, 0])
    assert later.completed.tolist() == [0b01, 0b01] and later.failed.tolist() == [0, 0]


def test_the_first_row_of_an_episode_completes_nothing() -> None:
    grounding = ground(lambda seen: [UP, DOWN])
    see(grounding, [7, 7])
    now = see(grounding, [8, 8], [1, 1], [True, False])
    assert now.completed.tolist() == [0, 0b01] and now.failed.tolist() == [0, 0b10]


def test_a_situation_is_its_text_and_its_options() -> None:
    grounding = ground(lambda seen: [UP] if seen % 2 else [UP, DOWN], lambda seen: "On the stairs.")
    assert see(grounding, [1, 3]).situation.tolist() == [0, 0]
    assert see(grounding, [2, 4], [0, 0]).situation.tolist() == [1, 1]
    assert [situation.options for situation in grounding.situations] == [("climb",), ("climb", "fall")]


def test_named_actions_are_completed_by_being_taken() -> None:
    named = named_actions(("down", "up"))
    grounding = ground(lambda seen: named, slots=2)
    assert see(grounding, [3, 3]).actions.tolist() == [[0, 1]] * 2
    now = see(grounding, [3, 4], [0, 1])
    assert now.completed.tolist() == [0b01, 0b10] and not now.failed.any()


WRONG: list[tuple[Any, Any, str]] = [
    (lambda seen: [], str, "in the observation 3 there is no option: expected at least one"),
    (lambda seen: [UP, UP], str, "in the observation 3 option 'climb' is offered twice"),
    (
        lambda seen: [UP, DOWN, *named_actions("ab")],
        str,
        "in the observation 3 there are 4 options: expected at most max_options=3",
    ),
    (lambda seen: [UP], lambda seen: " ", "describe gave ' ' for the observation 3: expected a text"),
    (lambda seen: [Option("leap", lambda s: 2, UP.completed)], str, r"option 'leap' gave 2 .* expected an action in \[0..1\]"),
]


@pytest.mark.parametrize(("offer", "describe", "message"), WRONG)
def test_what_breaks_the_contract_is_an_error_of_one_line(offer: Any, describe: Any, message: str) -> None:
    with pytest.raises(CoteachError, match=message) as error:
        see(ground(offer, describe), [3, 3])
    assert "\n" not in str(error.value) and "'Stairs-v0'" in str(error.value)


@pytest.mark.parametrize(
    ("name", "controller", "completed", "failed", "message"),
    [
        ("open", lambda s: 0, None, None, "option 'open' has no event: give completed="),
        ("open", 3, UP.completed, None, "option 'open': controller=3: expected"),
        ("open", lambda s: 0, UP.completed, 3, "option 'open': failed=3: expected"),
        (" ", lambda s: 0, UP.completed, None, "option ' ': expected a name in words"),
    ],
)
def test_an_option_without_name_controller_or_event_is_refused(
    name: Any, controller: Any, completed: Any, failed: Any, message: str
) -> None:
    with pytest.raises(CoteachError, match=message):
        Option(name, controller, completed, failed)
