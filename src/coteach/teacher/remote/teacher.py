"""An LLM behind an OpenAI-compatible server as the teacher (vLLM, Ollama, llama.cpp, hosted ones): asked, never tuned.

It picks from numbered options. Where the server tells log-probabilities, those of the labels are the advice; where it does not,
several replies are counted. Every situation is asked twice, its options listed forwards and backwards, and the geometric mean
taken: models prefer places in a list (Zheng et al. 2023, arXiv 2309.03882). A server that fails, once it has
answered, is survived.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.config import TeacherConfig
from coteach.errors import CoteachError, RunFailed
from coteach.grounding.base import GRID_WORLD_INSTRUCTION, Situation
from coteach.teacher import prompt as prompts
from coteach.teacher.answer_cache import AnswerCache, cache_key
from coteach.teacher.base import Explanation, FixedTeacher, uniform
from coteach.teacher.costs import Call, Usage
from coteach.teacher.feedback import NOTHING, Feedback
from coteach.teacher.remote import replies
from coteach.teacher.remote.circuit_breaker import CircuitBreaker
from coteach.teacher.remote.endpoint import KEY, Denied, Endpoint, Failed, Missing, Refused, parse

TOP = 20
"""Likeliest tokens to be told: as many as the interface admits."""

READING = ("samples", "reply_tokens", "reply_temperature", "reply_smoothing", "least_label_mass", "least_probability")
"""Settings on which an answer depends beside the question; the cache's keys name the first, the others where not the default."""

CHARACTERS = 4
"""Per token, where a server does not count them."""

Scores = NDArray[np.float64]
Messages = list[dict[str, str]]


class Manner(IntEnum):
    """How a server can be asked, the best first; which it is, the first reply decides."""

    LOGPROBS = 0
    SEVERAL = 1  # several replies to one question
    SINGLE = 2
    BARE = 3  # nothing but the question: models that think first refuse a temperature and a limit


class Withheld(Exception):
    """A question that is not asked: the budget is spent, or the server is being left alone."""


