"""As many tokens at once as memory holds; where it runs out, fewer, and the numbers stay the same."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.testing import assert_allclose

import tiny_lm
from coteach.config import TeacherConfig
from coteach.errors import RunFailed
from coteach.teacher.local import scoring, token_budget, tuning
from coteach.teacher.local.adapter import Adapter
from coteach.teacher.local.token_budget import Budget
from coteach.teacher.local.trie import Trie
from coteach.teacher.prompt import Prompt

GIB = 2**30
SMALL = transformers.LlamaConfig()  # the sizes of Llama-7B
LARGE = transformers.LlamaConfig(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64)
PREFIX = (0, 5, 6)
PROMPTS = [Prompt((11, 12, body), ((20, 1), (21, 22, 1), (23 + body, 1))) for body in range(13, 19)]
CASES = [
    tuning.Case(prompt, np.zeros(3), np.array([0.7, 0.2, 0.1]), np.full(3, 1 / 3), np.full(3, 1 / 3), np.zeros(3), 1.0)
    for prompt in PROMPTS
]
SHARES = [0.3, 0.1, 0.2, 0.1, 0.2, 0.1]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Memory of a card that is not there, in bytes; `held` by PyTorch without being used."""
    memory = {"free": 16 * GIB, "held": 0}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (memory["free"], 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: memory["held"] + GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: GIB)
    return memory


def on_card(config: Any, dtype: torch.dtype = torch.bfloat16) -> Any:
    sizes = SimpleNamespace(get_text_config=lambda: config)
    return SimpleNamespace(device=torch.device("cuda"), config=sizes, dtype=dtype)


def lora() -> tuple[scoring.Scorer, list[torch.nn.Parameter]]:
    """A tiny model with LoRA layers that change something."""
    model = tiny_lm.model(dtype=torch.float32)
    adapter = Adapter(model, TeacherConfig(lora_rank=4), "tiny")
    adapter.create(0)
    leaves = list(adapter.weights().values())
    with torch.no_grad():
        for leaf in leaves:
            leaf.normal_(0.0, 0.1, generator=torch.manual_seed(len(leaf)))
    return scoring.Scorer(model, PREFIX), leaves


def gradient(scorer: scoring.Scorer, leaves: list[torch.nn.Parameter], budget: Budget) -> np.ndarray:
    for leaf in leaves:
        leaf.grad = None
    tuning.accumulate(scorer, leaves, CASES, SHARES, TeacherConfig(), budget)
    return torch.cat([leaf.grad.flatten() for leaf in leaves if leaf.grad is not None]).numpy()


def test_more_free_memory_more_tokens_and_the_larger_the_model_the_fewer(card: dict[str, int]) -> None:
    tokens = [token_budget.to_tune(on_card(config), 0.5).tokens for config in (SMALL, LARGE)]
    assert token_budget.MOST > tokens[0] > 2 * tokens[1] > 0
    assert (
        token_budget.to_read(on_card(SMALL)).tokens > tokens[0] > token_budget.to_tune(on_card(SMALL, torch.float32), 0.5).tokens
    )
    card["free"] //= 2
    assert token_budget.to_tune(on_card(SMALL), 0.5).tokens == pytest.approx(tokens[0] / 2, abs=1)
    card["held"] = card["free"]
    assert token_budget.to_tune(on_card(SMALL), 0.5).tokens == tokens[0]  # what PyTorch holds and does not use is free
    card |= {"free": 0, "held": 0}
    assert token_budget.to_tune(on_card(SMALL), 0.5).tokens == token_budget.FEWEST


def test_a_processor_takes_what_it_always_took() -> None:
    model = tiny_lm.model()
    assert (token_budget.to_read(model).tokens, token_budget.to_tune(model, 0.5).tokens) == (
        token_budget.READ,
        token_budget.TUNED,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_backward_pass_keeps_no_more_than_was_reckoned(dtype: torch.dtype) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 500}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).to(dtype).requires_grad_(False)
    Adapter(model, TeacherConfig(lora_rank=4), "llama").create(0)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    prompt = Prompt(tuple(range(10, 130)), tuple((token, 1) for token in range(200, 260)))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = scoring.Scorer(model, PREFIX).score_with_gradient([prompt])
    reckoned = token_budget.bytes_tuned(model.config, token_budget.width(model), 0.5) * (len(PREFIX) + 180)
    assert scores[0].requires_grad and 0.1 * reckoned < sum(kept.values()) < reckoned


def test_where_reading_runs_out_of_memory_it_goes_on_with_less_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scoring.Scorer(tiny_lm.model(), PREFIX)
    expected, forward, sizes = scorer.score(PROMPTS), scorer._forward, []

    def cramped(trie: Trie, cache: Any, first: int, *rest: Any) -> Any:
        sizes.append(len(trie) - first)
        if sizes[-1] > 12:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(trie, cache, first, *rest)

    monkeypatch.setattr(scorer, "_forward", cramped)
    with pytest.warns(UserWarning, match="goes on with"):
        scores = scorer.score(PROMPTS)
    assert_allclose(scores, expected, atol=1e-9)
    assert max(sizes) > 12 and scorer.budget.tokens < token_budget.READ
    sizes.clear()
    scorer.score(PROMPTS)
    assert max(sizes) <= 12  # what was learned of the memory is not forgotten


def test_a_situation_that_does_not_fit_by_itself_ends_the_run_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scoring.Scorer(tiny_lm.model(), PREFIX)

    def full(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(scorer, "_forward", full)
    with pytest.raises(RunFailed, match="choose a smaller model, teacher.precision=4bit") as error:
        scorer.score(PROMPTS[:1])
    assert "\n" not in str(error.value)


def test_lessons_taught_a_few_at_a_time_have_the_gradient_of_all_at_once() -> None:
    scorer, leaves = lora()
    whole = gradient(scorer, leaves, Budget(10_000))
    assert np.abs(whole).max() > 1e-3
    for tokens in (1, 15):
        assert_allclose(gradient(scorer, leaves, Budget(tokens)), whole, rtol=1e-3, atol=1e-6)


def test_memory_that_runs_out_half_way_down_adds_no_gradient_twice() -> None:
    scorer, leaves = lora()
    whole, failures = gradient(scorer, leaves, Budget(10_000)), [True]

    def fail_once(slope: torch.Tensor) -> torch.Tensor:
        if failures:
            failures.clear()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return slope

    lowest = leaves[0].register_hook(fail_once)
    budget = Budget(40)
    with pytest.warns(UserWarning, match="goes on with 20 tokens"):
        again = gradient(scorer, leaves, budget)
    lowest.remove()
    assert budget.tokens == 20 and not failures
    assert_allclose(again, whole, rtol=1e-3, atol=1e-6)
