"""The teacher as a causal LM on this machine: calibrated option scores, cached, tuned through LoRA.

Advice is `p = softmax((score(option | situation) - bias(option)) / temperature)`, where `bias` is the *untuned* model's score
of the option after an empty situation. Subtracting it removes the model's preference for an option whatever the situation. The
bias stays fixed while tuning; new feedback, which is part of every prompt, also changes the bias.
Source: contextual calibration, Zhao et al. 2021 (arXiv 2102.09690).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from coteach.config import TeacherConfig
from coteach.errors import CoteachError, note
from coteach.grounding.base import GRID_WORLD_INSTRUCTION, Situation
from coteach.teacher.answer_cache import AnswerCache
from coteach.teacher.base import Explanation, Lesson, TuneReport, uniform
from coteach.teacher.costs import Usage
from coteach.teacher.feedback import NOTHING, Feedback
from coteach.teacher.local import generation, tuning
from coteach.teacher.local.adapter import CONFIG, WEIGHTS
from coteach.teacher.local.cached_scores import CachedScores
from coteach.teacher.local.models import LoadedModel, load_model
from coteach.teacher.local.prompted_model import PromptedModel, Scores

LEAST = 1e-9  # probability that every option keeps


class LocalTeacher:
    """A teacher that is a transformers causal LM. Several situations are scored in one pass."""

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
        self.lm = PromptedModel(loaded, config, name, instruction)
        self.scores = CachedScores(self.lm, cache or AnswerCache(None), name)
        self._exported_bias = loaded.feedback, loaded.bias
        self._bias = dict(loaded.bias)

    @classmethod
    def from_spec(
        cls, spec: str, config: TeacherConfig, cache: AnswerCache | None = None, instruction: str = GRID_WORLD_INSTRUCTION
    ) -> LocalTeacher:
        """Load the teacher `smollm2`, `hf:<id or folder>` or `gguf:<file>` on the device that `config` names."""
        return cls(load_model(spec, config.device, config.precision), config, cache, spec, instruction)

    @property
    def usage(self) -> Usage:
        """What the answers and the tuning have cost."""
        return self.scores.usage

    @usage.setter
    def usage(self, usage: Usage) -> None:
        self.scores.usage = usage

    @property
    def feedback(self) -> Feedback:
        """The in-context feedback that every prompt now contains."""
        return self.lm.feedback

    def advise(self, situations: Sequence[Situation]) -> list[Scores]:
        """Return a distribution over the options of each situation; only situations that are not in the cache are scored.

        It is uniform where the question does not fit into the model's context, or the scores are not finite.
        """
        return self._advise(situations, tuned=True)

    def advise_untuned(self, situations: Sequence[Situation]) -> list[Scores]:
        """Return the advice of the model without its adapter; not counted as queries."""
        return self._advise(situations, tuned=False)

    def explain(self, situation: Situation) -> Explanation:
        """Return the prompt as text, and the scores from which the advice is made. Raises `CoteachError` if there are none."""
        self.lm.prompt(situation)
        score = self.scores.of([situation], tuned=True)[0]
        if score is None:
            raise CoteachError(f"teacher {self.name!r} has no finite score for the options of {situation.text[:40]!r}...")
        calibrated = score - self.bias(situation.options)
        return Explanation(self.lm.text(situation), situation.options, score, calibrated, self._advice(situation, score))

    def write(self, situation: Situation, improved: Scores, rng: np.random.Generator | None = None) -> list[generation.Token]:
        """Write an option token by token by the improved advice (options,): the most probable tokens, or drawn with `rng`.

        With the teacher's own advice as `improved`, this is what the teacher writes by itself.
        """
        return self.lm.write(situation, self.advise([situation])[0], improved, rng)

    def give_feedback(self, feedback: Feedback) -> bool:
        """Put as much of `feedback` into later prompts as `teacher.feedback_tokens` (and half the context) allow.

        Returns whether that changes the prompts. If so, all situations are scored again, for the calibration too.
        """
        fitted = feedback.fitted(self.lm.feedback_tokens, min(self.config.feedback_tokens, self.lm.context // 2))
        changed = fitted != self.feedback
        if changed:
            self.lm.set_feedback(fitted)
            exported_for, bias = self._exported_bias
            self._bias = dict(bias) if fitted == exported_for else {}
        return changed

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        """Tune the LoRA weights towards the lessons' targets, anchored to the untuned model. The same seed, the same weights.

        The report is about the lessons that were drawn. If the answers become not finite, the former weights are restored.
        Lessons that are too long for one pass are left out.
        """
        readable = [lesson for lesson in lessons if self.lm.can_tune_on(lesson.situation)]
        if lessons and not readable:
            return TuneReport(0, 0, 0.0, 0.0, 0.0, 0.0)
        lessons = readable
        began, scoring = time.perf_counter(), self.usage.seconds
        steps = tuning.steps_for(len(lessons), self.config)
        plan = tuning.draw(lessons, steps, self.config.tune_situations, np.random.default_rng(seed))
        if not self.lm.adapter.exists:
            self.lm.adapter.create(seed)
        used = tuning.used(plan)
        report = self._tune([lessons[index] for index in used], tuning.renumbered(plan, used), began)
        self.usage.tunings += 1
        self.usage.tune_seconds += report.seconds - (self.usage.seconds - scoring)
        return report

    def bias(self, options: Sequence[str]) -> Scores:
        """Return the untuned model's score of each option after an empty situation, (len(options),); NaN where it has none."""
        unknown = list(dict.fromkeys(option for option in options if option not in self._bias))
        scores = self.scores.of([Situation("", (option,)) for option in unknown], tuned=False)
        for option, score in zip(unknown, scores, strict=True):
            self._bias[option] = float("nan") if score is None else float(score[0])
        return np.array([self._bias[option] for option in options])

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the LoRA weights, for `restore`; empty before the first tuning."""
        return {name: weight.detach().clone() for name, weight in self.lm.adapter.weights().items()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Put back the weights that `snapshot` returned."""
        if snapshot:
            tuning.assign(self.lm.adapter.weights(), snapshot)
        else:
            self.lm.adapter.remove()
        self.lm.weights_changed()

    def save(self, folder: Path) -> None:
        """Write the adapter (PEFT's format) and the feedback into `folder`; nothing where there is none."""
        self.lm.adapter.save(folder)
        self.feedback.save(folder)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises `CoteachError` if there is nothing, or the adapter of another model."""
        feedback = Feedback.load(folder)
        try:
            if feedback == NOTHING or any((folder / name).is_file() for name in (CONFIG, WEIGHTS)):
                self.lm.adapter.load(folder)
        finally:
            self.lm.weights_changed()
        self.give_feedback(feedback)

    def _tune(self, lessons: list[Lesson], plan: tuning.Plan, began: float) -> TuneReport:
        situations = [lesson.situation for lesson in lessons]
        untuned, before = self.advise_untuned(situations), self.advise(situations)
        cases = [self._case(lesson, *advice) for lesson, *advice in zip(lessons, untuned, before, strict=True)]
        steps, after = self._descend(cases, plan, situations)
        loss_before, loss_after = tuning.divergence(cases, before), tuning.divergence(cases, after)
        return TuneReport(len(cases), steps, loss_before, loss_after, tuning.drift(cases, after), time.perf_counter() - began)

    def _case(self, lesson: Lesson, untuned: Scores, current: Scores) -> tuning.Case:
        prompt, bias = self.lm.prompt(lesson.situation), self.bias(lesson.situation.options)
        q = lesson.target if lesson.pessimistic_q is None else lesson.pessimistic_q
        return tuning.Case(prompt, bias, lesson.target, untuned, current, q, lesson.weight)

    def _descend(self, cases: list[tuning.Case], plan: tuning.Plan, situations: list[Situation]) -> tuple[int, list[Scores]]:
        """Tune; return the number of steps and the advice afterwards. Restore the weights if the advice is not finite."""
        weights, former, tokens = self.lm.adapter.weights(), self.snapshot(), self.lm.tokens
        try:
            steps = tuning.descend(self.lm.scorer, weights, cases, plan, self.config)
        finally:  # also if the user interrupts
            self.lm.weights_changed()
            self.usage.tokens_in += self.lm.tokens - tokens
        scores = self.scores.find(situations, tuned=True)
        if any(score is None for score in scores):
            note("tuning the teacher gave LoRA weights whose answers are not finite: it keeps those from before")
            self.restore(former)
            return 0, self.advise(situations)
        return steps, [self._advice(situation, score) for situation, score in zip(situations, scores, strict=True)]

    def _advise(self, situations: Sequence[Situation], tuned: bool) -> list[Scores]:
        scores = self.scores.of(situations, tuned)
        return [self._advice(situation, score) for situation, score in zip(situations, scores, strict=True)]

    def _advice(self, situation: Situation, score: Scores | None) -> Scores:
        """Calibrate the raw scores of a situation's options and normalise them to a distribution; uniform without scores."""
        bias = self.bias(situation.options)
        if score is None or not np.isfinite(bias).all():
            return uniform(situation)
        logits = (score - bias) / self.config.temperature
        weight = np.maximum(np.exp(logits - logits.max()), LEAST)
        advice: Scores = weight / weight.sum()
        return advice
