"""What a teacher has cost: calls, tokens, seconds and money."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, fields

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
class Usage:
    """What the teacher has cost so far. Times in seconds, money in US dollars; tokens are those the model computed."""

    queries: int = 0
    """Situations the model was asked about (answers from the cache not counted)."""
    cache_hits: int = 0
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

    def record(self, call: Call) -> None:
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

    def drain(self) -> list[Call]:
        """The calls since it was last taken; a call may be entered meanwhile, and is in the next."""
        return [self.journal.popleft() for _ in range(len(self.journal))]

    def totals(self) -> dict[str, float]:
        """Every figure by name, as a checkpoint keeps it and `Usage(**totals)` reads it."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "journal"}

    def copy(self) -> Usage:
        """The figures as they are now."""
        return Usage(**self.totals())  # type: ignore[arg-type]

    def since(self, earlier: Usage) -> Usage:
        """What was spent after `earlier` (a `copy` made then)."""
        before = earlier.totals()
        return Usage(**{name: value - before[name] for name, value in self.totals().items()})  # type: ignore[arg-type]

    def part(self, number: int, parts: int) -> Usage:
        """One of so many equal parts, numbered from 0; of what is counted, parts differ by one at most and add up."""

        def share(value: float) -> float:
            if isinstance(value, int):
                return value * (number + 1) // parts - value * number // parts
            return value / parts

        return Usage(**{name: share(value) for name, value in self.totals().items()})  # type: ignore[arg-type]
