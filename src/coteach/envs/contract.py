"""Check that a grounding keeps the contract of `grounding.base`, as Gymnasium's environment checker does for environments.

The checker plays: half of the environments act at random, the others follow options to their ends. Then a second grounding
is given the same observations, and must return the same. A breach makes a run fail or learn the wrong thing; a warning
may be intended.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coteach.envs.engines import LIMIT_IT, MOST_STEPS, VectorTask
from coteach.errors import CoteachError
from coteach.grounding.base import Ground, Grounded, Grounding, Layout, Situation, Situations
from coteach.grounding.follower import OptionFollower
from coteach.grounding.options import MOST_OPTIONS

OPTION_STEPS = 20
"""Most steps for which an option is followed."""

MOST_NEW = 0.5
"""Situations per row from which on the checker warns that situations hardly recur."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be.

    what:  a message of one line.
    times: the number of steps on which it was found.
    first: the first of these steps.
    """

    kind: Literal["breach", "warning"]
    what: str
    times: int
    first: int


@dataclass(frozen=True)
class Report:
    """The findings of `check`, and how much it looked at.

    rows:       observations that were grounded.
    situations: different situations among them.
    completed:  rows in which an option was completed.
    episodes:   episodes that ended.
    """

    findings: list[Finding]
    rows: int
    situations: int
    completed: int
    episodes: int

    @property
    def kept(self) -> bool:
        """Return whether the contract is kept. Warnings do not count."""
        return all(finding.kind != "breach" for finding in self.findings)


Seen = tuple[Any, NDArray[np.int64] | None, NDArray[np.bool_]]
"""The arguments of `observe`."""


def check(ground: Ground, task: VectorTask, steps: int = 300, seed: int = 0) -> Report:
    """Play `steps` steps in every environment of `task` with a grounding made by `ground`; report, and close the task."""
    checker = _Checker(ground(task.num_envs, Situations(), task.num_actions), task)
    breaches = checker.attributes()
    if not breaches:
        checker.play(steps, np.random.default_rng(seed))
    else:
        checker.note(0, breaches)
    task.close()
    if not checker.found:
        again = ground(task.num_envs, Situations(), task.num_actions)
        checker.note(steps, checker.differences(again))
    return checker.report()


class _Checker:
    """The check of one grounding."""

    def __init__(self, grounding: Grounding, task: VectorTask) -> None:
        self.grounding, self.task = grounding, task
        self.found: dict[str, tuple[int, int]] = {}
        """Breach -> (number of steps on which it was found, the first of them)."""
        self.seen: list[Seen] = []
        self.answers: list[tuple[Grounded, Grounded]] = []
        """Each return value of `observe`, and a copy made at once."""
        self.completed = self.episodes = 0

    def note(self, step: int, breaches: Iterator[str] | list[str]) -> None:
        """Record the breaches of this step."""
        for breach in dict.fromkeys(breaches):
            times, first = self.found.get(breach, (0, step))
            self.found[breach] = (times + 1, first)

    def attributes(self) -> list[str]:
        """Return the breaches in the grounding's attributes."""
        return list(_attribute_breaches(self.grounding, self.task.num_actions))

    def play(self, steps: int, rng: np.random.Generator) -> None:
        """Act, observe and check every answer; stop at the first that raises or has the wrong shape."""
        envs, slots = self.task.num_envs, self.grounding.max_options
        follower, controlled, done = (
            OptionFollower(envs, slots, OPTION_STEPS),
            np.arange(envs) % 2 == 1,
            np.zeros(envs, dtype=np.bool_),
        )
        now = self.observe(0, (self.task.reset(), None, np.ones(envs, dtype=np.bool_)))
        for t in range(1, steps + 1):
            if now is None:
                return
            controlled_by = follower.choose(now, np.full((envs, slots), 1.0 / slots), controlled, done, rng)
            anything = rng.integers(0, self.task.num_actions, envs)
            actions = np.where((controlled_by >= 0) & (controlled_by < self.task.num_actions), controlled_by, anything)
            step = self.task.step(actions)
            done = step.terminated | step.truncated
            self.episodes += int(done.sum())
            now = self.observe(t, (step.observation, actions, step.restarted))
        self.find_an_end(steps, rng)

    def find_an_end(self, steps: int, rng: np.random.Generator) -> None:
        """Act at random until an episode ends, without the grounding; a breach if none does that has no time limit."""
        for _ in range(MOST_STEPS):
            if self.episodes:
                break
            step = self.task.step(rng.integers(0, self.task.num_actions, self.task.num_envs))
            self.episodes += int((step.terminated | step.truncated).sum())
        if getattr(self.task, "endless", False):
            self.note(steps, [f"no episode ended in {MOST_STEPS} steps: {LIMIT_IT}"])

    def observe(self, step: int, given: Seen) -> Grounded | None:
        """Return the grounding's answer; None if it cannot be used."""
        try:
            now = self.grounding.observe(*given)
        except CoteachError as error:
            self.note(step, [str(error)])
            return None
        except Exception as error:  # whatever the user's code raises
            self.note(step, [f"observe raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"])
            return None
        breaches = list(_shape_breaches(now, self.grounding, self.task.num_envs))
        usable = not breaches
        if usable:
            before = self.answers[-1][1] if self.answers else None
            breaches = list(_content_breaches(now, before, given[2], self.grounding))
            self.seen.append(given)
            self.answers.append((now, copy.deepcopy(now)))
            self.completed += int((now.completed != 0).sum())
        self.note(step, breaches)
        return now if usable else None

    def differences(self, again: Grounding) -> Iterator[str]:
        """Yield what was overwritten later, or what a second grounding answers differently; at most one message."""
        for now, kept in self.answers:
            if name := _different(now, kept):
                yield f"{name} of an earlier answer were overwritten by a later one: give new arrays on each call"
                return
        for given, (_, kept) in zip(self.seen, self.answers, strict=True):
            now = again.observe(*given)
            name = _different(now, kept)
            texts = [[of.situations[int(number)] for number in kept.situation] for of in (self.grounding, again)]
            if name or texts[0] != texts[1]:
                yield f"{name or 'situations'} differ when the same is shown again: expected nothing random"
                return

    def report(self) -> Report:
        """Return the breaches, or, if there are none, the warnings."""
        findings = [Finding("breach", what, times, first) for what, (times, first) in self.found.items()]
        rows, situations = len(self.answers) * self.task.num_envs, len(self.grounding.situations)
        if not findings:
            findings = [Finding("warning", what, 1, len(self.answers) - 1) for what in self._warnings(rows, situations)]
        return Report(findings, rows, situations, self.completed, self.episodes)

    def _warnings(self, rows: int, situations: int) -> Iterator[str]:
        if not self.completed:
            yield f"no option was completed in {rows} steps: does its event come about, and can its controller bring it about?"
        if not self.episodes:
            yield f"no episode ended in {MOST_STEPS} random steps: is so long a time limit intended?"
        if not any((now.actions >= 0).any() for now, _ in self.answers):
            yield "no controller ever had an action: options cannot be followed"
        if situations > MOST_NEW * rows:
            yield f"{situations} situations in {rows} steps: they hardly recur; leave out of the text what does not matter"


