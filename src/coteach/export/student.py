"""The student as files that need no code of ours: its weights as safetensors, what they mean as JSON, its policy as ONNX.

The ONNX model is the policy in plain products: features (N, F), of MiniGrid uint8 -> logits (N, A) float32, habits included. The
action with the largest logit is the greedy student's. One trained with hints gets none, as when it
is evaluated.
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
"""The oldest that PyTorch's exporter writes by itself."""


def missing(config: Config) -> str:
    """Why a run has no student; empty where it has one. CoteachError where a package for writing it is missing."""
    if not ARMS[config.arm].learn:
        return f"the arm {config.arm!r} trains no student"
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise CoteachError(f"the student's ONNX file needs the package {package}: pip install 'coteach[export]'")
    return ""


def write(players: Players, summary: dict[str, Any], folder: Path) -> str:
    """Write student.safetensors, student.json and student.onnx into the new `folder`; returns a line about them."""
    import safetensors.torch

    folder.mkdir()
    learner = players.student_of(summary["task"]).learner
    network = _alone(players, learner)
    about = json.dumps(_described(players, learner.sizes, summary), indent=2)
    safetensors.torch.save_file(network.state_dict(), folder / "student.safetensors")
    (folder / "student.json").write_text(about + "\n", encoding="utf-8")
    (folder / "student.onnx").write_bytes(_policy(network, players.family.layout).SerializeToString())
    return f"success alone {percent(summary['success'])} on {summary['task']}"


def _alone(players: Players, learner: Learner) -> ActorCritic:
    """The student's network over what its grounding shows it: one trained with hints is never given any."""
    from coteach.student.hints import forget_hints

    network = copy.deepcopy(learner.network).cpu()
    if players.config.guidance.hint:
        forget_hints(network, players.family.layout)
    return network.requires_grad_(False)


def _described(players: Players, sizes: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """What one has to know to use the weights, and how good they are."""
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
    """The network's policy as an ONNX model; the number of rows is free."""
    import torch
    from torch import Tensor, nn

    class Policy(nn.Module):
        """`ActorCritic`'s logits."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, features: Tensor) -> Tensor:
            """Logits (N, A) float32 of features (N, F)."""
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
    """Take out the exporter's notes, among them this machine's paths."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs what it does not need (torchvision) and warns of PyTorch's own affairs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
