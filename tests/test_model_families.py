"""Models of many families, with random weights: what is scored together is what each option scores alone, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.testing import assert_allclose

import tiny_lm
from coteach.config import TeacherConfig
from coteach.errors import CoteachError, Note
from coteach.grounding.base import Situation
from coteach.teacher.base import Lesson
from coteach.teacher.feedback import Feedback
from coteach.teacher.local import scoring, token_budget
from coteach.teacher.local.models import LoadedModel, load_model
from coteach.teacher.local.teacher import LocalTeacher
from coteach.teacher.prompt import Prompt

PREFIX = tuple(range(5, 15))
CPU = TeacherConfig(device="cpu")
SITUATIONS = [Situation(f"You see door {n}.", ("open the door", "explore")) for n in range(4)]

MIXTURE: dict[str, Any] = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaForCausalLM", {}),
    "Mistral, window": ("MistralForCausalLM", {"sliding_window": 6}),
    "Gemma": ("GemmaForCausalLM", {}),
    "Gemma2, windows in every second layer": ("Gemma2ForCausalLM", {"sliding_window": 5, "query_pre_attn_scalar": 8}),
    "Gemma3": ("Gemma3ForCausalLM", {"sliding_window": 5}),
    "Qwen2, window in the upper layers": (
        "Qwen2ForCausalLM", {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 2},
    ),
    "Qwen3": ("Qwen3ForCausalLM", {}),
    "Qwen2 mixture": ("Qwen2MoeForCausalLM", MIXTURE | {"shared_expert_intermediate_size": 16}),
    "Mixtral": ("MixtralForCausalLM", MIXTURE),
    "Granite": ("GraniteForCausalLM", {"logits_scaling": 5.0}),
    "Phi": ("PhiForCausalLM", {}),
    "Phi3": ("Phi3ForCausalLM", {"sliding_window": 7}),
    "OLMo2": ("Olmo2ForCausalLM", {}),
    "Cohere": ("CohereForCausalLM", {}),
    "StableLM": ("StableLmForCausalLM", {}),
    "Starcoder2": ("Starcoder2ForCausalLM", {"sliding_window": 5}),
    "SmolLM3": ("SmolLM3ForCausalLM", {}),
    "GLM": ("GlmForCausalLM", {}),
    "gpt-oss, sinks": ("GptOssForCausalLM", MIXTURE | {"sliding_window": 5}),
    "GPT-2": ("GPT2LMHeadModel", {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 2048}),
    "GPT-J": ("GPTJForCausalLM", {"n_embd": 32, "n_head": 4, "n_layer": 3, "rotary_dim": 4}),
    "GPT-NeoX": ("GPTNeoXForCausalLM", {}),
    "GPT-Neo, window by index": (
        "GPTNeoForCausalLM",
        {"num_layers": 3, "num_heads": 4, "attention_types": [[["global", "local", "global"], 1]], "window_size": 256},
    ),
    "OPT, learned positions": ("OPTForCausalLM", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "BLOOM, ALiBi": ("BloomForCausalLM", {"n_layer": 3, "n_head": 4}),
    "Falcon": ("FalconForCausalLM", {"head_dim": None}),
    "Falcon, ALiBi": ("FalconForCausalLM", {"head_dim": None, "alibi": True}),
    "MPT, ALiBi": ("MptForCausalLM", {"d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 2048}),
    "Mamba, no attention": ("MambaForCausalLM", {"state_size": 4}),
    "RWKV, no attention": ("RwkvForCausalLM", {"attention_hidden_size": 32, "context_length": 2048}),
    "RecurrentGemma": ("RecurrentGemmaForCausalLM", {"attention_window_size": 6, "lru_width": 32}),
    "BART's decoder": (
        "BartForCausalLM", {"d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 48, "decoder_attention_heads": 4},
    ),
    "RoBERTa as a decoder": ("RobertaForCausalLM", {"is_decoder": True}),
}  # fmt: skip
"""Name -> class in transformers, and what of its configuration is special. A new family is one line."""


def model(family: str) -> Any:
    name, special = FAMILIES[family]
    kind = getattr(transformers, name)
    sizes = {**tiny_lm.SIZES, "num_hidden_layers": 3, "max_position_embeddings": 2048, **special}
    config = kind.config_class(**{key: size for key, size in sizes.items() if size is not None})
    torch.manual_seed(0)
    made = kind(config)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3)
    return made.float().eval().requires_grad_(False)


def situations(count: int = 12) -> list[Prompt]:
    """Prompts of different lengths, more tokens together than the window of any family above."""
    rng = np.random.default_rng(0)

    def words(number: int) -> tuple[int, ...]:
        return tuple(rng.integers(5, tiny_lm.SIZES["vocab_size"], number).tolist())

    return [Prompt(words(20 + 2 * n), tuple((*words(1 + k), 1) for k in range(4))) for n in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_full_pack_scores_as_one_option_at_a_time(family: str) -> None:
    made, asked = model(family), situations()
    together = scoring.reads_tries(made, PREFIX, asked[0])
    expected = [scoring.score_one_by_one(made, PREFIX, prompt) for prompt in asked]
    for got, want in zip(scoring.Scorer(made, PREFIX, together).score(asked), expected, strict=True):
        assert_allclose(got, want, atol=1e-3)
    assert np.ptp(expected[0]) > 0.1  # the options do differ
    assert scoring.is_causal(made, [*PREFIX, *asked[0].body])


def test_a_window_by_index_is_found_though_the_probe_is_shorter_than_it() -> None:
    made, asked = model("GPT-Neo, window by index"), situations()
    assert len(PREFIX) + len(asked[0].body) < 256 < sum(len(prompt.body) for prompt in asked)
    assert not scoring.reads_tries(made, PREFIX, asked[0])
    expected = [scoring.score_one_by_one(made, PREFIX, prompt) for prompt in asked]
    wrong = scoring.Scorer(made, PREFIX).score(asked)
    assert max(np.abs(one - other).max() for one, other in zip(wrong, expected, strict=True)) > 0.1


@pytest.mark.parametrize("family", ["Llama", "Mistral, window", "GPT-2", "Qwen3"])
def test_the_usual_families_are_scored_together(family: str) -> None:
    assert scoring.reads_tries(model(family), PREFIX, situations()[0])


def test_a_model_that_reads_in_both_directions_is_refused() -> None:
    sizes = {**tiny_lm.SIZES, "num_hidden_layers": 2}
    made = transformers.BertLMHeadModel(transformers.BertConfig(**sizes)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3)
    with pytest.raises(CoteachError, match="reads a text in both directions"):
        LocalTeacher(LoadedModel(made, tiny_lm.tokenizer(), "bert"), CPU)


@pytest.mark.parametrize("kind", ["t5", "bart", "mbart", "pegasus", "whisper"])
def test_an_encoder_with_a_decoder_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "is_encoder_decoder": True}))
    with pytest.raises(CoteachError, match="an encoder with a decoder: expected a causal LM") as error:
        load_model(f"hf:{tmp_path}", "cpu")
    assert "\n" not in str(error.value)


def saved(folder: Path, made: Any = None, **how: Any) -> Path:
    """Save a model and its tokenizer into `folder`."""
    (made or tiny_lm.model(dtype=torch.float32)).save_pretrained(folder, **how)
    tiny_lm.tokenizer().save_pretrained(folder)
    return folder


def test_a_model_in_several_files_is_the_same_model(tmp_path: Path) -> None:
    whole = LocalTeacher.from_spec(f"hf:{saved(tmp_path / 'whole')}", CPU)
    shards = LocalTeacher.from_spec(f"hf:{saved(tmp_path / 'shards', max_shard_size='20KB')}", CPU)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert_allclose(whole.advise(SITUATIONS), shards.advise(SITUATIONS))


def test_a_model_without_its_head_is_refused(tmp_path: Path) -> None:
    """transformers would take random numbers for it, with a warning."""
    made = tiny_lm.model(dtype=torch.float32)
    made.config.tie_word_embeddings = False
    saved(tmp_path, made.model)
    with pytest.raises(CoteachError, match=r"its files lack 1 of its tensors \(first 'lm_head.weight'\)"):
        load_model(f"hf:{tmp_path}", "cpu")


def with_adapter(folder: Path, base: Path) -> LocalTeacher:
    """Tune a teacher, and save its adapter into `folder`."""
    teacher = LocalTeacher.from_spec(f"hf:{base}", TeacherConfig(device="cpu", lora_learning_rate=0.01))
    teacher.tune([Lesson(SITUATIONS[0], np.array([0.98, 0.02]))], seed=0)
    teacher.save(folder)
    return teacher


@pytest.mark.slow
@pytest.mark.parametrize("place", ["beside the weights", "alone"])
def test_an_adapter_in_the_folder_is_part_of_the_model_and_stays_it(place: str, tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    folder = saved(tmp_path / "both") if place == "beside the weights" else tmp_path / "alone"
    tuned = with_adapter(folder, base)
    teacher = LocalTeacher.from_spec(f"hf:{folder}", CPU)
    scores = [teacher.explain(situation).score for situation in SITUATIONS]
    assert_allclose(scores, [tuned.explain(situation).score for situation in SITUATIONS], atol=1e-4)
    teacher.tune([Lesson(SITUATIONS[1], np.array([0.1, 0.9]))], seed=0)
    teacher.save(tmp_path / "second")
    again = LocalTeacher.from_spec(f"hf:{folder}", CPU)
    again.load(tmp_path / "second")
    assert_allclose(again.advise(SITUATIONS), teacher.advise(SITUATIONS), atol=1e-5)
    untuned = LocalTeacher.from_spec(f"hf:{folder}", CPU).advise(SITUATIONS)
    assert np.abs(np.array(again.advise(SITUATIONS)) - untuned).max() > 1e-3


@pytest.mark.slow
def test_an_adapter_whose_model_is_not_here_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with_adapter(tmp_path / "alone", saved(tmp_path / "base"))
    config = json.loads((tmp_path / "alone" / "adapter_config.json").read_text())
    (tmp_path / "alone" / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "someone/model"}))
    with pytest.raises(CoteachError, match="an adapter without its model: .*hf download someone/model.*coteach export"):
        load_model(f"hf:{tmp_path / 'alone'}", "cpu")


def test_an_adapter_that_does_not_fit_the_weights_beside_it_is_refused(tmp_path: Path) -> None:
    with_adapter(tmp_path / "both", saved(tmp_path / "base"))
    saved(tmp_path / "both", tiny_lm.model("GPT2", dtype=torch.float32))
    with pytest.raises(CoteachError, match="cannot merge the adapter") as error:
        load_model(f"hf:{tmp_path / 'both'}", "cpu")
    assert "\n" not in str(error.value)


def test_another_template_or_tokenizer_has_answers_of_its_own() -> None:
    """The answers of one prompt are never those of another, though the weights are the same."""
    keys = set()
    made = tiny_lm.model(dtype=torch.float32)
    ends = ["", "!", "{% if add_generation_prompt %}[assistant]{% endif %}", "{% if add_generation_prompt %}[bot]{% endif %}"]
    for end in ends:
        tokenizer = tiny_lm.tokenizer("{% for m in messages %}{{ m['content'] }}.\n{% endfor %}" + end)
        keys.add(LocalTeacher(LoadedModel(made, tokenizer, "tiny"), CPU).lm.key(SITUATIONS[0], tuned=False))
    assert len(keys) == len(ends)
    made.config.rope_parameters["rope_theta"] = 500.0
    keys.add(LocalTeacher(LoadedModel(made, tokenizer, "tiny"), CPU).lm.key(SITUATIONS[0], tuned=False))
    assert len(keys) == len(ends) + 1


def test_a_situation_longer_than_the_context_gets_uniform_advice_and_one_note() -> None:
    teacher = LocalTeacher(tiny_lm.loaded(), CPU)
    long = [Situation(f"{n} {'You see a door. ' * 60}", ("open", "explore")) for n in range(3)]
    with pytest.warns(Note, match="uniform: the model reads only 512 tokens") as notes:
        advice = teacher.advise([SITUATIONS[0], *long])
        teacher.advise(long)
    assert len(notes) == 1 and teacher.usage.queries == 1
    assert_allclose(advice[1:], 0.5)
    assert_allclose(advice[0], LocalTeacher(tiny_lm.loaded(), CPU).advise(SITUATIONS[:1])[0], atol=1e-6)
    report = teacher.tune([Lesson(long[0], np.array([0.9, 0.1])), Lesson(SITUATIONS[0], np.array([0.9, 0.1]))], seed=0)
    assert report.lessons == 1
    assert teacher.tune([Lesson(long[0], np.array([0.9, 0.1]))], seed=0).lessons == 0


def test_feedback_that_makes_a_situation_too_long_costs_only_its_advice() -> None:
    teacher = LocalTeacher(tiny_lm.loaded(), TeacherConfig(device="cpu", feedback_tokens=200))
    near = Situation("You see a door. " * 18, ("open", "explore"))
    assert teacher.lm.fits(near) and np.ptp(teacher.advise([near])[0]) > 0
    teacher.give_feedback(Feedback(evidence=("The red door leads to the goal, and the blue door never opened.",) * 2))
    with pytest.warns(Note, match="uniform"):
        assert_allclose(teacher.advise([near])[0], 0.5)


@pytest.mark.slow
def test_many_long_options_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    options = tuple("".join(rng.choice(list("abc "), 300)) for _ in range(40))
    teacher = LocalTeacher(tiny_lm.loaded(), CPU)
    advice = teacher.advise([Situation("A door.", options)])[0]
    sizes = []
    ancestors = scoring.ancestors
    monkeypatch.setattr(scoring, "ancestors", lambda parent: sizes.append(len(parent)) or ancestors(parent))
    asked = teacher.lm.prompt(Situation("A door.", options))
    scores = teacher.lm.scorer.score([asked])[0]
    assert_allclose(scores, scoring.score_one_by_one(teacher.lm.model, teacher.lm.prefix, asked), atol=1e-2)
    assert len(advice) == 40 and max(sizes) < len(teacher.lm.prefix) + token_budget.READ


def test_a_text_longer_than_any_pass_is_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_budget, "MOST", 60)
    made = tiny_lm.model(dtype=torch.float32)
    asked = situations()
    scores = scoring.Scorer(made, PREFIX).score(asked)
    for got, prompt in zip(scores, asked, strict=True):
        assert_allclose(got, scoring.score_one_by_one(made, PREFIX, prompt), atol=1e-3)


class Overflows(torch.nn.Module):
    """A layer of a model in half precision: it gives numbers that are not finite for one token."""

    def __init__(self, layer: torch.nn.Module, token: int) -> None:
        super().__init__()
        self.layer, self.token, self.weight = layer, token, layer.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states = self.layer(ids)
        return torch.where((ids == self.token)[..., None], torch.full_like(states, float("nan")), states)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_situation_without_finite_scores_does_not_spoil_the_others(dtype: torch.dtype) -> None:
    sound, spoiled = tiny_lm.loaded(dtype=dtype), tiny_lm.loaded(dtype=dtype)
    (letter,) = spoiled.tokenizer("Z")["input_ids"]
    spoiled.model.model.embed_tokens = Overflows(spoiled.model.model.embed_tokens, letter)
    asked = [*SITUATIONS, Situation("You see a Zebra.", ("open the door", "explore"))]
    teacher = LocalTeacher(spoiled, CPU)
    assert teacher.lm.packed
    with pytest.warns(Note, match="cannot be asked about 'You see a Zebra.'.*not finite"):
        advice = teacher.advise(asked)
    assert_allclose(advice[-1], 0.5)
    assert_allclose(advice[:-1], LocalTeacher(sound, CPU).advise(SITUATIONS), atol=1e-4 if dtype == torch.float32 else 0.05)
