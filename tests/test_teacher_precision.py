"""A teacher in half precision or 4 bits is the same teacher, a little blurred: asked, tuned and remembered apart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import tiny_lm
from coteach.config import TeacherConfig
from coteach.errors import CoteachError
from coteach.export import teacher as export
from coteach.grounding.base import Situation
from coteach.teacher.answer_cache import AnswerCache
from coteach.teacher.base import Lesson
from coteach.teacher.local import precision
from coteach.teacher.local.models import fingerprint
from coteach.teacher.local.teacher import LocalTeacher
from coteach.teacher.make import make_teacher

CPU, CARD = torch.device("cpu"), torch.device("cuda")
SITUATIONS = [
    Situation("You see a ball.", ("explore", "take the ball", "drop it")),
    Situation("You see a key.", ("explore", "take the key", "drop it", "wait")),
]
LESSONS = [Lesson(SITUATIONS[0], np.array([0.1, 0.8, 0.1])), Lesson(SITUATIONS[1], np.array([0.1, 0.1, 0.1, 0.7]))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose float32 weights are numbers that bfloat16 has too, and as wide as what bitsandbytes packs together."""
    path = tmp_path_factory.mktemp("tiny")
    tiny_lm.model("Llama", 0, torch.bfloat16, hidden_size=64, intermediate_size=128, head_dim=16).float().save_pretrained(path)
    tiny_lm.tokenizer().save_pretrained(path)
    return path


def teacher(folder: Path, kept: str, cache: AnswerCache | None = None) -> LocalTeacher:
    settings = {"lora_rank": 4, "lora_learning_rate": 2e-2, "tune_steps": 15, "anchor": 0.0, "device": "cpu"}
    made = make_teacher(f"hf:{folder}", TeacherConfig(precision=kept, **settings), cache)  # type: ignore[arg-type]
    assert isinstance(made, LocalTeacher)
    return made


def big() -> int:
    return 8_000_000_000


def test_a_processor_computes_in_float32_however_large_the_model() -> None:
    assert precision.chosen("auto", CPU, big) == "float32"


@pytest.mark.parametrize(("has_bfloat16", "half"), [(True, "bfloat16"), (False, "float16")])
def test_a_card_takes_large_models_in_the_half_precision_it_has(
    has_bfloat16: bool, half: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bfloat16)
    assert precision.chosen("auto", CARD, big) == half
    assert precision.chosen("auto", CARD, lambda: 135_000_000) == "float32"
    assert precision.chosen("float32", CARD, big) == "float32"


def test_4_bits_are_refused_on_a_processor_and_without_bitsandbytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CoteachError, match="expected a CUDA device, found cpu"):
        teacher(folder, "4bit")
    monkeypatch.setattr(precision, "has_4bit", lambda: False)
    with pytest.raises(CoteachError, match=r"pip install 'coteach\[bigger\]'"):
        precision.chosen("4bit", CARD, big)


@pytest.mark.parametrize("kept", ["bfloat16", "float16"])
def test_in_half_precision_it_says_nearly_the_same_and_is_tuned_through_float32_weights(folder: Path, kept: str) -> None:
    whole, half = teacher(folder, "float32"), teacher(folder, kept)
    assert half.lm.model.dtype == precision.DTYPES[kept] and half.lm.packed
    for one, other in zip(whole.advise(SITUATIONS), half.advise(SITUATIONS), strict=True):
        assert_allclose(one, other, atol=0.05)
    report = half.tune(LESSONS, seed=0)
    assert {weight.dtype for weight in half.lm.adapter.weights().values()} == {torch.float32}
    assert report.loss_after < 0.3 * report.loss_before


def test_half_precision_has_answers_of_its_own_and_float32_keeps_its_keys(folder: Path) -> None:
    cache = AnswerCache(None)
    whole, half = teacher(folder, "float32", cache), teacher(folder, "bfloat16", cache)
    assert fingerprint(whole.lm.model) == fingerprint(half.lm.model)
    whole.advise(SITUATIONS), half.advise(SITUATIONS)
    assert whole.usage.queries == half.usage.queries == len(SITUATIONS)
    key, other = whole.lm.key(SITUATIONS[0], tuned=True), half.lm.key(SITUATIONS[0], tuned=True)
    assert key != other
    assert_allclose(cache.get_many([key])[key], whole.explain(SITUATIONS[0]).score)


def test_in_4_bits_it_is_asked_and_tuned_but_not_exported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor, where bitsandbytes is only slow."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(precision, "require_4bit", lambda device: None)
    packed = teacher(folder, "4bit")
    assert {weight.dtype for weight in packed.lm.model.parameters()} == {torch.uint8, torch.float32} and packed.lm.packed
    report = packed.tune(LESSONS, seed=0)
    assert {weight.dtype for weight in packed.lm.adapter.weights().values()} == {torch.float32}
    assert report.loss_after < 0.5 * report.loss_before

    class Players:
        teacher = packed

    assert export.language_model(Players) is None  # type: ignore[arg-type]
    assert "quantised weights" in export.missing(Players)  # type: ignore[arg-type]
