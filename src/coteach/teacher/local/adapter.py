"""The teacher's LoRA adapter: created at the first tuning, switched off for untuned answers, saved in PEFT's format.

The learned weights are few and separate from the model. `adapter_config.json` and `adapter_model.safetensors` can be loaded by
any program that reads PEFT. Only the upper layers get an adapter, so the backward pass ends below them and costs less.
Source: Hu et al. 2021, LoRA (arXiv 2106.09685).
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
from coteach.errors import CoteachError, first_line

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
CODE = ("auto_mapping", "megatron_config")
"""Fields of an adapter's configuration that name modules to import."""

MORE_THAN_LORA = (*CODE, "modules_to_save", "layer_replication", "exclude_modules")
"""Fields of an adapter's configuration that would do more than put LoRA layers into the model."""


class Adapter:
    """LoRA layers inside `model`. Before `create` or `load` there are none."""

    def __init__(self, model: Any, settings: TeacherConfig, base: str) -> None:
        self.model = model
        self.settings = settings
        self.base = base
        self._peft: Any = None

    @property
    def exists(self) -> bool:
        """Whether the model has LoRA layers."""
        return self._peft is not None

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """Return the LoRA weights by name; all other weights are frozen."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def fingerprint(self) -> str:
        """Return the sha256 of the LoRA weights; empty without LoRA layers."""
        if not self.exists:
            return ""
        digest = hashlib.sha256()
        for name, weight in sorted(self.weights().items()):
            digest.update(name.encode() + weight.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def off(self) -> AbstractContextManager[None]:
        """Return a context in which the model answers as if it were untuned."""
        context: AbstractContextManager[None] = self._peft.disable_adapter() if self.exists else nullcontext()
        return context

    def create(self, seed: int) -> None:
        """Put new LoRA layers into the model; they do not change its answers until they are trained."""
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
        """Remove the LoRA layers: the model is untuned again."""
        if self.exists:
            self._peft.unload()
            self._peft = None
            self.model.requires_grad_(False)

    def merge(self) -> Any:
        """Merge the LoRA layers into the model's own weights, for good, and return the model."""
        if self.exists:
            self.model = self._peft.merge_and_unload()
            self._peft = None
        return self.model

    def save(self, folder: Path) -> None:
        """Write the adapter into `folder`, each file in one step; nothing without LoRA layers."""
        if not self.exists:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".adapter.", dir=folder) as draft:
            self._peft.save_pretrained(draft, safe_serialization=True, save_embedding_layers=False)
            for name in (WEIGHTS, CONFIG):
                os.replace(Path(draft) / name, folder / name)

    def load(self, folder: Path) -> None:
        """Load what `save` wrote. Raises `CoteachError` if it is missing, damaged or made for another model."""
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
        except Exception as error:  # a damaged file can raise any error
            reason = " ".join((str(error).splitlines() or [type(error).__name__])[:2])
            raise CoteachError(
                f"cannot load the adapter in {str(folder)!r} into {self.base!r}: {reason}; was it made for another model?"
            ) from error
        self._peft.eval()

    def _require_plain(self, folder: Path) -> None:
        """Raise `CoteachError` if the adapter asks for more than LoRA layers, such as modules to import or patterns to search."""
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            plain = config["peft_type"] == "LORA" and isinstance(config["target_modules"], list)
            more = [name for name in MORE_THAN_LORA if config.get(name)]
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CoteachError(f"cannot read {CONFIG} in {str(folder)!r}: {error}; expected a LoRA adapter of PEFT") from error
        if not plain or more:
            reason = f"it sets {', '.join(more)}" if more else "it is not a LoRA adapter with a list of layers"
            raise CoteachError(f"adapter in {str(folder)!r}: {reason}; expected plain LoRA layers, as a run's teacher has them")


def base_of(folder: Path) -> str:
    """Return the name of the model that the adapter in `folder` was made for. Raises `CoteachError` if it cannot be merged."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        base, code = str(config["base_model_name_or_path"]), [name for name in CODE if config.get(name)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CoteachError(f"cannot read {CONFIG} in {str(folder)!r}: {error}; expected an adapter of PEFT") from error
    if code or not (folder / WEIGHTS).is_file():
        reason = f"it sets {', '.join(code)}" if code else f"{WEIGHTS} is missing"
        raise CoteachError(f"adapter in {str(folder)!r}: {reason}; merge it into its model with PEFT, and give that folder")
    return base


def merged(model: Any, folder: Path) -> Any:
    """Return `model` with the adapter in `folder` merged into its weights. Raises `CoteachError` if it does not fit."""
    with _quietly():
        import peft

    try:
        with _quietly():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            result = peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except Exception as error:  # a damaged file can raise any error
        reason = first_line(error)
        raise CoteachError(
            f"cannot merge the adapter in {str(folder)!r} into its model: {reason}; merge it with PEFT, and give that folder"
        ) from error
    return result.eval().requires_grad_(False)


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence what no user can mend: deprecated names in PEFT, and a missing kernel in bitsandbytes, which PEFT imports."""
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
    """Return the names of the linear layers (attention and MLP) in the upper `share` of the model's layers."""
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
    """Whether it is a linear layer, or the transposed one of GPT-2's family."""
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
