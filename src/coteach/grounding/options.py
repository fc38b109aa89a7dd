"""Options for environments of your own: a name, a controller, and the event that completes the option.

`OptionGrounding` is for environments in which a single observation contains everything that matters. It needs two functions: one
from an observation to a text, one from an observation to the options that make sense there. Where earlier observations matter,
implement `base.Grounding` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.errors import CoteachError, raised
from coteach.grounding.base import Grounded, Situation, Situations
from coteach.grounding.spaces import Encoder

MOST_OPTIONS = 62
"""The largest number of options of a situation: completed and failed options are stored as the bits of an int64."""

Event = Callable[[Any, int, Any], bool]
"""(observation before, action, observation after) -> whether the event happened."""


@dataclass(frozen=True)
class Option:
    """A temporally extended action (Sutton, Precup and Singh 1999): something worth doing that takes a step or more.

    name:       the words by which the teacher chooses it, for example "open the door".
    controller: observation -> the next primitive action, or None where there is none. Instead of a function, None: the student
                learns to carry the option out.
    completed:  the event that completes the option, whoever chose the actions.
    failed:     the event that shows that the option cannot be done now; None: there is no such event, only a timeout.

    Raises CoteachError where a field is not what it should be.
    """

    name: str
    controller: Callable[[Any], int | None] | None
    completed: Event
    failed: Event | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise CoteachError(f"option {self.name!r}: expected a name in words, by which the teacher chooses it")
        if self.controller is not None and not callable(self.controller):
            raise CoteachError(
                f"option {self.name!r}: controller={self.controller!r}: expected (observation) -> action, "
                "or None to have it learned"
            )
        if not callable(self.completed):
            raise CoteachError(f"option {self.name!r} has no event: give completed=(before, action, after) -> bool")
        if self.failed is not None and not callable(self.failed):
            raise CoteachError(f"option {self.name!r}: failed={self.failed!r}: expected (before, action, after) -> bool, or None")


Describe = Callable[[Any], str]
"""observation -> its text."""
Offer = Callable[[Any], Sequence[Option]]
"""observation -> the options that make sense there."""
Expert = Callable[[Any], str | None]
"""observation -> the name of the option that an expert chooses, or None."""


class OptionGrounding:
    """A grounding of N environments (`base.Grounding`) made of functions of a single observation.

    describe: observation -> what the teacher should know, in words; the first sentence is the goal.
    offer:    observation -> the options that make sense there, at least one and at most `max_options`.
    encoder:  observation -> the student's input.
    task:     the name of the task in errors.
    expert:   observation -> the name of the option that an expert chooses; called when a situation is met for the first time.

    `observe` raises CoteachError where one of the functions returns something that is not allowed.
    """

    def __init__(
        self,
        num_envs: int,
        situations: Situations,
        describe: Describe,
        offer: Offer,
        encoder: Encoder,
        action_names: tuple[str, ...],
        max_options: int,
        task: str,
        expert: Expert | None = None,
    ) -> None:
        self.situations, self.max_options = situations, max_options
        self.layout, self.action_names = encoder.layout, action_names
        self._describe, self._offer, self._encoder, self._task, self._expert = describe, offer, encoder, task, expert
        self._checked: set[tuple[str, ...]] = set()
        """The sets of options, by their names, that were found to be valid."""
        self._seen: list[Any] = [None] * num_envs
        self._offered: list[Sequence[Option]] = [()] * num_envs

    def observe(self, observation: Sequence[Any], actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        """Process one step of all environments (see `base.Grounding.observe`)."""
        try:
            return self._observe(observation, actions, restarted)
        except CoteachError:
            raise
        except Exception as error:  # whatever the task's functions raise
            raise raised(f"task {self._task!r}: a function of the task", error) from error

    def _observe(self, observation: Sequence[Any], actions: NDArray[np.int64] | None, restarted: NDArray[np.bool_]) -> Grounded:
        count = len(observation)
        events = np.zeros((2, count), dtype=np.int64)
        if actions is not None:
            for env in np.flatnonzero(~restarted).tolist():
                events[:, env] = self._events(env, int(actions[env]), observation[env])
        controls = np.full((count, self.max_options), -1, dtype=np.int8)
        unscripted = np.zeros((count, self.max_options), dtype=np.bool_)
        numbers = np.empty(count, dtype=np.int64)
        for env, seen in enumerate(observation):
            options = self._options(seen)
            numbers[env] = self.situations.number(self._situation(seen, options))
            controls[env, : len(options)] = [self._action(option, seen) for option in options]
            unscripted[env, : len(options)] = [option.controller is None for option in options]
            self._seen[env], self._offered[env] = seen, options
        rows = np.stack([self._encoder.encode(seen) for seen in observation])
        return Grounded(rows, numbers, controls, events[0], events[1], unscripted)

    def _events(self, env: int, action: int, after: Any) -> tuple[int, int]:
        """Return the options that the last step completed and those that it showed to be impossible, as bits of two integers."""
        completed = failed = 0
        for slot, option in enumerate(self._offered[env]):
            if option.completed(self._seen[env], action, after):
                completed |= 1 << slot
            elif option.failed is not None and option.failed(self._seen[env], action, after):
                failed |= 1 << slot
        return completed, failed

    def _situation(self, seen: Any, options: Sequence[Option]) -> Situation:
        """Return the situation of an observation, with the expert's choice where the situation is new."""
        situation = Situation(self._text(seen), tuple(option.name for option in options))
        if self._expert is None or situation in self.situations or (choice := self._expert(seen)) is None:
            return situation
        if choice not in situation.options:
            raise CoteachError(
                f"task {self._task!r}: expert gave {choice!r} for the observation {_short(seen)}: expected one of its options, "
                f"or None: {', '.join(situation.options)}"
            )
        return replace(situation, expert=situation.options.index(choice))

    def _text(self, seen: Any) -> str:
        """Return the text of an observation; CoteachError if it is not a text."""
        text = self._describe(seen)
        if not isinstance(text, str) or not text.strip():
            raise CoteachError(
                f"task {self._task!r}: describe gave {text!r} for the observation {_short(seen)}: expected a text; "
                "say in words what the teacher should know there"
            )
        return text

    def _options(self, seen: Any) -> Sequence[Option]:
        """Return the options that make sense for an observation; CoteachError if they are not valid."""
        options = self._offer(seen)
        names = tuple(option.name for option in options)
        if names not in self._checked:
            self._check(names, seen)
            self._checked.add(names)
        return options

    def _check(self, names: tuple[str, ...], seen: Any) -> None:
        """Raise CoteachError if there are no options, too many, or two of the same name."""
        where = f"task {self._task!r}: in the observation {_short(seen)}"
        if not names:
            raise CoteachError(f"{where} there is no option: expected at least one; offer one that waits or looks around")
        if len(names) > self.max_options:
            raise CoteachError(
                f"{where} there are {len(names)} options: expected at most max_options={self.max_options}; raise that"
            )
        if len(set(names)) < len(names):
            twice = max(names, key=names.count)
            raise CoteachError(f"{where} option {twice!r} is offered twice: expected different names")

    def _action(self, option: Option, seen: Any) -> int:
        """Return the action of an option's controller, -1 for none; CoteachError if it is not an action."""
        action = option.controller(seen) if option.controller else None
        if action is None:
            return -1
        if not 0 <= action < len(self.action_names):
            raise CoteachError(
                f"task {self._task!r}: the controller of option {option.name!r} gave {action!r} for the observation "
                f"{_short(seen)}: expected an action in [0..{len(self.action_names) - 1}], or None where there is no way to go on"
            )
        return int(action)


def _short(observation: Any) -> str:
    """Return an observation on one line of at most 60 characters, for messages."""
    text = " ".join(str(observation).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
