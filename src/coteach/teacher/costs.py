"""What a teacher has cost: calls, tokens, seconds and money.

`Usage` adds up all calls of a run; each `Call` also becomes a line of the run's calls.jsonl.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, fields

MAX_PENDING = 10_000
"""Most calls that are kept until a run writes them to calls.jsonl."""


@dataclass(frozen=True)
class Call:
    """One call of the model, for the run's calls.jsonl. Seconds of wall time, money in US dollars."""

    outcome: str
    """ok, unreadable (the reply names no option), failed (no reply) or refused (the server rejects this question)."""
    situations: int
    """Number of situations that the call asked about."""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    money: float = 0.0
    detail: str = ""
    """The error message, or the text of an unreadable reply."""


@dataclass
class Usage:
    """What a teacher has cost so far. Times in seconds, money in US dollars; tokens are those that the model computed."""

    queries: int = 0
    """Situations that the model was asked about; answers from the cache do not count."""
    cache_hits: int = 0
    """Situations whose answer came from the cache."""
    calls: int = 0
    """Calls of the model: a server needs several for one situation, a local model takes many situations in one."""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    money: float = 0.0
    failures: int = 0
    """Calls without a reply."""
    unreadable: int = 0
    """Replies that name no option."""
    unanswered: int = 0
    """Situations without an answer: the server failed, or the budget was used up."""
    tunings: int = 0
    tune_seconds: float = 0.0
    journal: deque[Call] = field(default_factory=lambda: deque(maxlen=MAX_PENDING), repr=False, compare=False)
    """Calls that `drain` has not returned yet; not part of `totals`."""

    @property
    def tokens(self) -> int:
        """Sum of the tokens in and out."""
        return self.tokens_in + self.tokens_out

    def record(self, call: Call) -> None:
        """Add one call, except for its seconds: calls of a server overlap in time."""
        self.calls += 1
        self.tokens_in += call.tokens_in
        self.tokens_out += call.tokens_out
        self.money += call.money
        self.failures += call.outcome in ("failed", "refused")
        self.unreadable += call.outcome == "unreadable"
        self.journal.append(call)

    def reached(self, tokens: int, money: float) -> bool:
        """Whether a budget of `tokens` or `money` is used up; 0 means no limit."""
        return 0 < tokens <= self.tokens or 0 < money <= self.money

    def drain(self) -> list[Call]:
        """Remove and return the calls since the last `drain`. A call that is recorded meanwhile is returned by the next one."""
        return [self.journal.popleft() for _ in range(len(self.journal))]

    def totals(self) -> dict[str, float]:
        """Return every figure by name; `Usage(**totals)` restores them."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "journal"}

    def copy(self) -> Usage:
        """Return a copy of the figures, without the journal."""
        return Usage(**self.totals())  # type: ignore[arg-type]

    def since(self, earlier: Usage) -> Usage:
        """Return what was spent after `earlier`, a `copy` made then."""
        before = earlier.totals()
        return Usage(**{name: value - before[name] for name, value in self.totals().items()})  # type: ignore[arg-type]

    def part(self, number: int, parts: int) -> Usage:
        """Return part `number` (from 0) of `parts` equal parts. Parts of a count differ by at most one and add up to it."""

        def share(value: float) -> float:
            if isinstance(value, int):
                return value * (number + 1) // parts - value * number // parts
            return value / parts

        return Usage(**{name: share(value) for name, value in self.totals().items()})  # type: ignore[arg-type]
