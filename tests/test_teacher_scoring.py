"""Packed scores are the scores of asking for one option at a time, whatever the architecture."""

import numpy as np
import pytest
import torch
import transformers
from numpy.testing import assert_allclose

import tiny_lm
from coteach.teacher.local import scoring, trie
from coteach.teacher.prompt import Prompt

END = 1
PREFIX = (0, 5, 6, 7, 8, 9, 10)
PROMPTS = [
    Prompt((11, 12, 13, 14), ((20, END), (20, 21, END), (20, 21, 22, END), (23, 24, END))),
    Prompt((11, 12, 15), ((20, 21, 22, 23, 24, 25, 26, 27, END), (30, END))),
    Prompt((11, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22), ((40, 41, END),)),
    Prompt((11, 12, 13, 14), ((20, 21, END), (50, END))),
]


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Gemma2", "Qwen2", "Granite", "GPT2"])
def test_packed_scores_are_those_of_one_pass_per_option(kind):
    model = tiny_lm.model(kind)
    expected = [scoring.score_one_by_one(model, PREFIX, prompt) for prompt in PROMPTS]
    scores = scoring.Scorer(model, PREFIX).score(PROMPTS)
    for got, want in zip(scores, expected, strict=True):
        assert_allclose(got, want, atol=1e-9)
    assert np.ptp(expected[0]) > 0.1  # the options do differ


@pytest.mark.parametrize("kind", ["Mistral", "Gemma2"])
def test_a_sliding_window_is_seen_in_the_scores(kind):
    """Were the window ignored, the two would differ: the tests above are not passed by chance."""
    model = tiny_lm.model(kind)
    scorer = scoring.Scorer(model, PREFIX)
    scorer._window = None
    assert np.abs(scorer.score(PROMPTS[:1])[0] - scoring.score_one_by_one(model, PREFIX, PROMPTS[0])).max() > 1e-3


def test_small_packs_and_large_packs_give_the_same_scores():
    scorer = scoring.Scorer(tiny_lm.model(), PREFIX)
    together = scorer.score(PROMPTS)
    scorer.budget.tokens = 1
    for alone, packed in zip(scorer.score(PROMPTS), together, strict=True):
        assert_allclose(alone, packed, atol=1e-9)


def test_an_option_that_begins_another_is_not_scored_as_part_of_it():
    prompt = Prompt((11,), ((20, END), (20, 21, END)))
    model = tiny_lm.model()
    short, long = scoring.Scorer(model, PREFIX).score([prompt])[0]
    ids = torch.tensor([[*PREFIX, 11, 20]])
    log_p = torch.log_softmax(model(ids).logits[0], -1)
    assert_allclose(short, (log_p[-2, 20] + log_p[-1, END]).item(), atol=1e-9)
    assert long != short


def test_common_words_are_computed_once():
    scorer = scoring.Scorer(tiny_lm.model(), PREFIX)
    scorer.score(PROMPTS[:1])
    first = scorer.tokens
    scorer.score(PROMPTS[:1])
    options = len([20, 21, 22, 23, 24])  # ends are predicted, never read
    assert first == len(PREFIX) + 4 + options
    assert scorer.tokens - first == 4 + options  # the prefix is kept


def test_the_gradient_is_that_of_asking_one_by_one():
    model = tiny_lm.model("Mistral").requires_grad_(True)
    packed = torch.cat(scoring.Scorer(model, PREFIX).score_with_gradient(PROMPTS)).sum()
    weight = model.model.layers[0].self_attn.k_proj.weight
    (got,) = torch.autograd.grad(packed, [weight])
    alone = torch.cat(scoring.Scorer(model, PREFIX, packed=False).score_with_gradient(PROMPTS)).sum()
    (want,) = torch.autograd.grad(alone, [weight])
    assert want.abs().max() > 1e-3
    assert_allclose(got.numpy(), want.numpy(), rtol=1e-4, atol=1e-5)  # parts of the model are float32 whatever it is given


def test_after_forget_the_prefix_is_computed_with_the_new_weights():
    model = tiny_lm.model()
    scorer = scoring.Scorer(model, PREFIX)
    before = scorer.score(PROMPTS[:1])[0]
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.mul_(1.5)
    scorer.forget()
    after = scorer.score(PROMPTS[:1])[0]
    assert_allclose(after, scoring.score_one_by_one(model, PREFIX, PROMPTS[0]), atol=1e-9)
    assert np.abs(after - before).max() > 1e-6


def test_an_architecture_without_attention_is_found_out_and_scored_one_by_one():
    config = transformers.MambaConfig(vocab_size=74, hidden_size=16, num_hidden_layers=2, state_size=4)
    torch.manual_seed(0)
    model = transformers.MambaForCausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    assert not scoring.reads_tries(model, PREFIX, PROMPTS[0])
    scores = scoring.Scorer(model, PREFIX, packed=False).score(PROMPTS[:1])[0]
    assert_allclose(scores, scoring.score_one_by_one(model, PREFIX, PROMPTS[0]), atol=1e-9)


def test_every_llama_like_model_reads_tries():
    assert scoring.reads_tries(tiny_lm.model("Gemma2"), PREFIX, PROMPTS[0])


def test_a_pack_computes_no_more_tokens_than_its_budget_and_is_filled_up_to_it():
    packs = list(trie.passes(PROMPTS, 26))
    assert sorted(slot for pack in packs for slot in pack) == [0, 1, 2, 3]
    size = [len(trie.build_trie((), [PROMPTS[slot] for slot in pack])) for pack in packs]
    assert all(total <= 26 for total, pack in zip(size, packs, strict=True) if len(pack) > 1)
    apart = [len(PROMPTS[slot].body) + sum(map(len, PROMPTS[slot].options)) for slot in packs[0]]
    assert sum(apart) > 26  # what prompts share counts once


@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_attention_in_blocks_is_pytorchs_own_and_is_used_on_a_processor(kind, monkeypatch):
    model = tiny_lm.model(kind)
    monkeypatch.setattr(scoring.attention, "install", lambda model: None)
    whole = scoring.Scorer(model, PREFIX).score(PROMPTS)
    monkeypatch.undo()
    monkeypatch.setattr(scoring.attention, "BLOCK", 5)
    scorer = scoring.Scorer(model, PREFIX)
    seen = []
    real = scoring.attention.in_blocks
    monkeypatch.setattr(scoring.attention, "in_blocks", lambda *given: seen.append(len(given[3])) or real(*given))
    for blocks, own in zip(scorer.score(PROMPTS), whole, strict=True):
        assert_allclose(blocks, own, atol=1e-9)
    assert max(seen) > 5


def test_log_probabilities_are_normalised_row_by_row_whatever_the_order_asked_for():
    logits = torch.randn(scoring.ROWS_AT_ONCE * 2 + 3, 50, generator=torch.manual_seed(0), dtype=torch.float64)
    rng = np.random.default_rng(0)
    row, token = rng.integers(0, len(logits), 90), rng.integers(0, 50, 90)
    want = torch.log_softmax(logits, -1)[row, token]
    assert_allclose(scoring._token_scores(logits, row, token).numpy(), want.numpy(), atol=1e-12)