class RemoteTeacher(FixedTeacher):
    """A model behind a server. `breaker` decides when a server that fails is tried again."""

    def __init__(
        self, spec: str, config: TeacherConfig, cache: AnswerCache | None = None, instruction: str = GRID_WORLD_INSTRUCTION
    ) -> None:
        self.name, self.config, self.instruction = spec, config, instruction
        self.feedback: Feedback = NOTHING
        self.model, self.url = parse(spec)
        self.usage, self.cache, self.breaker = Usage(), cache or AnswerCache(None), CircuitBreaker()
        self.endpoint = Endpoint(self.model, self.url, config.deadline)
        self.manner, self._settled = Manner.LOGPROBS, False
        self._slots = asyncio.Semaphore(config.concurrency)
        plain = TeacherConfig()
        changed = [name for name in READING[1:] if getattr(config, name) != getattr(plain, name)]
        self._reading = " ".join(f"{name}={getattr(config, name)}" for name in (READING[0], *changed))

    def advise(self, situations: Sequence[Situation]) -> list[Scores | None]:
        """One distribution over `options` for each situation; the server is asked only what it was not asked before.

        None where it could not be asked. Raises `CoteachError` where the very first question fails, `RunFailed` where the
        server wants another key.
        """
        return [None if score is None else np.exp(score) for score in self._scores(situations)]

    def advise_untuned(self, situations: Sequence[Situation]) -> list[Scores | None]:
        """The same advice: nothing is tuned."""
        return self.advise(situations)

    def explain(self, situation: Situation) -> Explanation:
        """What the model reads, and what the advice is made of: the log of it, there is no calibration but the two orders."""
        (score,) = self._scores([situation])
        score = np.log(uniform(situation)) if score is None else score
        asked = self._question(situation, letters=self.manner is Manner.LOGPROBS)
        prompt = "\n\n".join(message["content"] for message in asked)
        return Explanation(prompt, situation.options, score, score, np.exp(score))

    @property
    def spent(self) -> bool:
        """Whether the budget is."""
        return self.usage.reached(self.config.budget_tokens, self.config.budget_money)

    @property
    def briefing(self) -> str:
        """What the model reads before every question."""
        return prompts.briefing(self.instruction, self.feedback)

    def give_feedback(self, feedback: Feedback) -> bool:
        """Put as much of `feedback` before every question as `teacher.feedback_tokens` admit; whether that changes it."""

        def cost(some: Feedback) -> int:
            return (len(prompts.briefing(self.instruction, some)) - len(self.instruction)) // CHARACTERS

        before, self.feedback = self.feedback, feedback.fitted(cost, self.config.feedback_tokens)
        return self.feedback != before

    def save(self, folder: Path) -> None:
        """Write what was told into `folder`; nothing where nothing was."""
        self.feedback.save(folder)

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        self.give_feedback(Feedback.load(folder))

    def _question(self, situation: Situation, letters: bool) -> Messages:
        """What is asked with the options in their own order."""
        count = len(situation.options)
        return replies.question(situation, replies.labels(count, letters), range(count), self.briefing)

    def _scores(self, situations: Sequence[Situation]) -> list[Scores | None]:
        """Log of the advice, from memory where it is there, else from the server."""
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
            # Uniform advice is that of a model which could not be understood: another time it may be.
            self.cache.put_many({key: score for key, score in answers.items() if score is not None and np.ptp(score) > 0})
        return [known[key] for key in keys]

    def _key(self, situation: Situation) -> str:
        asked = self._question(situation, letters=False)
        return cache_key(f"{self.url} {self.model}", self._reading, json.dumps(asked).encode(), situation)

    def _ask(self, situations: Sequence[Situation]) -> list[Scores | None]:
        """The server's answers; the first one ever is waited for alone, and must come. A dead server is not waited for."""
        if self._settled and self.breaker.is_open:
            self.endpoint.begin(self._answer(situations[0]))  # once a minute: whether it is alive again, the next call sees
            self.usage.unanswered += len(situations)
            return [None] * len(situations)
        first = [] if self._settled else [self._meet(situations[0])]
        answers = self.endpoint.wait(self._ask_all(situations[len(first) :]))
        for answer in answers:
            if isinstance(answer, Denied):
                raise RunFailed(self._denial(answer))
            if isinstance(answer, BaseException) and not isinstance(answer, (Failed, Withheld)):
                raise answer
        scores = first + [None if isinstance(answer, BaseException) else answer for answer in answers]
        heard = sum(score is not None for score in scores)
        self.usage.queries += heard
        self.usage.unanswered += len(scores) - heard
        return scores

    async def _ask_all(self, situations: Sequence[Situation]) -> list[Scores | BaseException]:
        return await asyncio.gather(*map(self._answer, situations), return_exceptions=True)

    def _meet(self, situation: Situation) -> Scores | None:
        """The first answer: it shows in which manner this server can be asked, or what is wrong with it."""
        wrong = RunFailed if self.usage.queries else CoteachError  # a run that is resumed can be resumed once more
        try:
            while not self._settled:
                try:
                    answer: Scores | None = self.endpoint.wait(self._answer(situation))
                    self._settled = True
                except Refused:
                    if self.manner is Manner.BARE:
                        raise
                    self.manner = Manner(self.manner + 1)
            return answer
        except Withheld:
            return None
        except Denied as error:
            raise wrong(self._denial(error)) from None
        except Missing as error:
            raise wrong(f"{self._who()}: {error}: no such model there, or the url lacks its /v1") from None
        except Refused as error:
            raise wrong(f"{self._who()}: {error}") from None
        except Failed as error:
            raise wrong(
                f"{self._who()}: {error}; start a server there (as `llama-server -m MODEL.gguf --port 8080`), or correct the url"
            ) from None

    def _who(self) -> str:
        return f"teacher {self.model!r} at {self.url}"

    def _denial(self, error: Denied) -> str:
        return f"{self._who()}: {error}: the server wants a key, or another one; set the environment variable {KEY}"

    async def _answer(self, situation: Situation) -> Scores:
        """(len(options),) log of the advice: the geometric mean over two orders of the options."""
        slots = list(range(len(situation.options)))
        score, least = np.zeros(len(slots)), self.config.least_probability
        try:
            for order in (slots, slots[::-1]):
                share = await self._share(situation, order)
                score[order] += np.log(np.maximum(share, least)) / 2
        except Refused:
            if not self._settled:
                raise
            return np.log(uniform(situation))  # too long a text, for example: asking again is of no use
        weight = np.exp(score - score.max())
        advice = np.maximum(weight / weight.sum(), least)
        answer: Scores = np.log(advice / advice.sum())
        return answer

    async def _share(self, situation: Situation, order: Sequence[int]) -> Scores:
        """(len(order),) advice for the options listed in this order, in this order."""
        names, mass = replies.labels(len(order), letters=True), self.config.least_label_mass
        if self.manner is not Manner.LOGPROBS or len(names[-1]) > 1:
            return await self._votes(situation, order, -(-self.config.samples // 2))

        def lost(reply: replies.Reply) -> str:
            return (reply.texts[0] or "(empty)") if reply.top and replies.shares(reply.top, names, mass) is None else ""

        question = replies.question(situation, names, order, self.briefing)
        reply = await self._post(question, lost, max_tokens=1, logprobs=True, top_logprobs=TOP)
        if (share := replies.shares(reply.top, names, mass)) is not None:
            return share
        if not reply.top and not self._settled:
            self.manner = Manner.SEVERAL
            return await self._share(situation, order)
        return await self._votes(situation, order, 1)

    async def _votes(self, situation: Situation, order: Sequence[int], wanted: int) -> Scores:
        """(len(order),) so many replies counted, smoothed by votes that all options share (Laplace).

        Replies that name no option are asked for once more; those that still do not are shared by all options too.
        """
        names = replies.labels(len(order), letters=False)
        options = [situation.options[slot] for slot in order]
        question = replies.question(situation, names, order, self.briefing)

        def lost(reply: replies.Reply) -> str:
            return next((text or "(empty)" for text in reply.texts if replies.choice(text, names, options) is None), "")

        places = [replies.choice(text, names, options) for text in await self._texts(question, lost, wanted)]
        if places.count(None):
            more = await self._texts(question, lost, places.count(None))
            places += [replies.choice(text, names, options) for text in more]
        votes = np.bincount([place for place in places if place is not None], minlength=len(order))
        total = self.config.reply_smoothing + wanted
        share: Scores = (votes + (total - votes.sum()) / len(order)) / total
        return share

    async def _texts(self, question: Messages, lost: Callable[[replies.Reply], str], wanted: int) -> list[str]:
        """So many replies to one question, in as few calls as the server admits."""
        texts: list[str] = []
        while len(texts) < wanted:
            limits = {"max_tokens": self.config.reply_tokens, "temperature": self.config.reply_temperature}
            more: dict[str, Any] = {} if self.manner is Manner.BARE else limits
            if self.manner is Manner.SEVERAL and wanted - len(texts) > 1:
                more["n"] = wanted - len(texts)
            texts += (await self._post(question, lost, **more)).texts
        return texts[:wanted]

    async def _post(self, question: Messages, lost: Callable[[replies.Reply], str], **more: Any) -> replies.Reply:
        """One call; where its body is no reply at all, one more."""
        async with self._slots:
            try:
                return await self._call(question, lost, more)
            except replies.Malformed:
                pass
            try:
                return await self._call(question, lost, more)
            except replies.Malformed as error:
                raise Failed(str(error)) from None

    async def _call(self, question: Messages, lost: Callable[[replies.Reply], str], more: dict[str, Any]) -> replies.Reply:
        """One call, recorded whatever comes of it. lost: a reply's text where it cannot be read."""
        if self.spent or not self.breaker.allows_call():
            raise Withheld
        began = time.perf_counter()
        try:
            reply = replies.read_reply(await self.endpoint.post({"messages": question, **more}))
        except Refused as error:
            self.usage.record(Call("refused", 1, seconds=time.perf_counter() - began, detail=str(error)))
            raise
        except (Failed, Denied, replies.Malformed) as error:
            self.breaker.record_failure()
            self.usage.record(Call("failed", 1, seconds=time.perf_counter() - began, detail=str(error)))
            raise
        self.breaker.record_success()
        tokens_in, tokens_out = reply.tokens or _estimate(question, reply)
        money = (tokens_in * self.config.price_in + tokens_out * self.config.price_out) / 1e6
        text = lost(reply)
        outcome, seconds = "unreadable" if text else "ok", time.perf_counter() - began
        self.usage.record(Call(outcome, 1, tokens_in, tokens_out, seconds, money, self.endpoint.clean(text)))
        return reply


def _estimate(question: Messages, reply: replies.Reply) -> tuple[int, int]:
    """Tokens in and out by the length of the text, so that a budget ends too where the server does not count."""
    asked, said = sum(len(message["content"]) for message in question), sum(map(len, reply.texts))
    return -(-asked // CHARACTERS), -(-said // CHARACTERS)
