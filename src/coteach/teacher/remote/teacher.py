"""The teacher behind an OpenAI-compatible server (vLLM, Ollama, llama.cpp, hosted LLMs): it is asked, never tuned.

It chooses among numbered options (see `option_scores.py`); answers are cached. The very first question must be answered. After
that a run survives a server that fails: situations without an answer get None.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coteach.config import TeacherConfig
from coteach.errors import CoteachError, RunFailed, note
from coteach.grounding.base import GRID_WORLD_INSTRUCTION, Situation
from coteach.teacher import prompt as prompts
from coteach.teacher.answer_cache import AnswerCache, cache_key
from coteach.teacher.base import Explanation, FixedTeacher, uniform
from coteach.teacher.costs import Usage
from coteach.teacher.feedback import NOTHING, Feedback
from coteach.teacher.remote import replies
from coteach.teacher.remote.calls import CHARACTERS, Caller, Messages, Withheld
from coteach.teacher.remote.endpoint import Endpoint, parse
from coteach.teacher.remote.failures import CallError, Denied, Failed
from coteach.teacher.remote.option_scores import OptionScorer, RequestMode, Scores, Thinking

READING = (
    "samples", "extra_body", "thought_tokens", "reply_tokens", "reply_temperature", "reply_smoothing", "least_label_mass",
    "least_probability",
)  # fmt: skip
"""Settings on which an answer depends. The cache's keys contain the first one, and the others if they are not the default."""


