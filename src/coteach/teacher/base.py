"""The teacher: asked about a situation, it answers with a distribution over the situation's options.

`Teacher.advise` is pure advice: no evidence in it. `Teacher.tune` is the slow channel from student to
teacher (the design's step 6). Implementations: `local.LocalTeacher` (a causal LM with LoRA),
`remote.RemoteTeacher` (any OpenAI-compatible server), `scripted.UniformTeacher`, `scripted.OracleTeacher`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from coteach.errors import CoteachError
from coteach.grounding.base import Situation
from coteach.teacher.telling import NOTHING, Told

if TYPE_CHECKING:
    from torch import Tensor

UNWRITTEN = 10_000
"""Calls that are kept until a run writes them down, at most."""


@dataclass(frozen=True)
class Call:
    """One call of the model, for the run's calls.jsonl: what was asked of it, what it took, what came of it."""

    outcome: str
    """ok, unreadable (a reply that names no option), failed (no reply) or refused (the server will not answer this)."""
    situations: int
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    money: float = 0.0
    detail: str = ""
    """What went wrong; the reply where it could not be read."""


@dataclass
class Books:
    """What the teacher has cost so far. Times in seconds, money in US dollars; tokens are those the model computed."""

    queries: int = 0
    """Situations the model was asked about (advice-memory hits not counted)."""
    memory_hits: int = 0
    calls: int = 0
    """Of the model; a situation may take several, a local model's call takes many situations."""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    money: float = 0.0
    failures: int = 0
    """Calls without a reply."""
    unreadable: int = 0
    """Replies that name no option."""
    unanswered: int = 0
    """Situations about which the model could not be asked: the server failed, or the budget was spent."""
    tunings: int = 0
    tune_seconds: float = 0.0
    journal: deque[Call] = field(default_factory=lambda: deque(maxlen=UNWRITTEN), repr=False, compare=False)
    """Calls that are not written down yet; `totals` leaves them out."""

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.tokens_in + self.tokens_out

    def enter(self, call: Call) -> None:
        """Add one call (its seconds are not added: calls may go on side by side)."""
        self.calls += 1
        self.tokens_in += call.tokens_in
        self.tokens_out += call.tokens_out
        self.money += call.money
        self.failures += call.outcome in ("failed", "refused")
        self.unreadable += call.outcome == "unreadable"
        self.journal.append(call)

    def reached(self, tokens: int, money: float) -> bool:
        """Whether a budget is spent; 0 is no limit."""
        return 0 < tokens <= self.tokens or 0 < money <= self.money

    def take_journal(self) -> list[Call]:
        """The calls since it was last taken; a call may be entered meanwhile, and is in the next."""
        return [self.journal.popleft() for _ in range(len(self.journal))]

    def totals(self) -> dict[str, float]:
        """Every figure by name, as a checkpoint keeps it and `Books(**totals)` reads it."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "journal"}

    def copy(self) -> Books:
        """The figures as they are now."""
        return Books(**self.totals())  # type: ignore[arg-type]

    def since(self, earlier: Books) -> Books:
        """What was spent after `earlier` (a `copy` made then)."""
        before = earlier.totals()
        return Books(**{name: value - before[name] for name, value in self.totals().items()})  # type: ignore[arg-type]

    def part(self, number: int, parts: int) -> Books:
        """One of so many equal parts, numbered from 0; of what is counted, parts differ by one at most and add up."""

        def share(value: float) -> float:
            if isinstance(value, int):
                return value * (number + 1) // parts - value * number // parts
            return value / parts

        return Books(**{name: share(value) for name, value in self.totals().items()})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Lesson:
    """One situation with evidence: `target` (len(options),) float64 is the improved advice p+.

    worth: (len(options),) float64, Q of each option by the evidence alone; where none is given, `target` stands for it.
    """

    situation: Situation
    target: NDArray[np.float64]
    weight: float = 1.0
    worth: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class TuneReport:
    """Mean KL(p+ || p_LLM) over the lessons before and after, and KL(untuned || tuned) after, in nats."""

    lessons: int
    steps: int
    loss_before: float
    loss_after: float
    drift: float
    seconds: float


@dataclass(frozen=True)
class Explanation:
    """How an answer came about: what the model read, and for each option its score, the calibrated score and the advice."""

    prompt: str
    options: tuple[str, ...]
    score: NDArray[np.float64]
    calibrated: NDArray[np.float64]
    advice: NDArray[np.float64]


def uniform(situation: Situation) -> NDArray[np.float64]:
    """(len(options),) the advice of one who knows nothing."""
    return np.full(len(situation.options), 1.0 / len(situation.options))


class Teacher(Protocol):
    """Advice for situations. `tunable` is False where `tune` has nothing to move."""

    name: str
    tunable: bool
    books: Books

    @property
    def told(self) -> Told:
        """What stands before every question."""
        ...

    def advise(self, situations: Sequence[Situation]) -> Sequence[NDArray[np.float64] | None]:
        """One distribution over `options` (sums to 1, all > 0) for each situation; None where it cannot be asked now."""
        ...

    def advise_untuned(self, situations: Sequence[Situation]) -> Sequence[NDArray[np.float64] | None]:
        """What `advise` said before any tuning; the same as `advise` where nothing can be tuned."""
        ...

    def tell(self, told: Told) -> bool:
        """Put `told`, as far as it fits, before every later question; whether that changes what is asked."""
        ...

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        """Move the teacher towards the improved advice; later `advise` calls use the new weights."""
        ...

    def snapshot(self) -> Mapping[str, Tensor]:
        """A copy of what was learned so far, for `restore`; empty before anything was."""
        ...

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Go back to what `snapshot` gave."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was learned (a PEFT adapter, what was told) into `folder`; nothing where nothing was."""
        ...

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        ...


class FixedTeacher:
    """What teachers share whose weights are out of reach: nothing to tune, nothing to keep."""

    name = "fixed"
    tunable = False
    told = NOTHING

    def tell(self, told: Told) -> bool:
        """Nobody listens."""
        return False

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        """Not possible: `tunable` is False."""
        raise CoteachError(f"teacher {self.name!r} cannot be tuned: use a local language model (smollm2, hf:..., gguf:...)")

    def snapshot(self) -> dict[str, Tensor]:
        """Nothing is learned, nothing is copied."""
        return {}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Nothing was learned, nothing is put back."""

    def save(self, folder: Path) -> None:
        """Nothing is learned, nothing is written."""

    def load(self, folder: Path) -> None:
        """Nothing was learned, nothing is read."""
