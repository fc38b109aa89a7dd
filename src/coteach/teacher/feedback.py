"""What the teacher is told in its prompt: verified examples, and the evidence in words, most informative first.

Examples are situations with the option that was shown to work there, chosen so that every situation met resembles one of
them (greedy facility location, within 1 - 1/e of the best choice: Nemhauser et al. 1978). Sentences say what became of
the teacher's own advice, the costliest first. Pure functions; which of them fits into the prompt, the teacher decides.
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
    """Most informative first. examples: situations' texts, each with the option that worked; evidence: sentences."""

    examples: tuple[tuple[str, str], ...] = ()
    evidence: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: Any) -> Feedback:
        """What `dataclasses.asdict` made of a `Feedback`; raises KeyError, TypeError or ValueError where it is something else."""
        return cls(tuple((str(text), str(option)) for text, option in data["examples"]), tuple(map(str, data["evidence"])))

    @classmethod
    def load(cls, folder: Path) -> Feedback:
        """What `save` wrote; nothing where there is no such file. Raises `CoteachError` where the file is damaged."""
        if not (folder / FILE).is_file():
            return cls()
        try:
            return cls.parse(json.loads((folder / FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CoteachError(f"cannot read the teacher's feedback {folder / FILE}: {error}; is the file whole?") from error

    def save(self, folder: Path) -> None:
        """Write it into `folder`, in one step; nothing where there is none."""
        if self != NOTHING:
            folder.mkdir(parents=True, exist_ok=True)
            replace_text(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")

    def fitted(self, cost: Callable[[Feedback], int], budget: int) -> Feedback:
        """As much of it as costs no more than `budget`, an example and a sentence by turns; what is too long is left out."""
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
    """What is known of one situation; arrays are (options,) float64.

    said: the teacher's own advice, None where it was never asked; shown: the improved advice.
    tries, failures: outcomes counted; worth: Q by the evidence alone; met: how often it was met of late.
    """

    situation: Situation
    said: Array | None
    shown: Array
    tries: Array
    failures: Array
    worth: Array
    met: float

    @property
    def best(self) -> int:
        """The slot of the option that the evidence is for."""
        return int(self.shown.argmax())

    @property
    def verified(self) -> bool:
        """Whether that option was completed here."""
        return bool(self.tries[self.best] > self.failures[self.best])


def compose(config: TeacherConfig, experiences: Sequence[Experience], before: Feedback = NOTHING) -> Feedback:
    """All that could be told as `config.feedback` says, most informative first; `before` is what the teacher knows.

    A sentence stays until another is said of the same option: a teacher that heeds it must not forget why.
    """
    met = sorted(experiences, key=lambda experience: -experience.met)[: config.feedback_candidates]
    what, most = config.feedback, config.feedback_pieces
    new = sentences(config, experiences) if what in ("evidence", "both") else []
    kept = [sentence for sentence in before.evidence if _about(sentence) not in map(_about, new)]
    return Feedback(tuple(examples(met, most)) if what in ("examples", "both") else (), (*new, *kept)[:most])


def examples(experiences: Sequence[Experience], count: int) -> list[tuple[str, str]]:
    """Up to `count` verified (text, option), each chosen for what it adds to how well those before cover what is met.

    A situation is covered as far as its words and those of its best option are an example's (product of the Jaccard
    indices): examples whose text alone was alike all said "go to ...", and the LLM never said "explore" again.
    """
    verified = [experience for experience in experiences if experience.verified]
    met = np.array([experience.met for experience in experiences])
    likeness = np.ones((len(verified), len(experiences)))
    for words in (_words_of_text, _words_of_option):
        likeness *= _shared([words(e) for e in verified], [words(e) for e in experiences])
    covered, chosen = np.zeros(len(experiences)), list[tuple[str, str]]()
    while verified and len(chosen) < count:
        gain = (np.maximum(likeness - covered, 0.0) * met).sum(axis=1)
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        covered = np.maximum(covered, likeness[best])
        chosen.append((verified[best].situation.text, verified[best].situation.options[verified[best].best]))
    return chosen


def sentences(config: TeacherConfig, experiences: Sequence[Experience]) -> list[str]:
    """Up to `config.feedback_pieces` sentences about options that the teacher advised, by what that advice cost where it was met.

    The cost in a situation is how often it was met times what the best option is worth above the advised one.
    """
    advised = [e for e in experiences if e.said is not None and len(e.said) > 1]
    cost: dict[str, float] = defaultdict(float)
    worst: dict[str, Experience] = {}
    for experience in sorted(advised, key=_cost):
        known = experience.tries[_advice(experience)] >= config.feedback_outcomes
        if known and _regret(experience) > config.feedback_regret:
            option = experience.situation.options[_advice(experience)]
            cost[option] += _cost(experience)
            worst[option] = experience
    ranked = sorted(cost, key=lambda option: -cost[option])[: config.feedback_pieces]
    return [_sentence(config, option, worst[option], experiences) for option in ranked]


def _about(sentence: str) -> str:
    """The option that it is about: the first words in quotes."""
    return sentence.split('"')[1]


def _words_of_text(experience: Experience) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", experience.situation.text.lower()))


def _words_of_option(experience: Experience) -> frozenset[str]:
    """Of the one that the evidence is for."""
    return frozenset(re.findall(r"\w+", experience.situation.options[experience.best].lower()))


def _shared(some: Sequence[frozenset[str]], others: Sequence[frozenset[str]]) -> Array:
    """(some, others): share of the words of both that they have in common."""
    shared = [[len(one & other) / max(len(one | other), 1) for other in others] for one in some]
    return np.array(shared, dtype=np.float64).reshape(len(some), len(others))


def _advice(experience: Experience) -> int:
    """The slot that the teacher itself would choose; only where it was asked."""
    assert experience.said is not None
    return int(experience.said.argmax())


def _regret(experience: Experience) -> float:
    """Return that the teacher's own advice gives away."""
    return float(experience.worth[experience.best] - experience.worth[_advice(experience)])


def _cost(experience: Experience) -> float:
    return experience.met * _regret(experience)


def _sentence(config: TeacherConfig, option: str, where: Experience, experiences: Sequence[Experience]) -> str:
    """What became of an option: that it fails, and under which condition it does not, or that another was worth more."""
    slot = where.situation.options.index(option)
    if where.failures[slot] >= config.feedback_failing * where.tries[slot]:
        return _failing(config, option, [_Tried.of(option, e) for e in experiences if option in e.situation.options])
    better = where.situation.options[where.best]
    return (
        f'You advised "{option}" where "{where.situation.text}": that was worth {where.worth[slot]:.2f}, '
        f'"{better}" {where.worth[where.best]:.2f}.'
    )


@dataclass(frozen=True)
class _Tried:
    """What became of one option in one situation, of which the text says `clauses`."""

    clauses: frozenset[str]
    failed: float
    done: float

    @classmethod
    def of(cls, option: str, experience: Experience) -> _Tried:
        slot = experience.situation.options.index(option)
        clauses = re.split(r"[.!?](?:\s+|$)", experience.situation.text)
        failed = float(experience.failures[slot])
        return cls(frozenset(filter(None, clauses)), failed, float(experience.tries[slot]) - failed)


def _failing(config: TeacherConfig, option: str, tried: Sequence[_Tried]) -> str:
    """How often it failed, with what that goes in the text, and with what it goes that it was done."""
    contrast = config.feedback_contrast
    failed, done = (sum(getattr(one, kind) for one in tried) for kind in ("failed", "done"))
    share: dict[str, float] = defaultdict(float)
    for one in tried:
        for clause in sorted(one.clauses):
            share[clause] += one.failed / max(failed, 1.0) - one.done / max(done, 1.0)
    bad, good = (pick(share, key=lambda clause: share[clause], default="") for pick in (max, min))
    here = [one for one in tried if share[bad] < contrast or bad in one.clauses]
    times = f"{sum(one.failed for one in here):,.0f} of {sum(one.failed + one.done for one in here):,.0f} times"
    said = f'You advised "{option}": it failed {times}' + (f' where "{bad}"' if share[bad] >= contrast else "")
    return said + (f', and was done where "{good}".' if share[good] <= -contrast and done >= config.feedback_outcomes else ".")
