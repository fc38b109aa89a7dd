"""Register your own tasks: any Gymnasium environment with a discrete action space, described in words.

`register("Taxi-v3", describe=..., actions=(...))` makes a task of an environment, in this process. A package adds tasks for
every process, also for the command line, by entry points of the group `coteach.tasks` (name: the task's id, value: an
`Environment`).
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any
from weakref import WeakValueDictionary

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from coteach.envs.calls import checked_reset, checked_step, close
from coteach.errors import CoteachError, RunFailed, first_line
from coteach.grounding import actions as primitive
from coteach.grounding.base import Family, Ground, Situations
from coteach.grounding.options import MOST_OPTIONS, Expert, Option, OptionGrounding
from coteach.grounding.outcomes import TYPICAL_DURATION
from coteach.grounding.spaces import Encoder

ENTRY_POINTS = "coteach.tasks"
"""The group of entry points by which packages add tasks."""

INSTRUCTION = "You guide an agent. Answer with the best next step."
"""The first sentence of the LLM's prompt, for tasks that set no other."""

BUILT_IN = ("MiniGrid-", "BabyAI-")
"""Beginnings of the ids that the built-in grounding covers."""

MOST_ACTIONS = 127
"""Most actions of an environment: controllers' actions are stored as signed 8-bit integers."""

EvidenceReward = Callable[[NDArray[np.float32], NDArray[np.bool_]], NDArray[Any]]
"""(rewards (N,), terminated (N,)) -> the rewards that the evidence counts (N,)."""


