"""A causal LM under a prompt: situations in, raw scores of their options out, with the adapter or without it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from coteach.config import TeacherConfig
from coteach.errors import CoteachError, note
from coteach.grounding.base import Situation
from coteach.teacher import prompt as prompts
from coteach.teacher.answer_cache import cache_key
from coteach.teacher.feedback import NOTHING, Feedback
from coteach.teacher.local import generation
from coteach.teacher.local.adapter import Adapter
from coteach.teacher.local.models import LoadedModel, context_length, fingerprint
from coteach.teacher.local.scoring import Scorer, is_causal, reads_tries
from coteach.teacher.local.token_budget import MOST

INTENTION = " I will"
"""Precedes a phrase whose meaning is asked for."""

_PROBE = Situation("Mission: go to the red ball. You see a red ball.", ("go to the red ball", "go to the box"))

Scores = NDArray[np.float64]


class PromptedModel:
    """A model with its adapter, and the prompt under which it is asked. name: for messages; instruction: opens every prompt.

    prefix:   token ids that all prompts begin with.
    packed:   whether options are scored together in tries; False for architectures that cannot do this.
    scorer:   scores options with the adapter, if there is one; `untuned_scorer` without it.
    """

    def __init__(self, loaded: LoadedModel, config: TeacherConfig, name: str, instruction: str) -> None:
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.adapter = Adapter(self.model, config, loaded.base)
        self.instruction = instruction
        self.context = context_length(self.model)
        self.packed = True
        self.set_feedback(loaded.feedback)
        probe = self.prompt(_PROBE)
        if not reads_tries(self.model, self.prefix, probe):
            if not is_causal(self.model, [*self.prefix, *probe.body]):
                raise CoteachError(
                    f"teacher {name!r} reads a text in both directions: expected a causal LM; choose another model"
                )
            note(f"{name}: this architecture cannot score options together; they are scored one by one, slower")
            self.packed = False
            self.set_feedback(loaded.feedback)
        # The same weights answer differently in float32 and in half precision.
        mark = "" if loaded.precision == "float32" else f" in {loaded.precision}"
        self._model_mark, self._adapter_mark = fingerprint(self.model) + mark, ""

    @property
    def tokens(self) -> int:
        """Tokens computed under the present prompt."""
        return self.scorer.tokens + self.untuned_scorer.tokens

    def set_feedback(self, feedback: Feedback) -> None:
        """Put `feedback` into all later prompts."""
        self.feedback = feedback
        self.frame = prompts.frame(self.tokenizer, self.instruction, feedback)
        self.prefix = prompts.prefix_ids(self.tokenizer, self.frame)
        self.scorer, self.untuned_scorer = (Scorer(self.model, self.prefix, self.packed) for _ in range(2))
        self._built: dict[Situation, prompts.Prompt] = {}

    def feedback_tokens(self, feedback: Feedback) -> int:
        """Count the tokens by which `feedback` makes every prompt longer."""
        frames = (prompts.frame(self.tokenizer, self.instruction, some) for some in (NOTHING, feedback))
        bare, longer = (len(prompts.prefix_ids(self.tokenizer, frame)) for frame in frames)
        return longer - bare

    def prompt(self, situation: Situation) -> prompts.Prompt:
        """Return the token ids of the question. Raises `CoteachError` if they do not fit into the model's context."""
        built = self._build(situation)
        prompts.check_length(self.prefix, built, self.context, situation.text)
        return built

    def fits(self, situation: Situation) -> bool:
        """Return whether the question fits into the model's context."""
        return prompts.length(self.prefix, self._build(situation)) <= self.context

    def can_tune_on(self, situation: Situation) -> bool:
        """Return whether all options of the situation fit into one pass together, as tuning needs them."""
        built = self._build(situation)
        return self.fits(situation) and len(built.body) + sum(map(len, built.options)) <= MOST

    def text(self, situation: Situation) -> str:
        """Return the prompt as text."""
        return self.frame.prefix + situation.text + self.frame.suffix

    def key(self, situation: Situation, tuned: bool) -> str:
        """Return the key of the situation's scores in the answer cache."""
        asked = self._build(situation)
        return cache_key(self._model_mark, self._adapter_mark if tuned else "", self.prefix, asked.body, asked.options)

    def score(self, situations: Sequence[Situation], tuned: bool) -> list[Scores]:
        """Return the log-probability of each option of each situation, with the adapter (`tuned`) or without it."""
        asked = [self.prompt(situation) for situation in situations]
        scorer = self.scorer if tuned or not self.adapter.exists else self.untuned_scorer
        with nullcontext() if tuned else self.adapter.off():
            return scorer.score(asked)

    def weights_changed(self) -> None:
        """Forget what was computed with the adapter's former weights; call this whenever they change."""
        self.scorer.forget()
        self._adapter_mark = self.adapter.fingerprint()

    def write(
        self, situation: Situation, advice: Scores, improved: Scores, rng: np.random.Generator | None
    ) -> list[generation.Token]:
        """Write an option token by token by the improved advice (options,), see `generation.write`."""
        asked = self.prompt(situation)
        choices = generation.write(asked.options, improved, rng)
        steps = [prompts.Prompt(asked.body + c.written, tuple((token,) for token in c.tokens)) for c in choices]
        return [
            generation.Token(
                tuple(self.tokenizer.decode([token]) for token in choice.tokens),
                choice.taken,
                np.exp(own),
                generation.next_tokens(asked.options, advice, choice.written)[1],
                choice.probability,
            )
            for choice, own in zip(choices, self.scorer.score(steps), strict=True)
        ]

    def is_damaged(self, tuned: bool) -> bool:
        """Return whether the model answers even a short, plain question with numbers that are not finite."""
        return not np.isfinite(self.score([_PROBE], tuned)[0]).all()

    def _build(self, situation: Situation) -> prompts.Prompt:
        if situation not in self._built:
            self._built[situation] = prompts.build(self.tokenizer, self.frame, situation)
        return self._built[situation]

    def meaning(self, phrases: Sequence[str]) -> NDArray[np.float32]:
        """Return the untuned model's middle layer's mean state over each phrase, as an intention: (P, hidden)."""
        lead = prompts.encode(self.tokenizer, INTENTION)
        means = []
        with torch.inference_mode(), self.adapter.off():
            for phrase in phrases:
                ids = torch.tensor([[*lead, *prompts.encode(self.tokenizer, f" {phrase}")]], device=self.model.device)
                states = self.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
                means.append(states[len(states) // 2][0, len(lead) :].float().mean(dim=0).cpu().numpy())
        return np.stack(means)
