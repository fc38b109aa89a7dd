"""Exports the student as files that need no code of coteach: weights (safetensors), their description (JSON), policy (ONNX).

The ONNX model maps features (N, F), uint8 for MiniGrid, to logits (N, A) float32, fixed habits included. The greedy student
takes the action with the largest logit. A student trained with hints gets none, as in its evaluation.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coteach.arms import ARMS
from coteach.config import Config
from coteach.errors import CoteachError
from coteach.runs.progress import percent
from coteach.version import __version__

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

    from coteach.grounding.base import Layout
    from coteach.method.players import Players
    from coteach.student.learner import Learner
    from coteach.student.network import ActorCritic

OPSET = 18
"""ONNX operator set: the oldest that PyTorch's exporter writes without a conversion."""


def missing(config: Config) -> str:
    """Say why a run has no student; empty if it has one. Raises CoteachError if a package for writing it is missing."""
    if not ARMS[config.arm].learn:
        return f"the arm {config.arm!r} trains no student"
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise CoteachError(f"the student's ONNX file needs the package {package}: pip install 'coteach[export]'")
    return ""


def write(players: Players, summary: dict[str, Any], folder: Path) -> str:
    """Write student.safetensors, student.json and student.onnx into the new `folder`; returns a one-line description."""
    import safetensors.torch

    folder.mkdir()
    learner = players.student_of(summary["task"]).learner
    network = _without_hints(players, learner)
    about = json.dumps(_description(players, learner.sizes, summary), indent=2)
    safetensors.torch.save_file(network.state_dict(), folder / "student.safetensors")
    (folder / "student.json").write_text(about + "\n", encoding="utf-8")
    (folder / "student.onnx").write_bytes(_policy(network, players.family.layout).SerializeToString())
    return f"success rate of the student alone on {summary['task']}: {percent(summary['success'])}"


def _without_hints(players: Players, learner: Learner) -> ActorCritic:
    """Return a copy of the student's network on the CPU that reads the features without hints."""
    from coteach.student.hints import remove_hints

    network = copy.deepcopy(learner.network).cpu()
    if players.config.guidance.hint:
        remove_hints(network, players.family.layout)
    return network.requires_grad_(False)


def _description(players: Players, sizes: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """Return what is needed to use the weights, and how good the student is."""
    from coteach.evaluation.episodes import SEED

    config, rungs = players.config, [summary] if players.config.together else summary["rungs"]
    return {
        "task": summary["task"],
        "actions": list(players.family.action_names),
        "feature_layout": players.family.features,
        **sizes,
        "feature_size": players.family.layout.size,
        "success": summary["success"],
        "return": summary["return"],
        "episodes": config.episodes,
        "first_seed": SEED,
        "trained_on": [rung["task"] for rung in (rungs[-1:] if config.fresh == "student" else rungs)],
        "steps": sum(rung["steps"] for rung in rungs),
        "arm": config.arm,
        "seed": config.seed,
        "coteach": __version__,
    }


def _policy(network: ActorCritic, layout: Layout) -> ModelProto:
    """Return the network's policy as an ONNX model for any number of rows."""
    import torch
    from torch import Tensor, nn

    class Policy(nn.Module):
        """The policy of the `ActorCritic` as a module of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, features: Tensor) -> Tensor:
            """Features (N, F) -> logits (N, A) float32."""
            return self.network.policy_of(features)

    example = torch.from_numpy(np.zeros((2, layout.size), layout.dtype))
    with _quiet():
        program = torch.onnx.export(
            Policy().eval(),
            (example,),
            input_names=["features"],
            output_names=["logits"],
            dynamic_shapes={"features": {0: "N"}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model: ModelProto = program.model_proto
    _strip(model.graph)
    return model


def _strip(graph: GraphProto) -> None:
    """Remove the exporter's notes, among them this machine's paths."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which reports missing packages that it does not need and PyTorch's own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
