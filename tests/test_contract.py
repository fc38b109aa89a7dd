"""The checker finds each breach of the contract, and reports none for a correct grounding."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import coteach
import worlds
from coteach.envs import registration as environments
from coteach.envs import tasks
from coteach.envs.contract import Report, check
from coteach.grounding.base import Grounded, Layout, Situation, Situations
from coteach.grounding.minigrid import MiniGridGrounding

LINE = "Line-v0"


@pytest.fixture(autouse=True)
def line(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(environments, "_registered", {})
    coteach.add(worlds.environment())
    yield


class Sound:
    """A grounding of the line that keeps the contract."""

    layout, action_names, max_options = Layout(flags=worlds.LENGTH), ("left", "right"), 2

    def __init__(self, num_envs: int, situations: Situations, num_actions: int) -> None:
        self.situations = situations

    def observe(self, seen: Any, actions: Any, restarted: Any) -> Grounded:
        places = np.array(seen)
        numbers = [self.situations.number(Situation(f"Place {place}.", ("go left", "go right"))) for place in seen]
        moved = np.zeros(len(seen), np.int64) if actions is None else np.where(restarted, 0, 1 << actions)
        controls = np.tile(np.array([0, 1], np.int8), (len(seen), 1))
        features = (places[:, None] == np.arange(worlds.LENGTH)).astype(np.uint8)
        return Grounded(features, np.array(numbers), controls, moved, np.zeros(len(seen), np.int64))


def found(spoil: Callable[[Any, Grounded, Any], None], **attributes: Any) -> Report:
    """Return the report on a grounding whose answers `spoil` changes, or whose attributes are set to these."""

    class Spoilt(Sound):
        def observe(self, seen: Any, actions: Any, restarted: Any) -> Grounded:
            now = super().observe(seen, actions, restarted)
            spoil(self, now, restarted)
            return now

    for name, value in attributes.items():
        setattr(Spoilt, name, value)
    return check(Spoilt, tasks.reference(LINE, 4, 0), 60)


def nothing(grounding: Any, now: Grounded, restarted: Any) -> None:
    """Change nothing."""


def set_to(name: str, value: Any) -> Callable[[Any, Grounded, Any], None]:
    return lambda _, now, __: setattr(now, name, value(getattr(now, name)))


def renamed(*options: Any, text: Any = "Somewhere.") -> Callable[[Any, Grounded, Any], None]:
    def spoil(grounding: Any, now: Grounded, _: Any) -> None:
        now.situation[:] = grounding.situations.number(Situation(text, options))

    return spoil


def at_random(grounding: Any, now: Grounded, _: Any) -> None:
    now.features[0] = np.random.default_rng().permutation(now.features[0])


def overwritten(grounding: Any, now: Grounded, _: Any) -> None:
    shared = vars(grounding).setdefault("shared", np.zeros_like(now.features))
    shared[:] = now.features
    now.features = shared


def late(grounding: Any, now: Grounded, _: Any) -> None:
    raise ZeroDivisionError("division by zero")


BREACHES: list[tuple[Any, str]] = [
    (set_to("features", lambda f: f[:, 1:]), r"features: \(4, 4\) uint8: expected \(4, 5\) uint8"),
    (set_to("features", lambda f: f.astype(np.float32)), r"features: \(4, 5\) float32: expected \(4, 5\) uint8"),
    (set_to("features", lambda f: f * 7), "features: 7 among the flags: expected 0 or 1 in the 5 columns from 0 on"),
    (set_to("situation", lambda s: s.astype(np.int32)), r"situation: \(4,\) int32: expected \(4,\) int64"),
    (set_to("situation", lambda s: s + 90), r"situation: number 9\d: expected that of one of the \d in `situations`"),
    (set_to("actions", lambda a: a.tolist()), r"actions: list: expected \(4, 2\) int8"),
    (set_to("actions", lambda a: a + np.int8(1)), r"situation 'Place \d.': actions in \[1..2\]: expected \[0..1\], or -1"),
    (set_to("completed", lambda c: c | 4), "completed: a bit is set for a slot that the situation before did not have"),
    (set_to("completed", lambda c: c | 1), "completed: set on the first row of an episode"),
    (lambda _, now, __: setattr(now, "failed", now.completed), "an option is both completed and failed by one step"),
    (renamed("go", "go"), "situation 'Somewhere.': option 'go' is there twice"),
    (renamed(), r"situation 'Somewhere.': options \(\): expected at least one"),
    (renamed("a", "b", "c"), "situation 'Somewhere.': 3 options: expected at most max_options=2"),
    (renamed("a"), "situation 'Somewhere.': actions beyond its 1 options: expected -1 there"),
    (renamed("a", "b", text=" "), "situation ' ': expected a text"),
    (at_random, "features differ when the same is shown again: expected nothing random"),
    (overwritten, "features of an earlier answer were overwritten by a later one"),
    (late, "observe raised ZeroDivisionError: division by zero"),
]


@pytest.mark.parametrize(("spoil", "message"), BREACHES)
def test_each_breach_is_found_and_described(spoil: Any, message: str) -> None:
    report = found(spoil)
    whats = [finding.what for finding in report.findings]
    assert not report.kept and any(re.search(message, what) for what in whats), whats
    assert all("\n" not in what for what in whats)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layout", None, "layout is None: expected a Layout"),
        ("max_options", 99, r"max_options is 99: expected a whole number in \[1..62\]"),
        ("action_names", ("left",), "action_names are 1: expected 2, one for each action"),
    ],
)
def test_wrong_attributes_are_found_before_the_first_step(name: str, value: Any, message: str) -> None:
    (finding,) = found(nothing, **{name: value}).findings
    assert finding.kind == "breach" and re.search(message, finding.what)


def test_correct_groundings_have_no_findings() -> None:
    own = found(nothing)
    assert own.findings == [] and own.kept and own.rows == 4 * 61 and own.completed > 100 and own.episodes > 5
    ready = check(tasks.family(LINE).ground, tasks.reference(LINE, 4, 0), 60)
    assert ready.findings == [] and ready.situations == worlds.LENGTH
    level = "BabyAI-GoToLocal-v0"
    assert check(MiniGridGrounding, tasks.reference(level, 2, 0), 100).kept


def test_what_may_be_intended_is_a_warning() -> None:
    def tireless(grounding: Any, now: Grounded, _: Any) -> None:
        now.completed[:] = 0
        now.actions[:] = -1
        vars(grounding).setdefault("count", [0])[0] += 1
        number = grounding.situations.number(Situation(f"Step {grounding.count[0]}.", ("a", "b")))
        now.situation[:] = number

    coteach.add(worlds.environment(make=worlds.line(limit=10**6, reward=0.0)))
    report = found(tireless)
    assert report.kept and [finding.kind for finding in report.findings] == ["warning"] * len(report.findings)
    whats = " ".join(finding.what for finding in report.findings)
    assert "no option was completed" in whats and "no controller ever had an action" in whats