class RemoteTeacher(FixedTeacher):
    """A model behind a server."""

    def __init__(
        self, spec: str, config: TeacherConfig, cache: AnswerCache | None = None, instruction: str = GRID_WORLD_INSTRUCTION
    ) -> None:
        self.name, self.config, self.instruction = spec, config, instruction
        self.feedback: Feedback = NOTHING
        self.model, self.url = parse(spec)
        self.cache = cache or AnswerCache(None)
        self.endpoint = Endpoint(self.model, self.url, config.deadline)
        self.caller = Caller(self.endpoint, config)
        self.scorer = OptionScorer(self.caller, config)
        self._has_read = self._has_noted = False
        default = TeacherConfig()
        changed = [name for name in READING[1:] if getattr(config, name) != getattr(default, name)]
        self._reading = " ".join(f"{name}={getattr(config, name)}" for name in (READING[0], *changed))
        self._style_key = cache_key(f"{self.url} {self.model}", self._reading, "style")
        self._style = self.cache.get_many([self._style_key]).get(self._style_key, self.scorer.style).tolist()
        """How the server is asked: as it was found in this run, or else in the last one. A part of the cache's keys."""

    @property
    def usage(self) -> Usage:
        """What the calls have cost."""
        return self.caller.usage

    @usage.setter
    def usage(self, usage: Usage) -> None:
        self.caller.usage = usage

    def advise(self, situations: Sequence[Situation]) -> list[Scores | None]:
        """Return a distribution over the options of each situation; only situations that are not in the cache are asked.

        None for a situation without an answer. Raises `CoteachError` if the very first question fails, `RunFailed` if the
        server rejects the key.
        """
        return [None if score is None else np.exp(score) for score in self._scores(situations)]

    def advise_untuned(self, situations: Sequence[Situation]) -> list[Scores | None]:
        """Return the same advice: this teacher is never tuned."""
        return self.advise(situations)

    def explain(self, situation: Situation) -> Explanation:
        """Return the prompt and the advice; the score is the advice's logarithm, which needs no calibration."""
        (score,) = self._scores([situation])
        score = np.log(uniform(situation)) if score is None else score
        asked = self.scorer.styled(self._question(situation, letters=self.scorer.mode is RequestMode.LOGPROBS))
        prompt = "\n\n".join(message["content"] for message in asked)
        return Explanation(prompt, situation.options, score, score, np.exp(score))

    @property
    def briefing(self) -> str:
        """The text that opens every prompt: instruction and feedback."""
        return prompts.briefing(self.instruction, self.feedback)

    def give_feedback(self, feedback: Feedback) -> bool:
        """Put as much of `feedback` into later prompts as `teacher.feedback_tokens` allow, by the length of the text.

        Returns whether that changes the prompts.
        """

        def cost(some: Feedback) -> int:
            return (len(prompts.briefing(self.instruction, some)) - len(self.instruction)) // CHARACTERS

        before, self.feedback = self.feedback, feedback.fitted(cost, self.config.feedback_tokens)
        return self.feedback != before

    def save(self, folder: Path) -> None:
        """Write the feedback into `folder`; nothing if there is none."""
        self.feedback.save(folder)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self.give_feedback(Feedback.load(folder))

    def _question(self, situation: Situation, letters: bool) -> Messages:
        """Return the messages that ask about `situation`, with the options in their own order."""
        count = len(situation.options)
        return replies.question(situation, replies.labels(count, letters), range(count), self.briefing)

    def _scores(self, situations: Sequence[Situation]) -> list[Scores | None]:
        """Return the logarithm of the advice, from the cache if it is there, else from the server."""
        keys = [self._key(situation) for situation in situations]
        wanted = dict(zip(keys, situations, strict=True))
        known: dict[str, Scores | None] = {**self.cache.look_up(wanted)}
        self.usage.cache_hits += sum(key in known for key in keys)
        known |= {key: np.zeros(1) for key, situation in wanted.items() if len(situation.options) == 1}
        missing = [key for key in wanted if key not in known]
        if missing:
            began = time.perf_counter()
            answers = dict(zip(missing, self._ask([wanted[key] for key in missing]), strict=True))
            self.usage.seconds += time.perf_counter() - began
            known.update(answers)
            # Uniform advice means that the replies could not be read; another time they may be, so it is not stored.
            read = {key: score for key, score in answers.items() if score is not None and np.ptp(score) > 0}
            self.cache.put_many({self._key(wanted[key]): score for key, score in read.items()})  # the style may have changed
        return [known[key] for key in keys]

    def _key(self, situation: Situation) -> str:
        asked = self._question(situation, letters=False)
        return cache_key(f"{self.url} {self.model}", self._reading, self._style, asked, situation.text, situation.options)

    def _ask(self, situations: Sequence[Situation]) -> list[Scores | None]:
        """Ask the server: alone about the very first situation, which it must answer; not at all while it counts as dead."""
        if self.scorer.mode_is_known and self.caller.breaker.is_open:
            self.endpoint.begin(self.scorer.score(situations[0], self.briefing))  # the trial call, once a minute
            self.usage.unanswered += len(situations)
            return [None] * len(situations)
        first = [] if self.scorer.mode_is_known else [self._ask_first(situations[0])]
        answers = self.endpoint.wait(self._ask_all(situations[len(first) :]))
        for answer in answers:
            if isinstance(answer, Denied):
                raise RunFailed(self._complaint(answer))
            if isinstance(answer, BaseException) and not isinstance(answer, (Failed, Withheld)):
                raise answer
        scores = first + [None if isinstance(answer, BaseException) else answer for answer in answers]
        self._note_uniform(scores)
        answered = sum(score is not None for score in scores)
        self.usage.queries += answered
        self.usage.unanswered += len(scores) - answered
        return scores

    def _note_uniform(self, scores: Sequence[Scores | None]) -> None:
        """Say once that nothing the model said could be read, if so from the beginning."""
        readable = [bool(np.ptp(score) > 0) for score in scores if score is not None and len(score) > 1]
        self._has_read |= any(readable)
        if readable and not self._has_read and not self._has_noted:
            self._has_noted = True
            note(f"{self._who()}: all its advice is uniform so far, because {self.scorer.trouble}")

    async def _ask_all(self, situations: Sequence[Situation]) -> list[Scores | BaseException]:
        asked = [self.scorer.score(situation, self.briefing) for situation in situations]
        return await asyncio.gather(*asked, return_exceptions=True)

    def _ask_first(self, situation: Situation) -> Scores | None:
        """Ask the first question, which shows what the server supports, or what is wrong with it."""
        wrong = RunFailed if self.usage.queries else CoteachError  # RunFailed: a resumed run can be resumed once more
        try:
            score = self.endpoint.wait(self.scorer.first_score(situation, self.briefing))
            self._keep_style()
            return score
        except Withheld:
            return None
        except CallError as error:
            raise wrong(self._complaint(error)) from None

    def _keep_style(self) -> None:
        """Note how the server is asked; answers to questions in another style have other keys."""
        if self.scorer.style.tolist() != self._style:
            self._style = self.scorer.style.tolist()
            self.cache.put_many({self._style_key: self.scorer.style})

    def _who(self) -> str:
        return f"teacher {self.model!r} at {self.url}"

    def _complaint(self, error: CallError) -> str:
        thinks = "the model thinks before it answers; " if self.scorer.thinking is Thinking.ROOM and not error.status else ""
        return f"{self._who()}: {error}" + (f"; {thinks}{error.way_out}" if error.way_out else "")
