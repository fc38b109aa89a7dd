"""A causal language model on this machine as the teacher: calibrated option scores, remembered, tuned through LoRA.

Advice is `p = softmax((score(option | situation) - bias(option)) / temperature)`, where `bias` is the *untuned* model's score
of the option after an empty situation: it takes out what the model says whatever it is asked, and stays fixed while tuning.
What the teacher is told stands before every question, the empty one included.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coteach.config import TeacherConfig
from coteach.errors import RunFailed, note
from coteach.grounding.base import GRID_WORLD_INSTRUCTION, Situation
from coteach.teacher import prompt as prompts
from coteach.teacher.answer_cache import AnswerCache, cache_key
from coteach.teacher.base import Explanation, Lesson, TuneReport
from coteach.teacher.costs import Call, Usage
from coteach.teacher.feedback import NOTHING, Feedback
from coteach.teacher.local import generation, tuning
from coteach.teacher.local.adapter import CONFIG, WEIGHTS, Adapter
from coteach.teacher.local.models import LoadedModel, load_model, weights_fingerprint
from coteach.teacher.local.scoring import Scorer, reads_tries

MEANING = " I will"  # before a phrase whose meaning is asked for
LEAST = 1e-9  # probability that every option keeps
_PROBE = Situation("Mission: go to the red ball. You see a red ball.", ("go to the red ball", "go to the box"))

Scores = NDArray[np.float64]


class LocalTeacher:
    """A teacher that is a transformers causal LM. `prefix` are the token ids that all its prompts begin with."""

    tunable = True

    def __init__(
        self,
        loaded: LoadedModel,
        config: TeacherConfig,
        cache: AnswerCache | None = None,
        name: str = "local",
        instruction: str = GRID_WORLD_INSTRUCTION,
    ) -> None:
        self.name = name
        self.config = config
        self.usage = Usage()
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.cache = cache or AnswerCache(None)
        self.adapter = Adapter(self.model, config, loaded.base)
        self.instruction = instruction
        self._context = int(getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 2**31)
        self._packed, self._given = True, (loaded.feedback, loaded.bias)
        self._address(loaded.feedback)
        if not self._reads_tries():
            self._packed = False
            self._address(loaded.feedback)
        # The same numbers read in float32 and in half precision answer differently.
        mark = "" if loaded.precision == "float32" else f" in {loaded.precision}"
        self._model_mark, self._adapter_mark = weights_fingerprint(self.model) + mark, ""

    @classmethod
    def from_spec(
        cls, spec: str, config: TeacherConfig, cache: AnswerCache | None = None, instruction: str = GRID_WORLD_INSTRUCTION
    ) -> LocalTeacher:
        """The teacher of `smollm2`, `hf:<id or folder>` or `gguf:<file>`, on the device that `config` names."""
        return cls(load_model(spec, config.device, config.precision), config, cache, spec, instruction)

    def advise(self, situations: Sequence[Situation]) -> list[Scores]:
        """One distribution over `options` for each situation; the model is asked only what it was not asked before."""
        return self._advise(situations, tuned=True)

    def advise_untuned(self, situations: Sequence[Situation]) -> list[Scores]:
        """What the model says without its adapter; not counted as queries."""
        return self._advise(situations, tuned=False)

    def prompt(self, situation: Situation) -> prompts.Prompt:
        """Token ids of the question; raises `CoteachError` where the model cannot read that much."""
        built = prompts.build(self.tokenizer, self.frame, situation)
        prompts.check_length(self.prefix, built, self._context, situation.text)
        return built

    def explain(self, situation: Situation) -> Explanation:
        """The prompt in words, and what the advice is made of."""
        score = self._scores([situation], tuned=True)[0]
        text = self.frame.prefix + situation.text + self.frame.suffix
        calibrated = score - self.bias(situation.options)
        return Explanation(text, situation.options, score, calibrated, self._advice(situation, score))

    def write(self, situation: Situation, improved: Scores, rng: np.random.Generator | None = None) -> list[generation.Token]:
        """An option written token by token by the improved advice (options,): the most probable tokens, or drawn by `rng`.

        With the teacher's own advice in place of the improved one it is written as the teacher by itself would.
        """
        asked, advice = self.prompt(situation), self.advise([situation])[0]
        choices = generation.write(asked.options, improved, rng)
        live = [prompts.Prompt(asked.body + c.written, tuple((token,) for token in c.tokens)) for c in choices]
        return [
            generation.Token(
                tuple(self.tokenizer.decode([token]) for token in choice.tokens),
                choice.taken,
                np.exp(own),
                generation.next_tokens(asked.options, advice, choice.written)[1],
                choice.probability,
            )
            for choice, own in zip(choices, self._tuned.score(live), strict=True)
        ]

    def give_feedback(self, feedback: Feedback) -> bool:
        """Put as much of `feedback` before every question as `teacher.feedback_tokens` (and half the context) admit.

        Returns whether that changes the prompt: then everything is asked again, calibration included.
        """
        fit = feedback.fitted(self._cost, min(self.config.feedback_tokens, self._context // 2))
        changed = fit != self.feedback
        if changed:
            self._address(fit)
        return changed

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        """Move the LoRA weights towards the lessons' targets, anchored to the untuned model; the same seed, the same weights.

        The report is over the lessons that were drawn. Where the numbers stop being finite the weights stay as they were.
        """
        begun, asking = time.perf_counter(), self.usage.seconds
        steps = tuning.steps_for(len(lessons), self.config)
        plan = tuning.draw(lessons, steps, self.config.tune_situations, np.random.default_rng(seed))
        if not self.adapter.exists:
            self.adapter.create(seed)
        used = tuning.used(plan)
        report = self._tune([lessons[index] for index in used], tuning.renumbered(plan, used), begun)
        self.usage.tunings += 1
        self.usage.tune_seconds += report.seconds - (self.usage.seconds - asking)
        return report

    def bias(self, options: Sequence[str]) -> Scores:
        """(len(options),) the untuned model's score of each option after an empty situation."""
        unknown = list(dict.fromkeys(option for option in options if option not in self._bias))
        scores = self._scores([Situation("", (option,)) for option in unknown], tuned=False)
        self._bias.update({option: float(score[0]) for option, score in zip(unknown, scores, strict=True)})
        return np.array([self._bias[option] for option in options])

    def meaning(self, phrases: Sequence[str]) -> NDArray[np.float32]:
        """(P, D): what the untuned model's middle layer holds of each phrase, as something that somebody is about to do."""
        lead = prompts.encode(self.tokenizer, MEANING)
        held = []
        with torch.inference_mode(), self.adapter.off():
            for phrase in phrases:
                ids = torch.tensor([[*lead, *prompts.encode(self.tokenizer, f" {phrase}")]], device=self.model.device)
                states = self.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
                held.append(states[len(states) // 2][0, len(lead) :].float().mean(dim=0).cpu().numpy())
        return np.stack(held)

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the LoRA weights, for `restore`; empty before any tuning."""
        return {name: weight.detach().clone() for name, weight in self.adapter.weights().items()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Go back to what `snapshot` gave."""
        if snapshot:
            tuning.assign(self.adapter.weights(), snapshot)
        else:
            self.adapter.remove()
        self._weights_changed()

    def save(self, folder: Path) -> None:
        """Write the adapter (PEFT's format) and what was told into `folder`; nothing where neither happened."""
        self.adapter.save(folder)
        self.feedback.save(folder)

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote; raises `CoteachError` where there is nothing, or an adapter of another model."""
        feedback = Feedback.load(folder)
        try:
            if feedback == NOTHING or any((folder / name).is_file() for name in (CONFIG, WEIGHTS)):
                self.adapter.load(folder)
        finally:
            self._weights_changed()
        self.give_feedback(feedback)

    def _tune(self, lessons: list[Lesson], plan: tuning.Plan, begun: float) -> TuneReport:
        situations = [lesson.situation for lesson in lessons]
        untuned, before = self.advise_untuned(situations), self.advise(situations)
        cases = [self._case(lesson, *advice) for lesson, *advice in zip(lessons, untuned, before, strict=True)]
        steps, after = self._descend(cases, plan, situations)
        loss_before, loss_after = tuning.divergence(cases, before), tuning.divergence(cases, after)
        return TuneReport(len(cases), steps, loss_before, loss_after, tuning.drift(cases, after), time.perf_counter() - begun)

    def _case(self, lesson: Lesson, untuned: Scores, said: Scores) -> tuning.Case:
        asked, bias = self.prompt(lesson.situation), self.bias(lesson.situation.options)
        q = lesson.target if lesson.pessimistic_q is None else lesson.pessimistic_q
        return tuning.Case(asked, bias, lesson.target, untuned, said, q, lesson.weight)

    def _descend(self, cases: list[tuning.Case], plan: tuning.Plan, situations: list[Situation]) -> tuple[int, list[Scores]]:
        """Steps taken and the advice afterwards; weights that give no finite advice are taken back (no steps)."""
        weights, kept, tokens = self.adapter.weights(), self.snapshot(), self._tuned.tokens
        try:
            steps = tuning.descend(self._tuned, weights, cases, plan, self.config)
        finally:  # also where the user interrupts
            self._weights_changed()
            self.usage.tokens_in += self._tuned.tokens - tokens
        try:
            return steps, self.advise(situations)
        except RunFailed:
            note("tuning the teacher gave LoRA weights that are not finite: it keeps those from before")
            self.restore(kept)
            return 0, self.advise(situations)

    def _advise(self, situations: Sequence[Situation], tuned: bool) -> list[Scores]:
        scores = self._scores(situations, tuned)
        return [self._advice(situation, score) for situation, score in zip(situations, scores, strict=True)]

    def _advice(self, situation: Situation, score: Scores) -> Scores:
        """Raw scores of the situation's options -> distribution."""
        logits = (score - self.bias(situation.options)) / self.config.temperature
        weight = np.maximum(np.exp(logits - logits.max()), LEAST)
        advice: Scores = weight / weight.sum()
        return advice

    def _scores(self, situations: Sequence[Situation], tuned: bool) -> list[Scores]:
        """Raw option scores of each situation, from memory where it has them, else from the model."""
        adapter = self._adapter_mark if tuned else ""
        keys = [cache_key(self._model_mark, adapter, self.prefix, situation) for situation in situations]
        wanted = dict(zip(keys, situations, strict=True))
        known = self.cache.look_up(wanted)
        missing = [key for key in wanted if key not in known]
        if missing:
            answers = dict(zip(missing, self._ask([wanted[key] for key in missing], tuned), strict=True))
            self.cache.put_many(answers)
            known.update(answers)
        if tuned:  # the untuned model is asked for calibration and as an anchor, not for advice
            self.usage.queries += len(missing)
            self.usage.cache_hits += len(keys) - len(missing)
        return [known[key] for key in keys]

    def _ask(self, situations: Sequence[Situation], tuned: bool) -> list[Scores]:
        begun, asked = time.perf_counter(), [self.prompt(situation) for situation in situations]
        scorer = self._tuned if tuned or not self.adapter.exists else self._untuned
        tokens = scorer.tokens
        with nullcontext() if tuned else self.adapter.off():
            scores = scorer.score(asked)
        seconds = time.perf_counter() - begun
        self.usage.record(Call("ok", len(situations), tokens_in=scorer.tokens - tokens, seconds=seconds))
        self.usage.seconds += seconds
        if not all(np.isfinite(score).all() for score in scores):
            raise RunFailed(f"teacher {self.name!r} answers with numbers that are not finite: its weights are damaged")
        return scores

    def _address(self, feedback: Feedback) -> None:
        """From now on every prompt begins with what is told."""
        self.feedback = feedback
        self.frame = prompts.frame(self.tokenizer, self.instruction, feedback)
        self.prefix = prompts.prefix_ids(self.tokenizer, self.frame)
        self._tuned, self._untuned = (Scorer(self.model, self.prefix, self._packed) for _ in range(2))
        given, bias = self._given
        self._bias = dict(bias) if feedback == given else {}

    def _cost(self, feedback: Feedback) -> int:
        """Tokens by which `told` makes every prompt longer."""
        bare, longer = (
            prompts.prefix_ids(self.tokenizer, prompts.frame(self.tokenizer, self.instruction, what))
            for what in (NOTHING, feedback)
        )
        return len(longer) - len(bare)

    def _weights_changed(self) -> None:
        self._tuned.forget()
        self._adapter_mark = self.adapter.fingerprint()

    def _reads_tries(self) -> bool:
        probe = self.prompt(_PROBE)
        if reads_tries(self.model, self.prefix, probe):
            return True
        note(f"{self.name}: this architecture cannot score options together; they are scored one by one, slower")
        return False