def _attribute_breaches(grounding: Grounding, num_actions: int) -> Iterator[str]:
    for name, kind in (("situations", Situations), ("max_options", int), ("layout", Layout), ("action_names", tuple)):
        value = getattr(grounding, name, None)
        if not isinstance(value, kind):
            yield f"{name} is {value!r}: expected {'an' if kind is int else 'a'} {kind.__name__}"
    if isinstance(slots := getattr(grounding, "max_options", None), int) and not 1 <= slots <= MOST_OPTIONS:
        yield f"max_options is {slots}: expected a whole number in [1..{MOST_OPTIONS}]"
    names = getattr(grounding, "action_names", None)
    if isinstance(names, tuple) and len(names) != num_actions:
        yield f"action_names are {len(names)}: expected {num_actions}, one for each action"


def _shape_breaches(now: Grounded, grounding: Grounding, envs: int) -> Iterator[str]:
    """Yield the arrays of the wrong shape or type."""
    slots, layout = grounding.max_options, grounding.layout
    whole = ((envs,), np.int64)
    expected: dict[str, tuple[tuple[int, ...], type]] = {
        "features": ((envs, layout.size), layout.dtype),
        "situation": whole,
        "actions": ((envs, slots), np.int8),
        "completed": whole,
        "failed": whole,
    }
    for name, (shape, kind) in expected.items():
        array = getattr(now, name)
        found = f"{array.shape} {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        if found != f"{shape} {np.dtype(kind)}":
            yield f"{name}: {found}: expected {shape} {np.dtype(kind)}"


