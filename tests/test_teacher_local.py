"""A local language model as teacher: calibrated, remembered, and moved by what the student found out."""

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import tiny_lm
from coteach.config import TeacherConfig
from coteach.errors import CoteachError, RunFailed
from coteach.grounding.base import Situation
from coteach.teacher.answer_cache import AnswerCache
from coteach.teacher.base import Lesson
from coteach.teacher.feedback import NOTHING, Feedback
from coteach.teacher.local.scoring import score_one_by_one
from coteach.teacher.local.teacher import LocalTeacher
from coteach.teacher.make import make_teacher

SITUATIONS = [
    Situation("You see a ball.", ("explore", "take the ball", "drop it")),
    Situation("You see a key.", ("explore", "take the key", "drop it", "wait")),
    Situation("You see nothing.", ("explore", "wait")),
]
TARGETS = [np.array([0.1, 0.8, 0.1]), np.array([0.1, 0.7, 0.1, 0.1]), np.array([0.9, 0.1])]
LESSONS = [Lesson(situation, target) for situation, target in zip(SITUATIONS, TARGETS, strict=True)]


def teacher(cache=None, seed=0, **settings):
    config = TeacherConfig(**{"lora_rank": 4, "lora_learning_rate": 2e-2, "tune_steps": 15, "device": "cpu", **settings})
    return LocalTeacher(tiny_lm.loaded(seed=seed), config, cache)


def log_odds(teacher_):
    return [np.log(advice) for advice in teacher_.advise(SITUATIONS)]


def test_advice_is_the_softmax_of_scores_less_those_after_an_empty_situation():
    asked = teacher(temperature=2.0)
    situation = SITUATIONS[0]
    score = score_one_by_one(asked.lm.model, asked.lm.prefix, asked.lm.prompt(situation))
    empty = score_one_by_one(asked.lm.model, asked.lm.prefix, asked.lm.prompt(Situation("", situation.options)))
    expected = np.exp((score - empty) / 2.0)
    assert_allclose(asked.advise([situation])[0], expected / expected.sum(), rtol=1e-3)


def test_advice_is_a_distribution_that_excludes_nothing_however_sure_the_model_is():
    for advice in teacher(temperature=0.01).advise(SITUATIONS):
        assert_allclose(advice.sum(), 1.0)
        assert advice.min() > 0


def test_a_model_is_asked_once_about_a_situation():
    asked = teacher()
    first = asked.advise(SITUATIONS)
    tokens = asked.usage.tokens
    second = asked.advise([*SITUATIONS, SITUATIONS[0]])
    assert asked.usage.queries == 3 and asked.usage.cache_hits == 4
    assert asked.usage.tokens == tokens > 0
    assert_array_equal(first[0], second[3])


def test_what_one_run_asked_the_next_one_remembers(tmp_path):
    first = teacher(AnswerCache(tmp_path / "advice"))
    advice = first.advise(SITUATIONS)
    again = teacher(AnswerCache(tmp_path / "advice"))
    for was, now in zip(advice, again.advise(SITUATIONS), strict=True):
        assert_array_equal(was, now)
    assert again.usage.queries == 0
    other = teacher(AnswerCache(tmp_path / "advice"), seed=1)
    other.advise(SITUATIONS)
    assert other.usage.queries == 3  # another model's answers are not this one's


def test_tuning_moves_the_advice_to_the_target_and_later_advice_uses_the_new_weights():
    tuned = teacher(anchor=0.0)
    before = tuned.advise(SITUATIONS)
    report = tuned.tune(LESSONS, seed=0)
    after = tuned.advise(SITUATIONS)
    assert report.loss_after < 0.2 * report.loss_before
    kl = [np.sum(target * np.log(target / p)) for target, p in zip(TARGETS, after, strict=True)]
    assert_allclose(report.loss_after, np.mean(kl), rtol=1e-6)
    assert report.drift > 0.01 and np.abs(before[0] - after[0]).max() > 0.05
    assert tuned.usage.tunings == 1 and tuned.usage.tune_seconds > 0


def test_the_tuned_scores_are_those_of_the_tuned_model_asked_one_by_one():
    """Neither the prefix nor the calibration may be stale after a tuning."""
    tuned = teacher()
    tuned.advise(SITUATIONS)
    calibration = tuned.bias(SITUATIONS[0].options)
    tuned.tune(LESSONS, seed=0)
    explained = tuned.explain(SITUATIONS[0])
    assert_allclose(explained.score, score_one_by_one(tuned.lm.model, tuned.lm.prefix, tuned.lm.prompt(SITUATIONS[0])), atol=1e-3)
    assert_array_equal(tuned.bias(SITUATIONS[0].options), calibration)
    tuned._bias.clear()
    tuned.cache = AnswerCache(None)
    assert_allclose(tuned.bias(SITUATIONS[0].options), calibration, atol=1e-3)  # still the untuned model's


