"""Writing token by token and scoring whole options are the same advice."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import tiny_lm
from coteach.config import TeacherConfig
from coteach.grounding.base import Situation
from coteach.teacher.local import generation
from coteach.teacher.local.scoring import score_one_by_one
from coteach.teacher.local.teacher import LocalTeacher

END = 1
OPTIONS = ((5, 6, END), (5, 6, 7, END), (5, 8, END), (9, END))
ADVICE = np.array([0.1, 0.2, 0.3, 0.4])
SITUATION = Situation("You see a key.", ("take the key", "take the ball", "take", "drop it", "wait"))
IMPROVED = np.array([0.05, 0.6, 0.05, 0.1, 0.2])


def teacher(**settings):
    return LocalTeacher(tiny_lm.loaded(), TeacherConfig(device="cpu", **settings))


def written(option, next_tokens):
    """Probability that `option` is written, where `next_tokens(written)` gives what may follow and how probable it is."""
    probability = 1.0
    for end in range(len(option)):
        tokens, share = next_tokens(option[:end])
        probability *= share[tokens.index(option[end])]
    return probability


def live(asked, situation, advice):
    """The next token as the model itself says it, one pass over everything written so far, weighted by where it leads.

    An option's weight is what the advice makes of the model's own probability of it.
    """
    prompt = asked.lm.prompt(situation)
    raw = score_one_by_one(asked.lm.model, asked.lm.prefix, prompt)
    weight = dict(zip(prompt.options, np.log(advice) - raw, strict=True))

    @cache
    def says(so_far):
        with torch.inference_mode():
            logits = asked.lm.model(torch.tensor([[*asked.lm.prefix, *prompt.body, *so_far]])).logits[0, -1]
        return torch.log_softmax(logits.double(), dim=-1).numpy()

    @cache
    def ahead(so_far):
        if so_far in weight:
            return weight[so_far]
        tokens, said = admissible(so_far), says(so_far)
        return np.logaddexp.reduce([said[token] + ahead((*so_far, token)) for token in tokens])

    def admissible(so_far):
        begun = (option for option in prompt.options if option[: len(so_far)] == so_far)
        return tuple(dict.fromkeys(option[len(so_far)] for option in begun))

    def next_tokens(so_far):
        tokens, said = admissible(so_far), says(so_far)
        log_p = np.array([said[token] + ahead((*so_far, token)) for token in tokens])
        return tokens, np.exp(log_p - np.logaddexp.reduce(log_p))

    return prompt.options, next_tokens


def test_the_next_token_has_the_share_of_the_options_behind_it() -> None:
    tokens, share = generation.next_tokens(OPTIONS, ADVICE, ())
    assert tokens == (5, 9)
    assert_allclose(share, [0.6, 0.4])
    tokens, share = generation.next_tokens(OPTIONS, ADVICE, (5, 6))
    assert tokens == (END, 7)
    assert_allclose(share, [1 / 3, 2 / 3])


def test_every_option_is_written_as_often_as_it_is_advised() -> None:
    for option, advised in zip(OPTIONS, ADVICE, strict=True):
        assert_allclose(written(option, lambda so_far: generation.next_tokens(OPTIONS, ADVICE, so_far)), advised)
    rng = np.random.default_rng(0)
    drawn = Counter(generation.write(OPTIONS, ADVICE, rng)[-1].written for _ in range(4000))
    assert_allclose([drawn[option[:-1]] / 4000 for option in OPTIONS], ADVICE, atol=0.03)


def test_nothing_but_the_options_can_be_written() -> None:
    for seed in range(50):
        advice = np.random.default_rng(seed).dirichlet(np.full(4, 0.3)) + 1e-12
        choices = generation.write(OPTIONS, advice, np.random.default_rng(seed))
        assert (*choices[-1].written, choices[-1].tokens[choices[-1].taken]) in OPTIONS


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_scoring_and_writing_give_the_same_distribution(temperature: float) -> None:
    """The model is run over every beginning of every option, alone, and its own next-token probabilities are reweighed."""
    asked = teacher(temperature=temperature)
    for advice in (asked.advise([SITUATION])[0], IMPROVED):
        options, by_the_model = live(asked, SITUATION, advice)
        for option, advised in zip(options, advice, strict=True):
            assert_allclose(written(option, by_the_model), advised, atol=1e-4)
            for end in range(len(option)):
                tokens, share = generation.next_tokens(options, advice, option[:end])
                assert tokens == by_the_model(option[:end])[0]
                assert_allclose(share, by_the_model(option[:end])[1], atol=1e-4)


def test_without_calibration_the_next_token_is_the_models_own_among_those_that_lead_somewhere() -> None:
    asked = teacher(temperature=1.0)
    situation = Situation("You see a key.", ("a", "b", "c"))  # a space and one token each: what is ahead is the end alone
    score = score_one_by_one(asked.lm.model, asked.lm.prefix, asked.lm.prompt(situation))
    asked._bias = dict.fromkeys(situation.options, 0.0)
    token = asked.write(situation, asked.advise([situation])[0])[1]
    assert_allclose(token.before, np.exp(score) / np.exp(score).sum(), atol=1e-4)
    assert (token.own > np.exp(score)).all()  # the end of the answer is still to come


def test_evidence_changes_the_tokens_that_are_written() -> None:
    asked = teacher()
    advice = asked.advise([SITUATION])[0]
    improved = np.where(np.arange(len(advice)) == advice.argmin(), 0.96, 0.01)
    before = "".join(token.words[token.taken] for token in asked.write(SITUATION, advice))
    tokens = asked.write(SITUATION, improved)
    after = "".join(token.words[token.taken] for token in tokens)
    assert after.strip().startswith(SITUATION.options[int(advice.argmin())]) and after != before
    first = tokens[1]  # after the space
    assert_allclose(first.before.sum(), 1.0)
    assert first.after[first.taken] > first.before[first.taken]
    assert 0 < first.own.sum() < 1  # what the model would rather say is not admissible
