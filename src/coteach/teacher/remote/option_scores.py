"""Scores a situation's options by asking a server: by the log-probabilities of their labels, or by counting replies.

Every situation is asked twice, with its options listed forwards and backwards, and the geometric mean taken: LLMs prefer some
places in a list (Zheng et al. 2023, arXiv 2309.03882). Which parameters the server supports is found out with the first question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coteach.config import TeacherConfig
from coteach.grounding.base import Situation
from coteach.teacher.base import uniform
from coteach.teacher.remote import replies
from coteach.teacher.remote.calls import Caller, Messages, Unreadable
from coteach.teacher.remote.failures import Failed, Refused

TOP_TOKENS, FEW_TOKENS = 20, 5
"""Likeliest tokens whose log-probability is requested: the most that the interface allows, and that some servers do."""

_SYSTEM = re.compile(r"system|developer|\brole|alternate|template|jinja")
"""What errors of servers say whose model has no system role."""

_UNKNOWN = re.compile(r"unsupported|not support|unknown|unrecogni|unexpected|not permitted|forbidden|deprecated")

Scores = NDArray[np.float64]


class RequestMode(IntEnum):
    """What a server supports, from most to least."""

    LOGPROBS = 0
    SEVERAL = 1  # several replies to one question
    SINGLE = 2
    BARE = 3  # neither temperature nor limit: some models that reason first refuse both


class Thinking(IntEnum):
    """How a model that thinks before it answers is asked, in the order in which it is tried."""

    UNKNOWN = 0  # it is asked like any other
    OFF = 1  # its chat template is told not to think
    ROOM = 2  # its replies may be longer


class Thinks(Exception):
    """The model thought instead of answering."""


class OptionScorer:
    """Asks one server about one situation at a time. mode_is_known: whether the server has answered in `mode`.

    thinking:        how thoughts are dealt with.
    system_role:     whether the server takes a message of the system; if not, the user's turn begins with its text.
    limit:           the name of the parameter that limits the tokens of a reply.
    top_tokens:      how many likeliest tokens are asked for.
    """

    def __init__(self, caller: Caller, config: TeacherConfig) -> None:
        self.caller, self.config = caller, config
        self.mode, self.mode_is_known = RequestMode.LOGPROBS, False
        self.thinking, self.system_role, self.limit, self.top_tokens = Thinking.UNKNOWN, True, "max_tokens", TOP_TOKENS
        self.unread, self.unread_cut = "", False
        """The last reply that named no option, and whether it was cut off."""

    @property
    def style(self) -> Scores:
        """How the server is asked, as numbers: (4,). An answer depends on it."""
        return np.array([self.mode, self.thinking, self.system_role, self.top_tokens], np.float64)

    @property
    def trouble(self) -> str:
        """Why no reply was read, and the way out."""
        if not self.unread:
            return "it chooses the same place in the list, whatever stands there; choose a model that follows instructions"
        if self.thinking is Thinking.ROOM and self.unread_cut:
            most = self.config.thought_tokens
            return (
                f"the model still thinks after {most} tokens; raise teacher.thought_tokens, or switch its thinking off in the "
                "server or with teacher.extra_body"
            )
        return f"its replies name no option (the last one: {self.unread[:60]!r}); choose a model that follows instructions"

    def styled(self, question: Messages) -> Messages:
        """Return the messages as this server takes them."""
        if self.system_role:
            return question
        system, user = question
        return [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}]

    async def first_score(self, situation: Situation, briefing: str) -> Scores:
        """Like `score`, in the first way that the server does not refuse. Raises `Refused` or `Failed` if it refuses all."""
        while True:
            try:
                scores = await self.score(situation, briefing)
            except Thinks:
                if self.thinking is Thinking.UNKNOWN:
                    self.thinking = Thinking.OFF
                else:
                    self._give_room()
            except (Refused, Failed) as error:
                if not self._adapt(error):
                    raise
            else:
                self.mode_is_known = True
                return scores

    def _adapt(self, error: Refused | Failed) -> bool:
        """Ask otherwise after an error; return whether there is another way. What the error names is changed first."""
        said = error.said.lower()
        if not isinstance(error, Refused) and error.status not in (500, 501):  # some report a refusal as their own error
            return False
        if self.thinking is Thinking.OFF and ("chat_template_kwargs" in said or "enable_thinking" in said):
            self._give_room()
        elif self.limit == "max_tokens" and ("max_completion_tokens" in said or "max_tokens" in said and _UNKNOWN.search(said)):
            self.limit = "max_completion_tokens"
        elif self.mode is RequestMode.LOGPROBS and "logprobs" in said:
            few = self.top_tokens == FEW_TOKENS
            self.top_tokens, self.mode = FEW_TOKENS, RequestMode.SEVERAL if few else self.mode
        elif self.system_role and _SYSTEM.search(said):
            self.system_role = False
        elif self.thinking is Thinking.OFF:
            self._give_room()
        elif self.mode is not RequestMode.BARE:
            self.mode = RequestMode(self.mode + 1)
        elif self.system_role and isinstance(error, Refused):  # it does not say what is wrong
            self.system_role, self.mode = False, RequestMode.LOGPROBS
        else:
            return False
        return True

    def _give_room(self) -> None:
        self.thinking, self.mode = Thinking.ROOM, max(self.mode, RequestMode.SEVERAL)

    async def _post(self, question: Messages, unreadable: Unreadable, **parameters: Any) -> replies.Reply:
        """Make one call. Raises `Thinks` if the model only thought, while other ways to ask it are left."""
        extra = json.loads(self.config.extra_body or "{}")
        template = extra.get("chat_template_kwargs", {})
        if self.thinking is Thinking.OFF and isinstance(template, dict):
            extra["chat_template_kwargs"] = {"enable_thinking": False} | template
        if extra:
            parameters["extra_body"] = extra
        reply = await self.caller.post(self.styled(question), unreadable, **parameters)
        cut = any(reply.cuts) and parameters.get(self.limit) != 1  # a single token says little
        thinks = reply.thought or (cut and unreadable(reply))
        if thinks and not (self.mode_is_known or self.thinking is Thinking.ROOM):
            raise Thinks
        return reply

    async def score(self, situation: Situation, briefing: str) -> Scores:
        """Return the logarithm of the advice, (len(options),) float64. briefing: opens the prompt.

        Uniform if the server refuses this question, as it may do with a text that is too long.
        """
        slots = list(range(len(situation.options)))
        score, least = np.zeros(len(slots)), self.config.least_probability
        try:
            for order in (slots, slots[::-1]):
                share = await self._shares(situation, order, briefing)
                score[order] += np.log(np.maximum(share, least)) / 2
        except Refused:
            if not self.mode_is_known:
                raise
            return np.log(uniform(situation))
        weight = np.exp(score - score.max())
        advice = np.maximum(weight / weight.sum(), least)
        log_advice: Scores = np.log(advice / advice.sum())
        return log_advice

    async def _shares(self, situation: Situation, order: Sequence[int], briefing: str) -> Scores:
        """Return the advice for the options listed in this order, in this order: (len(order),)."""
        names, mass = replies.labels(len(order), letters=True), self.config.least_label_mass
        if self.mode is not RequestMode.LOGPROBS or len(names[-1]) > 1:
            return await self._votes(situation, order, briefing, -(-self.config.samples // 2))

        def unreadable(reply: replies.Reply) -> str:
            return (reply.texts[0] or "(empty)") if reply.top and replies.shares(reply.top, names, mass) is None else ""

        question = replies.question(situation, names, order, briefing)
        reply = await self._post(question, unreadable, **{self.limit: 1}, logprobs=True, top_logprobs=self.top_tokens)
        if (shares := replies.shares(reply.top, names, mass)) is not None:
            return shares
        if not reply.top and not self.mode_is_known:
            self.mode = RequestMode.SEVERAL
            return await self._shares(situation, order, briefing)
        return await self._votes(situation, order, briefing, 1)

    async def _votes(self, situation: Situation, order: Sequence[int], briefing: str, wanted: int) -> Scores:
        """Return the shares of the options in `wanted` replies, with Laplace smoothing: (len(order),).

        A reply that names no option is asked for once more; if that fails too, its vote is divided among all options.
        """
        names = replies.labels(len(order), letters=False)
        options = [situation.options[slot] for slot in order]
        question = replies.question(situation, names, order, briefing)

        def read(reply: replies.Reply) -> list[int | None]:
            pairs = zip(reply.texts, reply.cuts, strict=True)
            return [replies.choice(text, names, options, cut) for text, cut in pairs]

        def unreadable(reply: replies.Reply) -> str:
            first = next((slot for slot, place in enumerate(read(reply)) if place is None), None)
            return "" if first is None else reply.texts[first] or reply.remark or "(empty)"

        async def ask(missing: int) -> list[int | None]:
            places: list[int | None] = []
            while len(places) < missing:
                reply = await self._post(question, unreadable, **self._parameters(missing - len(places)))
                places += read(reply)
                if text := unreadable(reply):
                    self.unread, self.unread_cut = text, any(reply.cuts)
            return places[:missing]

        places = await ask(wanted)
        if missing := places.count(None):
            places += await ask(missing)
        votes = np.bincount([place for place in places if place is not None], minlength=len(order))
        total = self.config.reply_smoothing + wanted
        shares: Scores = (votes + (total - votes.sum()) / len(order)) / total
        return shares

    def _parameters(self, wanted: int) -> dict[str, Any]:
        """Return the parameters of a call for up to `wanted` replies in words, as far as the server takes them."""
        if self.mode is RequestMode.BARE:
            return {}
        most = self.config.reply_tokens + (self.config.thought_tokens if self.thinking is Thinking.ROOM else 0)
        several = {"n": wanted} if self.mode is RequestMode.SEVERAL and wanted > 1 else {}
        return {self.limit: most, "temperature": self.config.reply_temperature, **several}
