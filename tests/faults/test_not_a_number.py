"""Numbers that are not finite are caught before the optimiser's step, wherever they come from, and named with their round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coteach.errors import Note, RunFailed
from coteach.grounding.outcomes import Outcome
from coteach.method import steps
from coteach.method.loop import Loop
from coteach.method.round import play_round
from coteach.method.rung import Rung
from coteach.method.word_values import WordValues
from coteach.runs.run_folder import Run
from coteach.student.learner import Learner
from coteach.student.rollout import Rollout
from coteach.teacher.local import tuning
from whole_runs import DOOR_KEY, EAGER, TUNED, config, tiny_llm

pytestmark = pytest.mark.slow

NAN = float("nan")


@pytest.fixture
def played(tmp_path: Path) -> tuple[Loop, Rung]:
    """A rung whose second round comes next."""
    settings = config("arm=no-llm", f"tasks={DOOR_KEY}")
    loop = Loop(settings, Run.create(tmp_path / "run", settings))
    rung = Rung(0, settings, loop.players)
    play_round(loop.players, [rung], lambda phase: None)
    rung.rounds = 1
    return loop, rung


def spoilt(function: Callable[..., Any], which: int | str) -> Callable[..., Any]:
    """The function with one not-a-number in its answer, or in the array of that name of its answer."""

    def answer(*given: Any, **named: Any) -> Any:
        found = function(*given, **named)
        array = getattr(found, which) if isinstance(which, str) else found[which]
        with torch.inference_mode():
            array[(0,) * array.ndim] = NAN
        return found

    return answer


def learner(loop: Loop) -> Learner:
    return loop.players.students[0].learner


def all_finite(loop: Loop) -> bool:
    advice = loop.players.advice
    table, evidence = advice.table, advice.evidence
    assert isinstance(evidence.words, WordValues)
    weights = [*learner(loop).state_dict().values(), *evidence.words.networks.state_dict().values()]
    counted = [table.prior, table.imitation, evidence.model.tries, evidence.model.mean_returns(evidence.pessimistic.value)]
    return all(bool(torch.isfinite(w).all()) for w in weights) and all(np.isfinite(array).all() for array in counted)


def spoil_reward(loop: Loop, rung: Rung, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rung.environments, "step", spoilt(rung.environments.step, "reward"))


def spoil_observation(loop: Loop, rung: Rung, patch: pytest.MonkeyPatch) -> None:
    observe, empty = rung.collector.grounding.observe, Rollout.empty

    def floats(*given: Any) -> Any:
        rollout = empty(*given)
        return replace(rollout, features=rollout.features.astype(np.float32))

    patch.setattr("coteach.student.rollout.Rollout.empty", floats)
    patch.setattr(learner(loop), "act", lambda features: (np.zeros(8, np.int64), np.zeros(8), np.zeros(8)))

    def broken(*given: Any) -> Any:
        grounded = observe(*given)
        grounded.features = grounded.features.astype(np.float32)
        grounded.features[0, 0] = NAN
        return grounded

    patch.setattr(rung.collector.grounding, "observe", broken)


def spoil_value(loop: Loop, rung: Rung, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(learner(loop), "act", spoilt(learner(loop).act, 2))


def spoil_logits(loop: Loop, rung: Rung, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(learner(loop), "_forward", spoilt(learner(loop)._forward, 0))


def spoil_evidence(loop: Loop, rung: Rung, patch: pytest.MonkeyPatch) -> None:
    """The word values learn from mean returns."""
    evidence = loop.players.advice.evidence
    evidence.add_outcome(Outcome(0, 0, 1, 0.0))
    returns = evidence.model.mean_returns
    patch.setattr(evidence.model, "mean_returns", lambda value: returns(value) * NAN)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_reward, "rewards"),
        (spoil_observation, "observations"),
        (spoil_value, "values"),
        (spoil_logits, "log_probabilities"),
        (spoil_evidence, "word values: the loss"),
    ],
)
def test_what_the_run_cannot_go_on_from_ends_it_and_is_named(
    spoil: Callable[..., None], named: str, played: tuple[Loop, Rung], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, rung = played
    spoil(loop, rung, monkeypatch)
    with pytest.raises(RunFailed, match=rf"rung 1, round 2: .*{named}.* --resume"):
        play_round(loop.players, [rung], lambda phase: None)
    monkeypatch.undo()
    assert all_finite(loop)


def spoil_advantages(loop: Loop, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(steps, "gae", spoilt(steps.gae, 0))


def spoil_returns(loop: Loop, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(steps, "gae", spoilt(steps.gae, 1))


def spoil_advice(loop: Loop, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(loop.players, "targets", spoilt(loop.players.targets, 0))


def spoil_gradient(loop: Loop, patch: pytest.MonkeyPatch) -> None:
    weight = next(learner(loop).network.parameters())
    patch.setattr(learner(loop), "_spoilt", weight.register_hook(lambda gradient: gradient * NAN), raising=False)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_advantages, "advantages"),
        (spoil_returns, "returns"),
        (spoil_advice, "advice"),
        (spoil_gradient, "the gradient"),
    ],
)
def test_what_spoils_an_update_costs_that_rounds_update_and_only_three_in_a_row_end_the_run(
    spoil: Callable[..., None], named: str, played: tuple[Loop, Rung], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, rung = played
    before = learner(loop).state_dict()
    spoil(loop, monkeypatch)
    for _ in range(2):
        with pytest.warns(Note, match=rf"rung 1, round 2: .*{named}.*does not learn from this round"):
            assert "policy_loss" not in play_round(loop.players, [rung], lambda phase: None)[0]
    after = learner(loop).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith(("network", "optimizer")))
    with pytest.raises(RunFailed, match=named):
        play_round(loop.players, [rung], lambda phase: None)
    monkeypatch.undo()
    if hook := getattr(learner(loop), "_spoilt", None):
        hook.remove()
    assert all_finite(loop)


def test_an_answer_that_is_no_distribution_is_not_heeded(played: tuple[Loop, Rung], monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _ = played
    advice = loop.players.advice
    options = len(advice.situations[0].options)
    for broken in ([NAN] * options, [-1.0, 2.0, *[0.0] * (options - 2)], [0.9] * options):
        monkeypatch.setattr(advice.teacher, "advise", lambda situations, broken=broken: [np.array(broken)])
        with pytest.warns(Note, match="no distribution"):
            advice.query(np.array([0]))
        assert advice.table.prior[0, :options].tolist() == pytest.approx([1.0 / options] * options)


def test_lora_weights_that_a_tuning_broke_are_taken_back_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(*TUNED, *EAGER, f"tasks={DOOR_KEY}", "teacher.tune_every=2")
    descend = tuning.descend

    def broken(scorer: Any, weights: Any, *rest: Any) -> int:
        steps = descend(scorer, weights, *rest)
        with torch.no_grad():
            next(iter(weights.values())).fill_(NAN)
        return steps

    monkeypatch.setattr(tuning, "descend", broken)
    with tiny_llm():
        loop = Loop(settings, Run.create(tmp_path / "run", settings))
        rung = Rung(0, settings, loop.players)
        play_round(loop.players, [rung], lambda phase: None)
        rung.rounds = 1
        with pytest.warns(Note, match="LoRA weights whose answers are not finite: it keeps those from before"):
            metrics = play_round(loop.players, [rung], lambda phase: None)[0]
        assert metrics["tune_lessons"] > 0
        rung.rounds = 2
        play_round(loop.players, [rung], lambda phase: None)
    adapter = loop.players.record is not None and loop.players.teacher.teacher.lm.adapter  # type: ignore[union-attr]
    assert all(bool(torch.isfinite(weight).all()) for weight in adapter.weights().values()) and all_finite(loop)
