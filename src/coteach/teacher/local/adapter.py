"""The teacher's LoRA adapter: made when first needed, switched off for untuned answers, kept in PEFT's format.

What is learned is small and apart from the model: `adapter_config.json` and `adapter_model.safetensors` can be loaded by
anything that reads PEFT. Upper layers only: the gradient then ends half-way down, and a step costs less.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from coteach.config import TeacherConfig
from coteach.errors import CoteachError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MORE_THAN_LORA = ("auto_mapping", "megatron_config", "modules_to_save", "layer_replication", "exclude_modules")
"""Fields of an adapter's configuration that would do something else than put LoRA layers into the model."""


class Adapter:
    """LoRA layers inside `model`. Before `create` or `load` there are none, and the model is the untuned one."""

    def __init__(self, model: Any, settings: TeacherConfig, base: str) -> None:
        self.model = model
        self.settings = settings
        self.base = base
        self._peft: Any = None

    @property
    def exists(self) -> bool:
        """Whether there is anything that could have been learned."""
        return self._peft is not None

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """The LoRA weights by name; the model's own are frozen."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def fingerprint(self) -> str:
        """Sha256 of the LoRA weights; empty for the untuned model."""
        if not self.exists:
            return ""
        digest = hashlib.sha256()
        for name, weight in sorted(self.weights().items()):
            digest.update(name.encode() + weight.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def off(self) -> AbstractContextManager[None]:
        """Within this context the model answers as the untuned one."""
        context: AbstractContextManager[None] = self._peft.disable_adapter() if self.exists else nullcontext()
        return context

    def create(self, seed: int) -> None:
        """Put new LoRA layers into the model: they change nothing until they are trained."""
        with _quietly():
            import peft

        config = peft.LoraConfig(
            r=self.settings.lora_rank,
            lora_alpha=round(self.settings.lora_scale * self.settings.lora_rank),
            lora_dropout=0.0,
            target_modules=_upper_projections(self.model, self.settings.lora_layers),
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(), _quietly():
            torch.manual_seed(seed)
            self._peft = peft.get_peft_model(self.model, config)
        self._peft.eval()
        self._peft.peft_config["default"].base_model_name_or_path = self.base

    def remove(self) -> None:
        """Take the LoRA layers out: the model is the untuned one again."""
        if self.exists:
            self._peft.unload()
            self._peft = None
            self.model.requires_grad_(False)

    def merge(self) -> Any:
        """The model with what was learned folded into its own weights, for good: it is then the untuned one no more."""
        if self.exists:
            self.model = self._peft.merge_and_unload()
            self._peft = None
        return self.model

    def save(self, folder: Path) -> None:
        """Write the adapter into `folder`, each file in one step; nothing where nothing was learned."""
        if not self.exists:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".adapter.", dir=folder) as draft:
            self._peft.save_pretrained(draft, safe_serialization=True, save_embedding_layers=False)
            for name in (WEIGHTS, CONFIG):
                os.replace(Path(draft) / name, folder / name)

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote; raises `CoteachError` where it is missing, damaged or made for another model."""
        with _quietly():
            import peft

        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise CoteachError(
                    f"no adapter in {str(folder)!r}: {name} is missing; give the folder that a run's teacher was saved in"
                )
        self._require_plain(folder)
        self.remove()
        try:
            with _quietly():
                self._peft = peft.PeftModel.from_pretrained(self.model, str(folder), is_trainable=True)
        except Exception as error:  # damage shows itself anywhere: json, safetensors, shapes
            reason = " ".join((str(error).splitlines() or [type(error).__name__])[:2])
            raise CoteachError(
                f"cannot load the adapter in {str(folder)!r} into {self.base!r}: {reason}; was it made for another model?"
            ) from error
        self._peft.eval()

    def _require_plain(self, folder: Path) -> None:
        """An adapter may ask for more than LoRA layers (modules to import, patterns to search): it is refused then."""
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            plain = config["peft_type"] == "LORA" and isinstance(config["target_modules"], list)
            more = [name for name in MORE_THAN_LORA if config.get(name)]
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CoteachError(f"cannot read {CONFIG} in {str(folder)!r}: {error}; expected a LoRA adapter of PEFT") from error
        if not plain or more:
            reason = f"it sets {', '.join(more)}" if more else "it is no LoRA adapter with a list of layers"
            raise CoteachError(f"adapter in {str(folder)!r}: {reason}; expected plain LoRA layers, as a run's teacher has them")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what no user could mend: PEFT uses names that will be dropped, and imports bitsandbytes, which misses a kernel."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _upper_projections(model: Any, share: float) -> list[str]:
    """Names of the linear layers (attention and MLP) in the upper `share` of the model's layers."""
    layers = int(model.config.get_text_config().num_hidden_layers)
    first = layers - max(1, round(layers * share))
    head = model.get_output_embeddings()
    names = []
    for name, module in model.named_modules():
        numbers = [int(part) for part in name.split(".") if part.isdigit()]
        if _is_linear(module) and module is not head and numbers and numbers[0] >= first:
            names.append(name)
    return names


def _is_linear(module: torch.nn.Module) -> bool:
    """Linear layers, and the transposed ones of GPT-2's family."""
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