def test_a_strong_anchor_keeps_the_teacher_near_its_untuned_self():
    free, held = teacher(anchor=0.0), teacher(anchor=50.0)
    assert held.tune(LESSONS, seed=0).drift < 0.5 * free.tune(LESSONS, seed=0).drift


def test_the_same_seed_gives_the_same_weights_another_seed_others():
    one, same, other = teacher(), teacher(), teacher()
    one.tune(LESSONS, seed=3), same.tune(LESSONS, seed=3), other.tune(LESSONS, seed=4)
    assert one.lm.adapter.fingerprint() == same.lm.adapter.fingerprint() != other.lm.adapter.fingerprint()


def test_tuning_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    teacher().tune(LESSONS, seed=0)
    torch.manual_seed(7)
    asked = teacher()  # random weights are drawn here, not by `tune`
    state = torch.random.get_rng_state()
    asked.tune(LESSONS, seed=0)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), expected)


def test_a_lesson_of_no_weight_teaches_nothing():
    wrong = Lesson(SITUATIONS[2], np.array([0.0, 1.0]), weight=0.0)
    with_wrong, without = teacher(), teacher()
    assert with_wrong.tune([*LESSONS, wrong], seed=0).lessons == 3
    without.tune(LESSONS, seed=0)
    assert with_wrong.lm.adapter.fingerprint() == without.lm.adapter.fingerprint()


def test_many_lessons_are_drawn_by_their_weight():
    lessons = [
        Lesson(Situation(f"Place {n}.", ("a", "b")), np.array([0.5, 0.5]), weight=1.0 + 999.0 * (n == 3)) for n in range(9)
    ]
    report = teacher(tune_steps=2, tune_situations=4).tune(lessons, seed=0)
    assert report.lessons <= 3  # of 8 draws nearly all are number 3


