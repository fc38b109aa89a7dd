"""The student's dense first layer: numbers are normalised, and rows are encoded alike when acting, learning and loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from coteach.config import StudentConfig
from coteach.errors import CoteachError
from coteach.grounding.base import Layout
from coteach.student.batch import Batch
from coteach.student.dense import DenseFeatures, RunningScale
from coteach.student.learner import Learner
from coteach.student.network import ActorCritic, SetFeatures, read

NUMBERS = Layout(flags=2, numbers=3, centre=(0.0, 0.0, 0.0), spread=(1.0, 1.0, 1.0))
PICTURES = [Layout(pictures=((3, 40, 36),)), Layout(pictures=((1, 7, 5),)), Layout(flags=4, pictures=((2, 3, 3), (3, 36, 36)))]


def rows(layout: Layout, count: int, seed: int = 0) -> NDArray[np.generic]:
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 2, (count, layout.size)).astype(layout.dtype)
    made[:, : layout.numbers] = rng.normal(50.0, 9.0, (count, layout.numbers))
    if layout.pictures:
        made[:, layout.numbers + layout.flags :] *= 255
    return made


def batch(features: NDArray[np.generic], actions: NDArray[np.int64], advantages: NDArray[np.float32]) -> Batch:
    count, nothing = len(features), np.zeros(len(features), np.float32)
    guide = np.full((count, 2), 0.5, np.float32)
    return Batch(features, actions, np.full(count, np.log(0.5), np.float32), nothing, advantages, advantages, guide, nothing)


def test_the_running_scale_is_the_mean_and_deviation_of_all_that_was_seen() -> None:
    scale = RunningScale(NUMBERS, 10.0)
    parts = [np.random.default_rng(i).normal(5.0 * i, 1.0 + i, (40 + i, 3)) for i in range(4)]
    for part in parts:
        scale.add(torch.from_numpy(part))
    everything = np.concatenate(parts)
    assert scale.mean.numpy() == pytest.approx(everything.mean(axis=0), rel=0.02)
    assert scale.variance.numpy() == pytest.approx(everything.var(axis=0), rel=0.05)
    normalised = scale(torch.from_numpy(everything)).numpy()
    assert normalised.mean(axis=0) == pytest.approx(0.0, abs=0.1) and normalised.std(axis=0) == pytest.approx(1.0, abs=0.1)
    assert scale(torch.full((1, 3), 1e9)).tolist() == [[10.0] * 3], "outliers are clipped"


@pytest.mark.parametrize("layout", [NUMBERS, *PICTURES], ids=str)
def test_every_layout_gives_logits_values_and_gradients(layout: Layout) -> None:
    network = ActorCritic(layout, 4, StudentConfig(hidden=16), torch.Generator().manual_seed(0))
    features = rows(layout, 6)
    logits, values = network(read(layout, features[:2], features[2:]))
    assert logits.shape == (6, 4) and values.shape == (6,)
    apart = [network(read(layout, features[i : i + 1]))[0] for i in range(6)]
    assert torch.allclose(torch.cat(apart), logits, atol=1e-5), "rows do not see each other"
    torch.autograd.backward(logits.sum() + values.sum())
    assert all(bool(p.grad is not None and torch.isfinite(p.grad).all()) for p in network.parameters())


def test_flags_alone_are_read_as_sets_and_other_layouts_as_arrays() -> None:
    assert isinstance(read(Layout(flags=3), np.ones((2, 3), np.uint8)), SetFeatures)
    dense = read(NUMBERS, rows(NUMBERS, 5))
    assert isinstance(dense, DenseFeatures) and len(dense.rows(np.array([4, 0, 0]))) == 3


def test_the_student_learns_from_large_numbers() -> None:
    student = Learner(StudentConfig(hidden=32, device="cpu"), NUMBERS, 2, 0)
    rng = np.random.default_rng(0)
    for round in range(30):
        features = rows(NUMBERS, 256, round)
        actions = student.act(features)[0]
        right = (features[:, 1] > 50.0) == (actions == 1)
        student.update(batch(features, actions, np.where(right, 1.0, -1.0).astype(np.float32)))
    features = rows(NUMBERS, 500, int(rng.integers(1000, 2000)))
    assert ((features[:, 1] > 50.0) == (student.greedy(features) == 1)).mean() > 0.95


def test_what_is_saved_is_loaded_with_its_scale_and_another_layout_is_refused(tmp_path: Path) -> None:
    student, other = (Learner(StudentConfig(hidden=16, device="cpu"), NUMBERS, 2, seed) for seed in (0, 1))
    features = rows(NUMBERS, 64)
    student.update(batch(features, student.act(features)[0], np.ones(64, np.float32)))
    student.save(tmp_path)
    other.load(tmp_path)
    assert np.array_equal(student.probabilities(features), other.probabilities(features))
    with pytest.raises(CoteachError, match="expected {'feature_size': 5, 'num_actions': 2, 'hidden': 16}"):
        Learner(StudentConfig(hidden=16, device="cpu"), Layout(flags=5), 2, 0).load(tmp_path)
