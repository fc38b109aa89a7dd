"""Option scores of a local LLM, through the answer cache: a question is computed once. Where there are none, it says so once."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from coteach.errors import RunFailed, note, printable
from coteach.grounding.base import Situation
from coteach.teacher.answer_cache import AnswerCache
from coteach.teacher.costs import Call, Usage
from coteach.teacher.local.prompted_model import PromptedModel, Scores


class CachedScores:
    """Scores of `lm`, kept in `cache`. name: of the teacher, for messages; usage: what the answers have cost."""

    def __init__(self, lm: PromptedModel, cache: AnswerCache, name: str) -> None:
        self.lm, self.cache, self.name = lm, cache, name
        self.usage = Usage()
        self._has_noted = False

    def of(self, situations: Sequence[Situation], tuned: bool) -> list[Scores | None]:
        """Return what `find` does; say once of which situation there are no scores, and why.

        Raises `RunFailed` if the model gives no finite scores at all.
        """
        scores = self.find(situations, tuned)
        silent = [situation for situation, score in zip(situations, scores, strict=True) if score is None]
        spoiled = [situation for situation in silent if self.lm.fits(situation)]
        if spoiled and self.lm.is_damaged(tuned):
            raise RunFailed(f"teacher {self.name!r} answers with numbers that are not finite: its weights are damaged")
        if silent and not self._has_noted:
            self._has_noted = True
            why = f"the model reads only {self.lm.context} tokens; shorten the grounding's texts"
            if spoiled:
                why = "its scores are not finite; teacher.precision=float32 may help"
            text = printable((spoiled or silent)[0].text[:40])
            note(f"teacher {self.name!r} cannot be asked about {text!r}..., where its advice is now uniform: {why}")
        return scores

    def find(self, situations: Sequence[Situation], tuned: bool) -> list[Scores | None]:
        """Return the raw option scores of each situation, in nats, from the cache if they are there, else from the model.

        tuned: whether with the adapter; only then they count as queries. None where the question is too long for the model, or a
        score is not finite.
        """
        keys = [self.lm.key(situation, tuned) for situation in situations]
        wanted = dict(zip(keys, situations, strict=True))
        known: dict[str, Scores | None] = {**self.cache.look_up(wanted)}
        too_long = {key: None for key, situation in wanted.items() if not self.lm.fits(situation)}
        missing = [key for key in wanted if key not in known and key not in too_long]
        if missing:
            answers = dict(zip(missing, self._ask([wanted[key] for key in missing], tuned), strict=True))
            self.cache.put_many({key: score for key, score in answers.items() if score is not None})
            known.update(answers)
        if tuned:  # the untuned model is asked for calibration and as an anchor, not for advice
            self.usage.queries += len(missing)
            self.usage.cache_hits += sum(key not in too_long for key in keys) - len(missing)
        return [known.get(key) for key in keys]

    def _ask(self, situations: Sequence[Situation], tuned: bool) -> list[Scores | None]:
        began, tokens = time.perf_counter(), self.lm.tokens
        scores = self.lm.score(situations, tuned)
        seconds = time.perf_counter() - began
        self.usage.record(Call("ok", len(situations), tokens_in=self.lm.tokens - tokens, seconds=seconds))
        self.usage.seconds += seconds
        return [score if np.isfinite(score).all() else None for score in scores]