def test_what_was_learned_is_saved_and_taken_up_again(tmp_path):
    tuned = teacher()
    tuned.tune(LESSONS, seed=0)
    tuned.save(tmp_path / "teacher")
    assert {file.name for file in (tmp_path / "teacher").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert json.loads((tmp_path / "teacher" / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    again = teacher()
    again.advise(SITUATIONS)
    again.load(tmp_path / "teacher")
    for was, now in zip(log_odds(tuned), log_odds(again), strict=True):
        assert_allclose(was, now, atol=1e-3)
    tuned.tune(LESSONS, seed=1), again.tune(LESSONS, seed=1)
    assert tuned.lm.adapter.fingerprint() == again.lm.adapter.fingerprint()  # a run that goes on is the run that never stopped


def test_an_untuned_teacher_saves_nothing(tmp_path):
    teacher().save(tmp_path / "teacher")
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize("damage", ["missing", "cut short", "other model"])
def test_an_adapter_that_does_not_fit_is_refused_in_one_line_and_the_teacher_is_untuned(tmp_path, damage):
    source = teacher(lora_rank=4)
    source.tune(LESSONS, seed=0)
    source.save(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "cut short":
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 7}))
    fresh = teacher()
    untuned = fresh.advise(SITUATIONS)
    with pytest.raises(CoteachError) as error:
        fresh.load(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    assert fresh.lm.adapter.fingerprint() == ""
    fresh.cache = AnswerCache(None)
    assert_allclose(fresh.advise(SITUATIONS)[0], untuned[0], rtol=1e-4)


def test_a_learning_rate_that_explodes_leaves_the_weights_as_they_were():
    tuned = teacher(lora_learning_rate=1.0)
    tuned.tune(LESSONS, seed=0)
    tuned.lm.adapter.remove()
    tuned.lm.weights_changed()
    before = tuned.advise(SITUATIONS)
    tuned.config.lora_learning_rate = 1e30
    with pytest.warns(UserWarning, match="keeps those from before"):
        report = tuned.tune(LESSONS, seed=0)
    assert report.steps == 0 and np.isfinite(report.loss_after)
    assert_allclose(tuned.advise(SITUATIONS)[0], before[0], rtol=1e-3)


@pytest.mark.parametrize("target", [[0.5, 0.5], [0.5, 0.6, 0.1], [np.nan, 0.5, 0.5], [1.5, -0.5, 0.0]])
def test_a_target_that_is_no_distribution_over_the_options_is_refused(target):
    with pytest.raises(CoteachError, match="not a distribution over 3 options"):
        teacher().tune([Lesson(SITUATIONS[0], np.array(target))], seed=0)


def test_no_lessons_are_refused():
    with pytest.raises(CoteachError, match="cannot tune on 0 lessons"):
        teacher().tune([], seed=0)


def test_a_model_whose_weights_are_not_finite_is_named():
    loaded = tiny_lm.loaded()
    with torch.no_grad():
        loaded.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(RunFailed, match="not finite"), pytest.warns(UserWarning):
        LocalTeacher(loaded, TeacherConfig()).advise(SITUATIONS)


def test_explain_shows_what_the_model_read():
    explained = teacher().explain(SITUATIONS[0])
    assert SITUATIONS[0].text in explained.prompt
    assert explained.options == SITUATIONS[0].options
    assert_allclose(explained.advice.sum(), 1.0)


TOLD = Feedback((("You see a box.", "take the box"), ("You see a cup.", "take the cup")), ("It failed.", "It failed again."))


def test_what_is_told_changes_the_advice_and_its_calibration_as_if_the_model_read_it_anew():
    asked = teacher(feedback_tokens=400)
    situation = SITUATIONS[0]
    before = asked.advise([situation])[0]
    assert asked.give_feedback(TOLD) and asked.feedback == TOLD
    after = asked.advise([situation])[0]
    assert "take the cup" in asked.explain(situation).prompt
    score = score_one_by_one(asked.lm.model, asked.lm.prefix, asked.lm.prompt(situation))
    empty = score_one_by_one(asked.lm.model, asked.lm.prefix, asked.lm.prompt(Situation("", situation.options)))
    expected = np.exp((score - empty) / asked.config.temperature)
    assert_allclose(after, expected / expected.sum(), rtol=1e-3)
    assert np.abs(after - before).max() > 1e-3
    assert not asked.give_feedback(TOLD)  # nothing new: no question is asked again
    assert asked.give_feedback(NOTHING)
    assert_array_equal(asked.advise([situation])[0], before)


@pytest.mark.parametrize("budget", [0, 60, 120, 400])
def test_what_is_told_takes_no_more_tokens_than_it_may(budget):
    asked = teacher(feedback_tokens=budget)
    bare = len(asked.lm.prefix)
    asked.give_feedback(TOLD)
    assert len(asked.lm.prefix) - bare <= min(budget, 512 // 2)  # half of what this model reads
    assert (asked.feedback == NOTHING) == (budget == 0)


def test_what_was_told_is_saved_with_the_adapter_and_without_one(tmp_path):
    tuned = teacher(feedback_tokens=400)
    tuned.give_feedback(TOLD)
    tuned.save(tmp_path / "told")
    assert [file.name for file in (tmp_path / "told").iterdir()] == ["feedback.json"]
    tuned.tune(LESSONS, seed=0)
    tuned.save(tmp_path / "tuned")
    for folder, tunings in (("told", False), ("tuned", True)):
        again = teacher(feedback_tokens=400)
        again.load(tmp_path / folder)
        assert again.feedback == TOLD and again.lm.adapter.exists == tunings
        assert again.lm.prefix == tuned.lm.prefix
    for was, now in zip(log_odds(tuned), log_odds(again), strict=True):
        assert_allclose(was, now, atol=1e-3)


def test_a_teacher_that_was_told_something_is_tuned_as_it_is_asked():
    tuned = teacher(anchor=0.0, feedback_tokens=400)
    tuned.give_feedback(TOLD)
    report = tuned.tune(LESSONS, seed=0)
    kl = [np.sum(target * np.log(target / p)) for target, p in zip(TARGETS, tuned.advise(SITUATIONS), strict=True)]
    assert_allclose(report.loss_after, np.mean(kl), rtol=1e-6)
    assert report.loss_after < 0.5 * report.loss_before


def test_an_exported_teacher_goes_on_with_what_it_was_told_and_the_calibration_that_belongs_to_it(tmp_path):
    loaded = tiny_lm.loaded()
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "coteach.json").write_text('{"bias": {"explore": -1.5}}')
    TOLD.save(tmp_path)
    again = make_teacher(f"hf:{tmp_path}", TeacherConfig(device="cpu"))
    assert isinstance(again, LocalTeacher) and again.feedback == TOLD
    assert again.bias(["explore"]) == -1.5
    again.give_feedback(NOTHING)
    assert again.bias(["explore"]) != -1.5
