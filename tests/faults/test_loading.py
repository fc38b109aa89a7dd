"""Files that were made to do harm: nothing in them is run, and what is wrong with them is said in one line."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import coteach
import tiny_lm
from coteach import config
from coteach.commands.common import load_players
from coteach.config import TeacherConfig
from coteach.errors import CoteachError
from coteach.runs import tensors
from coteach.runs.checkpoints import intact, seal
from coteach.runs.run_folder import Run
from coteach.teacher.local import embedded, models
from coteach.teacher.local.adapter import Adapter
from whole_runs import DOOR_KEY, play

pytestmark = pytest.mark.slow

HARM: list[str] = []


def explode() -> None:
    HARM.append("ran")


class Bomb:
    """Unpickled, it leaves a trace."""

    def __reduce__(self) -> Any:
        return explode, ()


def bombs() -> dict[str, bytes]:
    """A pickle, PyTorch's zip of a pickle, a plain zip, safetensors headers that lie, and JSON nested too deep."""
    torch_file, zip_file = io.BytesIO(), io.BytesIO()
    torch.save(Bomb(), torch_file)
    with zipfile.ZipFile(zip_file, "w") as archive:
        archive.writestr("../../escaped", "out of the folder")
    return {
        "pickle": pickle.dumps(Bomb()),
        "torch": torch_file.getvalue(),
        "zip": zip_file.getvalue(),
        "huge header": (2**62).to_bytes(8, "little") + b"{}",
        "offsets": (60).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,99999999]}}',
        "deep": (200_000).to_bytes(8, "little") + b"[" * 200_000,
        "empty": b"",
    }


@pytest.fixture(autouse=True)
def harmless() -> Any:
    HARM.clear()
    yield
    assert not HARM


def test_the_bomb_is_live() -> None:
    pickle.loads(bombs()["pickle"])
    assert HARM
    HARM.clear()