def _content_breaches(
    now: Grounded, before: Grounded | None, restarted: NDArray[np.bool_], grounding: Grounding
) -> Iterator[str]:
    """Yield what is wrong in arrays of the right shape."""
    situations = list(grounding.situations)
    yield from _feature_breaches(now.features, grounding.layout)
    for number, actions in zip(now.situation.tolist(), now.actions, strict=True):
        if 0 <= number < len(situations):
            yield from _situation_breaches(situations[number], actions, len(grounding.action_names))
        else:
            yield f"situation: number {number}: expected that of one of the {len(situations)} in `situations`"
    for name in ("completed", "failed"):
        bits = getattr(now, name)
        if bits[restarted].any():
            yield f"{name}: set on the first row of an episode: expected 0, no step has been taken"
        offered = dict(enumerate(before.situation.tolist())) if before else {}
        for env in np.flatnonzero(bits * ~restarted).tolist():
            if 0 <= offered.get(env, -1) < len(situations) and int(bits[env]) >> len(situations[offered[env]].options):
                yield f"{name}: a bit is set for a slot that the situation before did not have"
    if (now.completed & now.failed).any():
        yield "an option is both completed and failed by one step"


def _feature_breaches(features: NDArray[Any], layout: Layout) -> Iterator[str]:
    flags = features[:, layout.numbers : layout.numbers + layout.flags]
    if not np.isfinite(features.astype(np.float64)).all():
        yield "features: not finite: expected numbers"
    elif not np.isin(flags, (0, 1)).all():
        yield f"features: {flags.max()} among the flags: expected 0 or 1 in the {layout.flags} columns from {layout.numbers} on"


def _situation_breaches(situation: Situation, actions: NDArray[np.int8], num_actions: int) -> Iterator[str]:
    """Yield what is wrong with one row's text, options and controllers."""
    where, options = f"situation {situation.text[:50]!r}", situation.options
    if not isinstance(situation.text, str) or not situation.text.strip():
        yield f"situation {situation.text!r}: expected a text"
        return
    if not options or not all(isinstance(option, str) and option.strip() for option in options):
        yield f"{where}: options {options!r}: expected at least one, each a text"
    if len(set(options)) < len(options):
        yield f"{where}: option {max(options, key=options.count)!r} is there twice"
    if len(options) > len(actions):
        yield f"{where}: {len(options)} options: expected at most max_options={len(actions)}"
    if (actions[len(options) :] != -1).any():
        yield f"{where}: actions beyond its {len(options)} options: expected -1 there"
    if actions.min() < -1 or actions.max() >= num_actions:
        yield f"{where}: actions in [{actions.min()}..{actions.max()}]: expected [0..{num_actions - 1}], or -1 for none"


def _different(one: Grounded, other: Grounded) -> str:
    """Return the name of the first field in which two answers differ; empty if they are equal."""
    names = (field.name for field in fields(Grounded))
    return next((name for name in names if not np.array_equal(getattr(one, name), getattr(other, name))), "")
