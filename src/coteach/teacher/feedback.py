"""Composes in-context feedback for the teacher's prompt: verified examples and sentences about the evidence.

Examples are situations with the option that worked there, chosen so that every situation met resembles one of them (greedy
facility location, within 1 - 1/e of the best choice: Nemhauser, Wolsey and Fisher 1978). Sentences say how options ended that
the teacher advised, the costliest advice first. All functions are pure; the teacher decides how much fits into its prompt.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.config import TeacherConfig
from coteach.errors import CoteachError
from coteach.grounding.base import Situation
from coteach.runs.files import replace_text

Array = NDArray[np.float64]

FILE = "feedback.json"


@dataclass(frozen=True)
class Feedback:
    """Feedback, most informative first. examples: (situation's text, option that worked) each; evidence: sentences."""

    examples: tuple[tuple[str, str], ...] = ()
    evidence: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: Any) -> Feedback:
        """Make a `Feedback` from what `dataclasses.asdict` returned. Raises KeyError, TypeError or ValueError for other data."""
        return cls(tuple((str(text), str(option)) for text, option in data["examples"]), tuple(map(str, data["evidence"])))

    @classmethod
    def load(cls, folder: Path) -> Feedback:
        """Read what `save` wrote; empty if there is no such file. Raises `CoteachError` if the file is damaged."""
        if not (folder / FILE).is_file():
            return cls()
        try:
            return cls.parse(json.loads((folder / FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CoteachError(f"cannot read the teacher's feedback {folder / FILE}: {error}; is the file whole?") from error

    def save(self, folder: Path) -> None:
        """Write it into `folder` in one step; nothing if it is empty."""
        if self != NOTHING:
            folder.mkdir(parents=True, exist_ok=True)
            replace_text(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")

    def fitted(self, cost: Callable[[Feedback], int], budget: int) -> Feedback:
        """Return as much of it as costs at most `budget`, examples and sentences by turns; leave out what is too long."""
        kept = NOTHING
        for piece in self._pieces():
            longer = Feedback(kept.examples + piece.examples, kept.evidence + piece.evidence)
            if cost(longer) <= budget:
                kept = longer
        return kept

    def _pieces(self) -> Iterator[Feedback]:
        for example, sentence in zip_longest(self.examples, self.evidence):
            if example is not None:
                yield Feedback(examples=(example,))
            if sentence is not None:
                yield Feedback(evidence=(sentence,))


NOTHING = Feedback()


@dataclass(frozen=True)
class Experience:
    """What is known of one situation. Arrays are (options,) float64.

    prior:           the teacher's own advice; None if it was never asked.
    imitation:       the improved advice.
    tries, failures: outcomes of each option, and how many of them were failures.
    pessimistic_q:   Q by the evidence alone.
    visits:          how often the situation was met of late.
    """

    situation: Situation
    prior: Array | None
    imitation: Array
    tries: Array
    failures: Array
    pessimistic_q: Array
    visits: float

    @property
    def best(self) -> int:
        """Index of the best option by the improved advice."""
        return int(self.imitation.argmax())

    @property
    def verified(self) -> bool:
        """Whether the best option was completed here."""
        return bool(self.tries[self.best] > self.failures[self.best])


def compose(config: TeacherConfig, experiences: Sequence[Experience], before: Feedback = NOTHING) -> Feedback:
    """Compose the feedback of the kind `config.feedback`, most informative first, to follow the feedback `before`.

    A sentence stays until there is a new one about the same option: a teacher that follows it must not lose the reason.
    """
    met = sorted(experiences, key=lambda experience: -experience.visits)[: config.feedback_candidates]
    what, most = config.feedback, config.feedback_pieces
    new = sentences(config, experiences) if what in ("evidence", "both") else []
    kept = [sentence for sentence in before.evidence if _about(sentence) not in map(_about, new)]
    return Feedback(tuple(examples(met, most)) if what in ("examples", "both") else (), (*new, *kept)[:most])


def examples(experiences: Sequence[Experience], count: int) -> list[tuple[str, str]]:
    """Choose up to `count` verified (text, option), each the one that most improves how well the situations met are covered.

    An example covers a situation by the product of two Jaccard indices: of the words of the texts, and of the best options.
    (With the texts alone, all examples said "go to ...", and the LLM never advised "explore" again.)
    """
    verified = [experience for experience in experiences if experience.verified]
    visits = np.array([experience.visits for experience in experiences])
    similarity = np.ones((len(verified), len(experiences)))
    for words in (_words_of_text, _words_of_option):
        similarity *= _jaccard([words(e) for e in verified], [words(e) for e in experiences])
    covered, chosen = np.zeros(len(experiences)), list[tuple[str, str]]()
    while verified and len(chosen) < count:
        gain = (np.maximum(similarity - covered, 0.0) * visits).sum(axis=1)
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        covered = np.maximum(covered, similarity[best])
        chosen.append((verified[best].situation.text, verified[best].situation.options[verified[best].best]))
    return chosen


def sentences(config: TeacherConfig, experiences: Sequence[Experience]) -> list[str]:
    """Write up to `config.feedback_pieces` sentences about options that the teacher advised, the costliest advice first.

    The cost of advice in a situation is its number of visits times the Q of the best option less that of the advised one.
    """
    answered = [e for e in experiences if e.prior is not None and len(e.prior) > 1]
    cost: dict[str, float] = defaultdict(float)
    worst: dict[str, Experience] = {}
    for experience in sorted(answered, key=_cost):
        known = experience.tries[_advice(experience)] >= config.feedback_outcomes
        if known and _regret(experience) > config.feedback_regret:
            option = experience.situation.options[_advice(experience)]
            cost[option] += _cost(experience)
            worst[option] = experience
    ranked = sorted(cost, key=lambda option: -cost[option])[: config.feedback_pieces]
    return [_sentence(config, option, worst[option], experiences) for option in ranked]


def _about(sentence: str) -> str:
    """Return the option that a sentence is about: its first words in quotes."""
    return sentence.split('"')[1]


def _words_of_text(experience: Experience) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", experience.situation.text.lower()))


def _words_of_option(experience: Experience) -> frozenset[str]:
    """The words of the best option."""
    return frozenset(re.findall(r"\w+", experience.situation.options[experience.best].lower()))


def _jaccard(some: Sequence[frozenset[str]], others: Sequence[frozenset[str]]) -> Array:
    """Return the (some, others) Jaccard indices: words in common, divided by all words of the two."""
    index = [[len(one & other) / max(len(one | other), 1) for other in others] for one in some]
    return np.array(index, dtype=np.float64).reshape(len(some), len(others))


def _advice(experience: Experience) -> int:
    """Return the index of the option that the teacher itself advises; only if it was asked."""
    assert experience.prior is not None
    return int(experience.prior.argmax())


def _regret(experience: Experience) -> float:
    """Return how much Q the teacher's own advice loses against the best option."""
    return float(experience.pessimistic_q[experience.best] - experience.pessimistic_q[_advice(experience)])


def _cost(experience: Experience) -> float:
    return experience.visits * _regret(experience)


def _sentence(config: TeacherConfig, option: str, where: Experience, experiences: Sequence[Experience]) -> str:
    """Write how an option ended: that it fails and under which condition, or that another option was worth more."""
    slot = where.situation.options.index(option)
    if where.failures[slot] >= config.feedback_failing * where.tries[slot]:
        return _failing(config, option, [_Tried.of(option, e) for e in experiences if option in e.situation.options])
    better = where.situation.options[where.best]
    return (
        f'You advised "{option}" where "{where.situation.text}": that was worth {where.pessimistic_q[slot]:.2f}, '
        f'"{better}" {where.pessimistic_q[where.best]:.2f}.'
    )


@dataclass(frozen=True)
class _Tried:
    """How one option ended in one situation: failures and completions. clauses: the sentences of the situation's text."""

    clauses: frozenset[str]
    failed: float
    completed: float

    @classmethod
    def of(cls, option: str, experience: Experience) -> _Tried:
        slot = experience.situation.options.index(option)
        clauses = re.split(r"[.!?](?:\s+|$)", experience.situation.text)
        failed = float(experience.failures[slot])
        return cls(frozenset(filter(None, clauses)), failed, float(experience.tries[slot]) - failed)


def _failing(config: TeacherConfig, option: str, tried: Sequence[_Tried]) -> str:
    """Write how often an option failed, and the clauses that go with failing and with completing.

    A clause's contrast is the share of the failures with this clause less the share of the completions with it.
    """
    least = config.feedback_contrast
    failed, completed = (sum(getattr(one, kind) for one in tried) for kind in ("failed", "completed"))
    contrast: dict[str, float] = defaultdict(float)
    for one in tried:
        for clause in sorted(one.clauses):
            contrast[clause] += one.failed / max(failed, 1.0) - one.completed / max(completed, 1.0)
    bad, good = (pick(contrast, key=lambda clause: contrast[clause], default="") for pick in (max, min))
    here = [one for one in tried if contrast[bad] < least or bad in one.clauses]
    times = f"{sum(one.failed for one in here):,.0f} of {sum(one.failed + one.completed for one in here):,.0f} times"
    text = f'You advised "{option}": it failed {times}' + (f' where "{bad}"' if contrast[bad] >= least else "")
    known = completed >= config.feedback_outcomes
    return text + (f', and was done where "{good}".' if contrast[good] <= -least and known else ".")
