"""Loads the causal LM that a spec names: `smollm2` (from a package), `gguf:<file>`, `hf:<folder or id>`.

Nothing is downloaded: an id must already be in the local Hugging Face cache. On a CPU weights are float32 unless `precision`
says otherwise, because half precision is several times slower there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coteach.errors import CoteachError, first_line
from coteach.runs.files import user_path
from coteach.runs.machine import torch_device, use_fast_matmul
from coteach.teacher.feedback import NOTHING, Feedback
from coteach.teacher.local import adapter as adapters
from coteach.teacher.local import embedded
from coteach.teacher.local import precision as precisions

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"

EXPORTED = "coteach.json"
"""File in an exported teacher's folder that says how to ask it."""

PROVENANCE = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache")
"""Entries of a model's configuration that do not change its answers."""


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM in evaluation mode and its tokenizer.

    base:      name of the model, which its adapter's files mention.
    bias:      of an exported teacher, the untuned model's score of each option.
    feedback:  of an exported teacher, the feedback in the prompts for which `bias` was computed.
    precision: number format of its weights (one of `config.PRECISIONS`, never auto).
    """

    model: Any
    tokenizer: Any
    base: str
    bias: dict[str, float] = field(default_factory=dict)
    feedback: Feedback = NOTHING
    precision: str = "float32"


def load_model(spec: str, device: str = "auto", precision: str = "auto") -> LoadedModel:
    """Load the model that `spec` names.

    device: auto (CUDA if there is a device), cpu or cuda; precision: see `precision.chosen`.
    Raises `CoteachError` if there is no such model, it cannot be read, or it needs code of its own.
    """
    if spec == "smollm2":
        return _load(str(embedded.converted(embedded.source())), SMOLLM2, device, precision)
    kind, _, name = spec.partition(":")
    if kind == "gguf" and name:
        source = user_path(name)
        return _load(str(embedded.converted(source)), source.name, device, precision)
    if kind == "hf" and name:
        return _load_folder(name, device, precision)
    raise CoteachError(f"teacher {spec!r} names no model: expected smollm2, hf:<id or folder> or gguf:<file>")


def _load_folder(name: str, device: str, precision: str) -> LoadedModel:
    """Load `hf:<name>`: a folder with a model, an adapter or both, or an id in the local cache."""
    folder = user_path(name)
    if not folder.is_dir():
        if name.startswith(("/", ".", "~")) or name.count("/") > 1:
            raise CoteachError(
                f"folder {name!r} does not exist; give hf:<folder of a model>, or hf:<id> of one in the local cache"
            )
        return _load(name, name, device, precision)
    base = adapters.base_of(folder) if (folder / adapters.CONFIG).is_file() else None
    if (folder / "config.json").is_file():
        loaded = _load(str(folder), name, device, precision)
    elif base is None:
        raise CoteachError(f"folder {name!r} holds no model: expected config.json and model.safetensors in it")
    else:
        try:
            loaded = load_model("smollm2" if base == SMOLLM2 else f"hf:{base}", device, precision)
        except CoteachError as error:
            raise CoteachError(
                f"folder {name!r} holds an adapter without its model: {error}; or give a folder that `coteach export` made"
            ) from error
    if base is None:
        return loaded
    return replace(loaded, model=adapters.merged(loaded.model, folder), base=name, feedback=Feedback.load(folder))


def _load(source: str, base: str, device: str, precision: str) -> LoadedModel:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    where = torch_device(device)
    use_fast_matmul()
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        _require_decoder(source, base)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        precision = precisions.chosen(precision, where, lambda: _parameters(source))
        how = precisions.loading(precision, where)
        model, info = AutoModelForCausalLM.from_pretrained(
            source, local_files_only=True, use_safetensors=True, output_loading_info=True, **how, **embedded.NO_ADAPTER
        )  # an adapter is merged later, by `adapters.merged`
        _require_weights(info["missing_keys"], base)
        exported = Path(source, EXPORTED)
        bias = json.loads(exported.read_text(encoding="utf-8"))["bias"] if exported.is_file() else {}
        feedback = Feedback.load(Path(source))
    except CoteachError:
        raise
    except Exception as error:  # a missing or damaged file can raise any error
        reason = first_line(error)
        way_out = "" if Path(source).is_dir() else f"; nothing is downloaded here, fetch it first: hf download {base}"
        raise CoteachError(f"cannot load the model {base!r}: {reason}{way_out}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    placed = model if "device_map" in how else model.to(where)
    return LoadedModel(placed.eval().requires_grad_(False), tokenizer, base, bias, feedback, precision)


def _parameters(source: str) -> int:
    """Count a model's parameters from its configuration, without reading its weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source, local_files_only=True)).num_parameters())


def _require_decoder(source: str, base: str) -> None:
    """Raise CoteachError if a model is no decoder, or needs code from its folder: transformers would ask whether to run it."""
    from transformers import PretrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    config, _ = PretrainedConfig.get_config_dict(source, local_files_only=True)
    own_model = "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING
    if own_model or "auto_map" in get_tokenizer_config(source, local_files_only=True):
        raise CoteachError(
            f"model {base!r} needs code from its own folder, and coteach runs none; choose a model that transformers supports"
        )
    if config.get("is_encoder_decoder"):
        raise CoteachError(f"model {base!r} is an encoder with a decoder: expected a causal LM, a decoder alone; choose another")


def _require_weights(missing: Iterable[str], base: str) -> None:
    """Raise CoteachError if the files lack weights: transformers would take random numbers instead."""
    if lacking := sorted(missing):
        raise CoteachError(
            f"cannot load the model {base!r}: its files lack {len(lacking)} of its tensors (first {lacking[0]!r}); "
            "give a folder that was saved from a causal LM, with its head"
        )


def context_length(model: Any) -> int:
    """Return the most tokens that the model can read; 2**31 if its configuration does not say."""
    config = model.config.get_text_config()
    sizes = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len", "seq_length", "n_positions"))
    return int(next((size for size in sizes if size), 2**31))


def fingerprint(model: Any, samples: int = 256) -> str:
    """Return a sha256 that differs between models.

    It is over the configuration, and every parameter's name, shape and `samples` evenly spaced values.
    """
    config = {name: value for name, value in model.config.to_diff_dict().items() if name not in PROVENANCE}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // samples)].float().cpu().numpy()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + np.ascontiguousarray(sample).tobytes())
    return digest.hexdigest()
