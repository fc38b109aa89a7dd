"""Tiny random-weight language models and a character tokenizer, made in memory: what the teacher's tests ask."""

import string
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from coteach.teacher.local.models import LoadedModel

CHARACTERS = string.ascii_letters + string.digits + " .,:;'!?\n"
SIZES = {
    "vocab_size": len(CHARACTERS) + 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {"tie_word_embeddings": True},
    "Mistral": {"sliding_window": 6},
    "Gemma2": {"sliding_window": 5, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    "Qwen2": {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 2},
    "Granite": {"logits_scaling": 5.0},
    "GPT2": {},
}


def model(kind: str = "Llama", seed: int = 0, dtype: torch.dtype = torch.float64, **sizes: int) -> Any:
    """A random-weight causal LM; weights large enough that what is attended to shows in the scores."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **KINDS.get(kind, {}), **sizes})
    lm = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3)
    return lm.to(dtype).eval().requires_grad_(False)


def tokenizer(chat: str | None = None) -> Any:
    """One token for each character."""
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2} | {character: index + 3 for index, character in enumerate(CHARACTERS)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    plain.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    fast.chat_template = chat
    return fast


def loaded(kind: str = "Llama", seed: int = 0, dtype: torch.dtype = torch.float32) -> LoadedModel:
    return LoadedModel(model(kind, seed, dtype), tokenizer(), "tiny")
