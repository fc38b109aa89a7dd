"""Forgetting is measured on prose and on questions, with the adapter and without it."""

import json
import math
from importlib import resources

import numpy as np
import pytest
import torch

import tiny_lm
from coteach.config import TeacherConfig
from coteach.errors import RunFailed
from coteach.evaluation.forgetting import WINDOW, measure_forgetting, perplexity, question_count, share_right
from coteach.grounding.base import Situation
from coteach.teacher.base import Lesson
from coteach.teacher.local.scoring import score_one_by_one
from coteach.teacher.local.teacher import LocalTeacher
from coteach.teacher.make import make_teacher
from coteach.teacher.prompt import Prompt, encode

LESSON = Lesson(Situation("You see a ball.", ("explore", "take the ball")), np.array([0.05, 0.95]))


@pytest.fixture(scope="module")
def material():
    return json.loads((resources.files("coteach") / "data" / "general_knowledge.json").read_text(encoding="utf-8"))


@pytest.fixture
def tokenizer():
    return tiny_lm.tokenizer()


def teacher(**settings):
    config = TeacherConfig(**{"lora_rank": 4, "lora_learning_rate": 5e-2, "tune_steps": 5, "device": "cpu", **settings})
    return LocalTeacher(tiny_lm.loaded(), config)


def test_a_uniform_model_has_a_perplexity_of_the_number_of_tokens(tokenizer, material):
    blank = tiny_lm.model()
    with torch.no_grad():
        for parameter in blank.parameters():
            parameter.zero_()
    assert perplexity(blank, tokenizer, material["text"][0]) == pytest.approx(tiny_lm.SIZES["vocab_size"])
    asked = [{"begins": "The sun rises in the", "right": "east", "wrong": ["west"]}]
    assert share_right(blank, tokenizer, asked) == 0.0, "what is equally probable is not known"


def test_perplexity_is_that_of_the_windows_tokens_but_the_first_of_each(tokenizer, material):
    model, text = tiny_lm.model(), material["text"][0]
    ids = tokenizer(text)["input_ids"]
    assert len(ids) > WINDOW
    total = count = 0.0
    for first in range(0, len(ids), WINDOW):
        window = torch.tensor([ids[first : first + WINDOW]])
        loss = model(input_ids=window, labels=window).loss.item()
        total, count = total + loss * (window.shape[1] - 1), count + window.shape[1] - 1
    assert perplexity(model, tokenizer, text) == pytest.approx(math.exp(total / count), rel=1e-4)


@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_a_question_is_right_if_its_answer_is_the_most_probable_one(kind, tokenizer, material):
    model = tiny_lm.model(kind)
    asked = []
    for entry in material["questions"]:
        answers = [entry["right"], *entry["wrong"]]
        prompt = Prompt(encode(tokenizer, f" {entry['begins']}"), tuple(encode(tokenizer, f" {answer}.") for answer in answers))
        scores = score_one_by_one(model, encode(tokenizer, "Everybody knows this:"), prompt)
        ranked = [answers[slot] for slot in np.argsort(-scores)]
        asked.append((entry["begins"], ranked))
    best = [{"begins": begins, "right": ranked[0], "wrong": ranked[1:]} for begins, ranked in asked]
    second = [{"begins": begins, "right": ranked[1], "wrong": [ranked[0], *ranked[2:]]} for begins, ranked in asked]
    assert share_right(model, tokenizer, best) == 1.0
    assert share_right(model, tokenizer, second) == 0.0
    assert share_right(model, tokenizer, best[:3] + second[:1]) == 0.75


def test_an_untuned_teacher_has_forgotten_nothing():
    before, now = measure_forgetting(teacher())
    assert before == now


@pytest.mark.slow
def test_tuning_changes_what_is_measured_now_but_not_what_was_before():
    tuned = teacher()
    was, _ = measure_forgetting(tuned)
    tuned.tune([LESSON], seed=0)
    before, now = measure_forgetting(tuned)
    assert before.perplexity == pytest.approx(was.perplexity, rel=1e-5) and before.right == was.right
    assert now.perplexity != pytest.approx(before.perplexity, rel=1e-3)
    assert measure_forgetting(tuned) == (before, now), "deterministic"


def test_damaged_weights_are_an_error():
    damaged = teacher()
    damaged.tune([LESSON], seed=0)
    with torch.no_grad():
        next(iter(damaged.lm.adapter.weights().values())).fill_(float("nan"))
    with pytest.raises(RunFailed, match="'local' has a perplexity of nan: its weights are damaged"):
        measure_forgetting(damaged)


def test_questions_have_one_right_answer_among_four(material):
    assert question_count() == len(material["questions"]) >= 20
    assert len({entry["begins"] for entry in material["questions"]}) == question_count()
    for entry in material["questions"]:
        assert len({entry["right"], *entry["wrong"]}) == 4, entry
    assert 250 <= len(" ".join(material["text"]).split()) <= 350


def test_prose_and_questions_have_no_words_of_the_tasks(material):
    said = json.dumps(material).lower().replace("?", " ").replace(",", " ").split()
    assert not {"mission", "maze", "explore", "locked"} & set(said)


@pytest.mark.slow
def test_the_embedded_model_answers_most_questions_but_not_all():
    before, _ = measure_forgetting(make_teacher("smollm2", TeacherConfig(device="cpu")))
    assert 0.6 <= before.right < 1.0
    assert 10 < before.perplexity < 60