@pytest.mark.parametrize("kind", bombs())
def test_no_weights_file_is_anything_but_safetensors(kind: str, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(bombs()[kind])
    with pytest.raises(CoteachError, match="expected a safetensors file"):
        tensors.read(tmp_path / "weights.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return play(tmp_path_factory.mktemp("finished") / "run", f"tasks={DOOR_KEY}", "arm=no-llm", "steps=300")


HOSTILE_JSON = ("[" * 100_000, "null", "{}", '{"rung": {"index": "../.."}}', '{"situations": [[1]]}', "\xff\xfe")
FILES = ("progress.json", "knowledge.json", "student/student.json", "words/generator.json")


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_whose_json_is_not_ours_is_refused_in_one_line(name: str, finished: Path, tmp_path: Path) -> None:
    for text in HOSTILE_JSON:
        run = Path(shutil.copytree(finished, tmp_path / f"run{abs(hash(text))}"))
        latest = Run.open(run).latest_checkpoint()
        assert latest is not None
        (latest / name).write_text(text, encoding="latin-1")
        seal(latest)  # its sums are right: it was made so
        assert intact(latest)
        with pytest.raises(CoteachError) as refused:
            play(run) if name == "progress.json" else load_players(Run.open(run))
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 2000


@pytest.mark.parametrize(
    "name",
    [
        "student/student.safetensors",
        "student/returns.safetensors",
        "words/word_values.safetensors",
        "plans.safetensors",
        "advice.safetensors",
    ],
)
def test_nor_are_its_weights_taken_for_others(name: str, finished: Path, tmp_path: Path) -> None:
    for number, content in enumerate([*bombs().values(), safetensors.torch.save({"network.policy.bias": torch.zeros(3)})]):
        run = Path(shutil.copytree(finished, tmp_path / str(number)))
        latest = Run.open(run).latest_checkpoint()
        assert latest is not None
        (latest / name).write_bytes(content)
        seal(latest)
        with pytest.raises(CoteachError):
            load_players(Run.open(run))


@pytest.mark.parametrize("manifest", ["[" * 100_000, "null", '{"files": 3}', '{"files": {}, "format": "x"}', ""])
def test_a_manifest_that_is_none_makes_a_damaged_checkpoint(manifest: str, finished: Path, tmp_path: Path) -> None:
    run = Run.open(Path(shutil.copytree(finished, tmp_path / "run")))
    checkpoints = sorted((run.folder / "checkpoints").glob("step-*"))
    for path in checkpoints:
        (path / "manifest.json").write_text(manifest)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(CoteachError, match="no whole checkpoint left"):
        run.latest_checkpoint()


def test_the_best_checkpoint_is_looked_for_among_the_checkpoints_only(finished: Path, tmp_path: Path) -> None:
    run = Run.open(Path(shutil.copytree(finished, tmp_path / "run")))
    (run.folder / "checkpoints" / "best.json").write_text(json.dumps({"checkpoint": "../../../etc"}))
    assert run.best_checkpoint() == run.latest_checkpoint()


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 100_000, 'tasks = [\'__import__("os").system("true")\']', "seed = 1e999", "\x00", "arm = {a = 1}"]
)
def test_a_configuration_is_data(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(CoteachError):
        loaded = config.load(tmp_path / "config.toml")
        from coteach.envs import tasks

        tasks.check(loaded.tasks[0])


def test_an_adapter_is_lora_layers_and_nothing_else(tmp_path: Path) -> None:
    adapter = Adapter(tiny_lm.model(), TeacherConfig(lora_rank=2), "tiny")
    adapter.create(0)
    adapter.save(tmp_path / "good")
    good = json.loads((tmp_path / "good" / "adapter_config.json").read_text())
    changes: list[dict[str, Any]] = [
        {"megatron_config": {"x": 1}, "megatron_core": "antigravity"},
        {"auto_mapping": {"base_model_class": "system", "parent_library": "os"}},
        {"target_modules": "(a+)+$"},
        {"peft_type": "PROMPT_TUNING"},
        {"modules_to_save": ["lm_head"]},
    ]
    for number, change in enumerate(changes):
        folder = Path(shutil.copytree(tmp_path / "good", tmp_path / str(number)))
        (folder / "adapter_config.json").write_text(json.dumps(good | change))
        with pytest.raises(CoteachError, match="expected plain LoRA layers"):
            Adapter(tiny_lm.model(), TeacherConfig(lora_rank=2), "tiny").load(folder)
    for kind, content in bombs().items():
        (tmp_path / "good" / "adapter_model.safetensors").write_bytes(content)
        with pytest.raises(CoteachError, match="cannot load the adapter"):
            Adapter(tiny_lm.model(), TeacherConfig(lora_rank=2), "tiny").load(tmp_path / "good")
        (tmp_path / "good" / "adapter_model.bin").write_bytes(bombs()["pickle"] + kind.encode())


def test_a_models_own_code_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_lm.model(dtype=torch.float32).save_pretrained(folder)
    tiny_lm.tokenizer().save_pretrained(folder)
    assert models.load_model(f"hf:{folder}", "cpu").model is not None
    (folder / "own.py").write_text("raise SystemExit('ran')")
    plain = json.loads((folder / "config.json").read_text())
    own = plain | {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(own))
    with pytest.raises(CoteachError, match="needs code from its own folder, and coteach runs none"):
        models.load_model(f"hf:{folder}", "cpu")
    (folder / "config.json").write_text(json.dumps(plain))
    (folder / "model.safetensors").unlink()
    torch.save({"model": Bomb()}, folder / "pytorch_model.bin")
    with pytest.raises(CoteachError, match="cannot load the model"):
        models.load_model(f"hf:{folder}", "cpu")


def test_a_gguf_file_that_lies_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTEACH_CACHE", str(tmp_path / "cache"))
    head = b"GGUF" + (3).to_bytes(4, "little")
    for number, rest in enumerate(
        [b"", b"\xff" * 16, (2**40).to_bytes(8, "little") + (1).to_bytes(8, "little"), bombs()["pickle"], bombs()["torch"]]
    ):
        file = tmp_path / f"{number}.gguf"
        file.write_bytes(head + rest)
        with pytest.raises(CoteachError, match="is the file whole"):
            embedded.converted(file)
    assert not list((tmp_path / "cache" / "models").iterdir()), "nothing half converted is left"


def test_nothing_in_the_source_can_run_what_a_file_says() -> None:
    """Calls and imports by name: PyTorch's own loader is one of them."""
    forbidden = re.compile(
        r"\bpickle\b|\bmarshal\b|\bshelve\b|(?<![.\w])(?:eval|exec)\(|trust_remote_code|(?<!safetensors\.)torch\.load\(|allow_pickle|shell=True"
    )
    sources = sorted(Path(coteach.__file__).parent.rglob("*.py"))
    assert len(sources) > 50
    guilty = [
        f"{path.name}:{n}"
        for path in sources
        for n, line in enumerate(path.read_text().splitlines(), 1)
        if forbidden.search(line)
    ]
    assert guilty == []