@dataclass(frozen=True)
class Scoring:
    """What a task's rewards mean.

    solved_at: an episode is a success if its undiscounted return is above this.
    scale:     the student learns from reward / scale.
    evidence_reward: gives the rewards that the evidence counts; None: reward / scale.
    """

    solved_at: float = 0.0
    scale: float = 1.0
    evidence_reward: EvidenceReward | None = None

    def count(self, reward: NDArray[np.float32], terminated: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the rewards that the evidence counts, (N,) float32. reward: (N,), not scaled."""
        if self.evidence_reward is None:
            return np.asarray(reward / self.scale, dtype=np.float32)
        counted = np.asarray(self.evidence_reward(reward, terminated), dtype=np.float32)
        if counted.shape != reward.shape:
            raise RunFailed(f"evidence_reward gave {counted.shape} for rewards {reward.shape}: expected a number for each")
        return counted


@dataclass(frozen=True, eq=False)
class Environment:
    """A Gymnasium environment as a task: how to make it, how to describe it in words, and what its rewards mean.

    Raises CoteachError if the fields contradict each other.

    task:        the id; if `make` is None, Gymnasium's id.
    describe:    observation -> text with what the teacher should know. The first sentence should state the goal. Leave out
                 what does not matter: the fewer different texts there are, the sooner each is known.
    actions:     names of the actions, in order.
    options:     observation -> the `Option`s that make sense there; None: the actions are the options.
    max_options: most options in one observation.
    expert:      observation -> the name of the option that an expert would choose, or None. The teacher `oracle` gives this
                 choice, and `liar`, the adversarial teacher, another one. The first observation of a situation decides.
    make:        makes a new environment at each call, whose episodes should end (use `gymnasium.wrappers.TimeLimit`). It is
                 called without arguments, and for filming with render_mode="rgb_array".
    instruction: the first sentence of the LLM's prompt.
    scale:       the student and the evidence count reward / scale. Choose it so that the discounted return of the best
                 episodes is about 1: 20 if success is rewarded with 20, 1 / (1 - gamma) = 100 if each step is rewarded with 1.
    solved_at:   an episode is a success if its undiscounted return is above this; None: if it is at least Gymnasium's reward
                 threshold of the id, or above 0 if it has none.
    max_episode_steps: an episode that has not ended after so many steps is truncated, as by `gymnasium.wrappers.TimeLimit`; None:
                 after 10,000 steps, with a note, if the environment has no `TimeLimit` of its own: it might never end.
    evidence_reward: (rewards (N,), terminated (N,)) -> the rewards that the evidence counts in place of reward / scale.
                 Needed if all rewards are negative, so that no return exceeds 0. If episodes only terminate in success, use for
                 example `lambda reward, terminated: terminated`.
    grounding:   makes a `grounding.base.Grounding`, in place of `describe`, `options` and `expert`. It is given lists of N
                 observations and states the expert's choice in `Situation.expert`.
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
    evidence_reward: EvidenceReward | None = None
    grounding: Ground | None = None
    max_episode_steps: int | None = None

    engine = "gymnasium"

    def __post_init__(self) -> None:
        where = f"task {self.task!r}"
        if (self.describe is None) == (self.grounding is None):
            raise CoteachError(
                f"{where}: its observations have no text: give describe=(observation) -> text, or a grounding, and not both"
            )
        for name in ("describe", "options", "expert", "make", "evidence_reward", "grounding"):
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
        if self.max_episode_steps is not None and not self.max_episode_steps >= 1:
            raise CoteachError(f"{where}: max_episode_steps={self.max_episode_steps!r}: expected a whole number above 0")

    def new(self, render_mode: str | None = None) -> Any:
        """Make one environment. CoteachError if that fails, or if `make` returns an environment that it returned before."""
        given: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        try:
            make = partial(gymnasium.make, self.task, disable_env_checker=True) if self.make is None else self.make
            env = make(**given)
        except Exception as error:  # whatever the environment raises
            what = "cannot be made" if render_mode is None else "cannot be filmed"
            raise CoteachError(f"task {self.task!r}: {what}: {first_line(error)}") from error
        inner = getattr(env, "unwrapped", env)
        if inner is not None and _made.get(id(inner)) is inner:
            raise CoteachError(
                f"task {self.task!r}: make returned the same {type(inner).__name__} twice: expected a new one at each call"
            )
        with contextlib.suppress(TypeError):  # an object that cannot be referred to weakly
            _made[id(inner)] = inner
        return env

    def pack(self, observations: list[Any]) -> list[Any]:
        """Return copies of the observations of N environments: some environments write into an observation again."""
        return [copy.deepcopy(seen) for seen in observations]

    @cached_property
    def scoring(self) -> Scoring:
        """What the task's rewards mean."""
        solved_at = self._threshold if self.solved_at is None else self.solved_at
        return Scoring(solved_at, self.scale, self.evidence_reward)

    @cached_property
    def family(self) -> Family:
        """The task's own family. CoteachError if the task cannot be played: this makes the first environment and checks it."""
        count = len(self._checked_actions)
        if self.grounding is not None:
            self._try_out(None)
            return self._family_of_grounding(self.grounding, count)
        assert self.describe is not None
        encoder, describe, names = Encoder(self._spaces[0], self.task), self.describe, self._checked_actions
        self._try_out(encoder)
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
        """The same family: in every arm, the student's input is the raw observation, or the features of a custom grounding."""
        return self.family

    @cached_property
    def has_expert(self) -> bool:
        """Return whether the task has an expert. Of a grounding, the first situation decides."""
        if self.grounding is None:
            return self.expert is not None
        env, met = self.new(), Situations()
        shown = self.pack([checked_reset(env, self.task, 0)])
        close(env, self.task)
        self.grounding(1, met, len(self._checked_actions)).observe(shown, None, np.ones(1, dtype=np.bool_))
        return met[0].expert is not None

    def _family_of_grounding(self, ground: Ground, count: int) -> Family:
        """Return the family of a custom grounding, from the attributes of one made for a single environment."""
        probe = ground(1, Situations(), count)
        names, slots, features = tuple(probe.action_names), probe.max_options, str(probe.layout)
        return Family(self.task, probe.layout, names, slots, self.instruction, ground, features, unscripted=True)

    def _try_out(self, encoder: Encoder | None) -> None:
        """Reset an environment and take one step. CoteachError if one of them fails or returns what Gymnasium does not allow.

        encoder: checks that the observations are in their space; None for a custom grounding, which can read any.
        """
        env = self.new()
        try:
            shown = [checked_reset(env, self.task, 0)]
            shown.append(checked_step(env, self.task, int(self._spaces[1].start))[0])
        except RunFailed as error:
            raise CoteachError(str(error)) from error
        finally:
            close(env, self.task)
        for seen, when in zip(shown, ("reset", "the first step"), strict=True):
            if encoder is not None and (wrong := encoder.breach(seen)):
                raise CoteachError(f"task {self.task!r}: {wrong} (shown by {when}): mend the observation or its space")

    @cached_property
    def _checked_actions(self) -> tuple[str, ...]:
        """The names of the actions. CoteachError if they are not as many as the environment has."""
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
        """The observation space and the action space."""
        env = self.new()
        close(env, self.task)
        try:
            return env.observation_space, env.action_space
        except AttributeError:
            raise CoteachError(
                f"task {self.task!r}: {type(env).__name__} is no Gymnasium environment: it has no spaces"
            ) from None

    @property
    def _threshold(self) -> float:
        """The return above which an episode is a success. Gymnasium's threshold is enough; rewards are float32 numbers."""
        spec = gymnasium.registry.get(self.task) if self.make is None else None
        if spec is None or spec.reward_threshold is None:
            return 0.0
        return float(spec.reward_threshold) - 1e-6 * max(1.0, abs(spec.reward_threshold))


_registered: dict[str, Environment] = {}

_made: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""The environments that exist, by their id: a `make` that returns one of them again is an error."""


def register(task: str, describe: Callable[[Any], str] | None = None, actions: Sequence[str] = (), **more: Any) -> None:
    """Make a task of a Gymnasium environment, in this process. more: further fields of `Environment`.

    An id that is registered again is replaced. CoteachError for fields that do not exist or contradict each other.
    """
    fields = list(inspect.signature(Environment).parameters)
    if unknown := set(more) - set(fields):
        raise CoteachError(f"task {task!r}: register has no {sorted(unknown)[0]!r}: expected some of {', '.join(fields[3:])}")
    add(Environment(task, describe, actions, **more))


def add(environment: Environment) -> None:
    """Register an `Environment` in this process. CoteachError for an id that the built-in grounding covers."""
    if environment.task.startswith(BUILT_IN):
        raise CoteachError(f"task {environment.task!r}: ids that begin so have a grounding; choose another, and give make=...")
    _registered[environment.task] = environment


def find(task: str) -> Environment | None:
    """Return the environment registered under this id, in this process or by a package; None if there is none."""
    return _registered.get(task) or _plugged(task)


def registered_ids() -> list[str]:
    """Return every id registered in this process or by a package, sorted."""
    return sorted({*_registered, *(point.name for point in _points())})


@cache
def _points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINTS))


@cache
def _plugged(task: str) -> Environment | None:
    """Return the environment that a package registers under this id; None if no package does."""
    for point in _points():
        if point.name == task:
            where = f"task {task!r} of the entry point {point.value!r} ({ENTRY_POINTS})"
            try:
                found = point.load()
            except Exception as error:  # whatever the module raises
                raise CoteachError(f"{where}: cannot be loaded ({error}); mend or uninstall the package") from error
            if not isinstance(found, Environment):
                raise CoteachError(f"{where}: is a {type(found).__name__}: expected a coteach.Environment")
            return replace(found, task=task)
    return None
