"""Tasks of one's own: any Gymnasium environment with a discrete action space, put into words.

`register("Taxi-v3", describe=..., actions=(...))` makes a task of it in this process; a package makes its tasks known to every
process, the command line's too, by entry points of the group `coteach.tasks` (name: the task's id, value: an `Environment`).
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from coteach.errors import CoteachError
from coteach.grounding import actions as primitive
from coteach.grounding.base import Family, Ground, Situations
from coteach.grounding.options import MOST_OPTIONS, Expert, Option, OptionGrounding
from coteach.grounding.outcomes import TYPICAL_DURATION
from coteach.grounding.spaces import Encoder

ENTRY_POINTS = "coteach.tasks"
"""Group of entry points by which packages add tasks."""

INSTRUCTION = "You guide an agent. Answer with the best next step."
"""At the head of the LLM's prompt, where the task brings none of its own."""

BUILT_IN = ("MiniGrid-", "BabyAI-")
"""Beginnings of the ids that the built-in grounding understands."""

MOST_ACTIONS = 127
"""Of an environment: controllers' actions are kept as 8-bit integers with a sign."""

Worth = Callable[[NDArray[np.float32], NDArray[np.bool_]], NDArray[Any]]
"""(rewards (N,), terminated (N,)) -> what the steps were worth to the evidence (N,)."""


@dataclass(frozen=True)
class Scoring:
    """What a task's rewards mean.

    solved_at: an episode is a success where its undiscounted return is above this.
    scale:     the student learns from reward / scale.
    counts:    what the evidence counts; None: reward / scale too.
    """

    solved_at: float = 0.0
    scale: float = 1.0
    counts: Worth | None = None

    def worth(self, reward: NDArray[np.float32], terminated: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(N,) what the evidence counts of these steps."""
        if self.counts is None:
            return np.asarray(reward / self.scale, dtype=np.float32)
        return np.asarray(self.counts(reward, terminated), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Environment:
    """A Gymnasium environment as a task: how it is made, how it is put into words, and what its rewards mean.

    task:        its id; Gymnasium's, where `make` is None.
    describe:    observation -> what the teacher should know, in words. Its first sentence should say what is to be done. The
                 fewer different texts, the sooner each is known: leave out what does not matter.
    actions:     names of the actions, in order.
    options:     observation -> the `Option`s that make sense there; None: the actions are the options.
    max_options: of those, at most, in one observation.
    expert:      observation -> the name of the option that one who knows would choose there, or None: for the teachers `oracle`
                 and `liar`, which repeat or twist it. Of observations that share a situation the first one counts.
    make:        makes one environment, whose episodes end (`gymnasium.wrappers.TimeLimit` sees to it): called without
                 arguments, and to be filmed with render_mode="rgb_array".
    instruction: the sentence at the head of the LLM's prompt.
    scale:       the student learns from reward / scale, and so much does the evidence count: choose it so that the discounted
                 return of the best episodes comes to about 1 (20 where success is rewarded with 20; 1 / (1 - gamma) = 100
                 where each step is with 1).
    solved_at:   an episode is a success where its undiscounted return is above this; None: Gymnasium's reward threshold
                 of the id, or 0 where it has none.
    worth:       where all rewards are negative, so that nothing comes to more than 0: (rewards (N,), terminated (N,)) -> what
                 the evidence counts instead, for example `lambda reward, terminated: terminated` where an episode terminates
                 in success only.
    grounding:   instead of `describe`, `options` and `expert`: makes a `grounding.base.Grounding`, which is shown lists of N
                 observations and says in `Situation.expert` what an expert would choose.
    """

    task: str
    describe: Callable[[Any], str] | None = None
    actions: Sequence[str] = ()
    options: Callable[[Any], Sequence[Option]] | None = None
    max_options: int = 16
    expert: Expert | None = None
    make: Callable[..., Any] | None = None
    instruction: str = INSTRUCTION
    scale: float = 1.0
    solved_at: float | None = None
    worth: Worth | None = None
    grounding: Ground | None = None

    engine = "gymnasium"

    def __post_init__(self) -> None:
        where = f"task {self.task!r}"
        if (self.describe is None) == (self.grounding is None):
            raise CoteachError(
                f"{where}: its observations have no text: give describe=(observation) -> text, or a grounding, and not both"
            )
        for name in ("describe", "options", "expert", "make", "worth", "grounding"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise CoteachError(f"{where}: {name}={getattr(self, name)!r}: expected a function")
        if not self.scale > 0:
            raise CoteachError(f"{where}: scale={self.scale!r}: expected a number above 0, about what a good episode returns")
        if isinstance(self.actions, str) or len(set(self.actions)) < len(self.actions):
            raise CoteachError(f"{where}: actions={self.actions!r}: expected different names, one for each action")
        if not 1 <= self.max_options <= MOST_OPTIONS:
            raise CoteachError(
                f"task {self.task!r}: max_options={self.max_options!r}: expected a whole number in [1..{MOST_OPTIONS}]"
            )

    def new(self, render_mode: str | None = None) -> Any:
        """One environment. CoteachError where it cannot be made."""
        given: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        try:
            if self.make is not None:
                return self.make(**given)
            return gymnasium.make(self.task, disable_env_checker=True, **given)
        except Exception as error:  # whatever a foreign environment raises
            reason = str(error).strip().splitlines() or [type(error).__name__]
            what = "cannot be made" if render_mode is None else "cannot be filmed"
            raise CoteachError(f"task {self.task!r}: {what}: {reason[0]}") from error

    def pack(self, observations: list[Any]) -> list[Any]:
        """The observations of N environments, for its grounding: copied, some go on writing into what they have shown."""
        return [copy.deepcopy(seen) for seen in observations]

    @cached_property
    def scoring(self) -> Scoring:
        """What its rewards mean."""
        solved_at = self._threshold if self.solved_at is None else self.solved_at
        return Scoring(solved_at, self.scale, self.worth)

    @cached_property
    def family(self) -> Family:
        """A family of its own. CoteachError where it cannot be played: the first look at the environment is here."""
        count = len(self._checked_actions)
        if self.grounding is not None:
            return self._family_of_grounding(self.grounding, count)
        assert self.describe is not None
        encoder, describe, names = Encoder(self._spaces[0], self.task), self.describe, self._checked_actions
        offer, slots, typical = self.options, self.max_options, TYPICAL_DURATION
        if offer is None:
            named = primitive.named_actions(names)
            offer, slots, typical = (lambda _: named), count, primitive.ACTION_DURATION

        features = str(self._spaces[0])

        def ground(num_envs: int, situations: Situations, _: int) -> OptionGrounding:
            return OptionGrounding(num_envs, situations, describe, offer, encoder, names, slots, self.task, self.expert)

        own = self.options is not None
        return Family(self.task, encoder.layout, names, slots, self.instruction, ground, features, None, own, typical)

    @property
    def raw_family(self) -> Family:
        """The same: the student sees the environment's own observation in every arm (or what a grounding of one's own makes)."""
        return self.family

    @cached_property
    def has_expert(self) -> bool:
        """Whether there is an expert to repeat; a grounding of one's own shows it in the first situation that it meets."""
        if self.grounding is None:
            return self.expert is not None
        env, met = self.new(), Situations()
        shown = self.pack([env.reset(seed=0)[0]])
        env.close()
        self.grounding(1, met, len(self._checked_actions)).observe(shown, None, np.ones(1, dtype=np.bool_))
        return met[0].expert is not None

    def _family_of_grounding(self, ground: Ground, count: int) -> Family:
        probe = ground(1, Situations(), count)
        names, slots, features = tuple(probe.action_names), probe.max_options, str(probe.layout)
        return Family(self.task, probe.layout, names, slots, self.instruction, ground, features, unscripted=True)

    @cached_property
    def _checked_actions(self) -> tuple[str, ...]:
        """The names of the actions, as many as the environment has."""
        space = self._spaces[1]
        if not isinstance(space, spaces.Discrete):
            raise CoteachError(
                f"task {self.task!r}: its action space {type(space).__name__} is not discrete: expected Discrete; give `make` an "
                "environment wrapped so that its actions are numbered"
            )
        names = tuple(self.actions) or tuple(f"action {index}" for index in range(int(space.n)) if self.grounding is not None)
        if len(names) != space.n or space.n > MOST_ACTIONS:
            raise CoteachError(
                f"task {self.task!r}: {len(names)} names of actions for {space.n} actions: expected a name for each "
                f"(at most {MOST_ACTIONS}), in order"
            )
        return names

    @cached_property
    def _spaces(self) -> tuple[Any, Any]:
        """Observation and action space."""
        env = self.new()
        with contextlib.suppress(Exception):  # it is not needed any more, however it closes
            env.close()
        try:
            return env.observation_space, env.action_space
        except AttributeError:
            raise CoteachError(
                f"task {self.task!r}: {type(env).__name__} is no Gymnasium environment: it has no spaces"
            ) from None

    @property
    def _threshold(self) -> float:
        spec = gymnasium.registry.get(self.task) if self.make is None else None
        return float(spec.reward_threshold or 0.0) if spec is not None else 0.0


_registered: dict[str, Environment] = {}


def register(task: str, describe: Callable[[Any], str] | None = None, actions: Sequence[str] = (), **more: Any) -> None:
    """Make a task of a Gymnasium environment, in this process; `more` are the further fields of `Environment`.

    To register an id again replaces it. CoteachError where what is given cannot be right.
    """
    fields = list(inspect.signature(Environment).parameters)
    if unknown := set(more) - set(fields):
        raise CoteachError(f"task {task!r}: register has no {sorted(unknown)[0]!r}: expected some of {', '.join(fields[3:])}")
    add(Environment(task, describe, actions, **more))


def add(environment: Environment) -> None:
    """`register` for an `Environment`."""
    if environment.task.startswith(BUILT_IN):
        raise CoteachError(f"task {environment.task!r}: ids that begin so have a grounding; choose another, and give make=...")
    _registered[environment.task] = environment


def find(task: str) -> Environment | None:
    """The environment registered under this id, in this process or by a package; None where there is none."""
    return _registered.get(task) or _plugged(task)


def registered_ids() -> list[str]:
    """Every id registered in this process or by a package, sorted."""
    return sorted({*_registered, *(point.name for point in _points())})


@cache
def _points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINTS))


@cache
def _plugged(task: str) -> Environment | None:
    """What a package registers under this id."""
    for point in _points():
        if point.name == task:
            where = f"task {task!r} of the entry point {point.value!r} ({ENTRY_POINTS})"
            try:
                found = point.load()
            except Exception as error:  # whatever a foreign module raises
                raise CoteachError(f"{where}: cannot be loaded ({error}); mend or uninstall the package") from error
            if not isinstance(found, Environment):
                raise CoteachError(f"{where}: is a {type(found).__name__}: expected a coteach.Environment")
            return replace(found, task=task)
    return None
