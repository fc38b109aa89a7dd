"""What is exported is what was trained: the same advice from transformers, the same actions from ONNX, nothing by halves."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from huggingface_hub import ModelCard

import tiny_lm
from coteach import export
from coteach.commands import cli
from coteach.commands.common import load_players
from coteach.config import Config, StudentConfig
from coteach.errors import CoteachError, RunFailed
from coteach.evaluation.episodes import SEED
from coteach.export import card, student
from coteach.grounding.base import Layout, Situation
from coteach.method.examiner import Examiner
from coteach.method.players import Players
from coteach.runs.run_folder import Run
from coteach.student.learner import Learner
from coteach.student.network import ActorCritic, SetFeatures, read
from coteach.teacher.make import make_teacher

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TASK = "BabyAI-GoToRedBallNoDists-v0"
SMALL = ["--task", TASK, "--envs", "8", "--threads", "1", "episodes=2", "evaluation.levels=10", "collect.horizon=32"]
TUNING = ["teacher.tune_every=2", "teacher.tune_steps=2", "teacher.tune_situations=2", "teacher.lora_learning_rate=0.05"]


@pytest.fixture(scope="module", autouse=True)
def lm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a tiny language model; the cache is beside it."""
    folder = tmp_path_factory.mktemp("lm")
    tiny_lm.model(dtype=torch.float32).save_pretrained(folder / "tiny")
    tiny_lm.tokenizer().save_pretrained(folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COTEACH_CACHE", str(folder / "cache"))
        yield folder / "tiny"


@pytest.fixture(scope="module")
def run(lm: Path) -> Run:
    """A run of `mutual`, its student half-trained and its LLM tuned."""
    folder = lm.parent / "run"
    words = ["train", *SMALL, *TUNING, "--steps", "1500", "--teacher", f"hf:{lm}", "--out", str(folder)]
    assert cli.main(words) == 0
    return Run.open(folder)


@pytest.fixture(scope="module")
def players(run: Run) -> Players:
    """Both as they were trained."""
    return load_players(run)


@pytest.fixture(scope="module")
def exported(run: Run) -> Path:
    export.export(run, load_players(run), run.folder / "exported")
    return run.folder / "exported"


def learner(players: Players) -> Learner:
    return players.students[0].learner


def summary(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / "summary.json").read_text())
    return found


def situations(players: Players) -> list[Situation]:
    return [situation for situation in players.situations if len(situation.options) > 1]


def onnx_logits(folder: Path, features: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / "student" / "student.onnx")
    logits: np.ndarray = session.run(["logits"], {"features": features})[0]
    return logits


def test_plain_transformers_gives_the_tuned_teachers_advice_as_the_card_says(exported: Path, players: Players) -> None:
    text = (exported / "teacher" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None and "coteach import" not in code[1]
    said: dict[str, Any] = {}
    exec(code[1].replace('folder = "."', f"folder = {str(exported / 'teacher')!r}"), said)
    asked = situations(players)
    tuned, untuned = players.teacher.advise(asked), players.teacher.advise_untuned(asked)
    assert len(asked) > 2 and max(np.abs(a - b).max() for a, b in zip(tuned, untuned, strict=True)) > 0.01
    for situation, advice in zip(asked, tuned, strict=True):
        scores = players.teacher.explain(situation).score  # type: ignore[attr-defined]
        assert [said["score"](situation.text, option) for option in situation.options] == pytest.approx(scores, abs=1e-4)
        assert said["advise"](situation.text, situation.options).numpy() == pytest.approx(advice, abs=1e-4)


def test_another_run_takes_the_exported_teacher_with_its_calibration(exported: Path, players: Players) -> None:
    again = make_teacher(f"hf:{exported / 'teacher'}", players.config.teacher)
    for before, now in zip(players.teacher.advise(situations(players)), again.advise(situations(players)), strict=True):
        assert now == pytest.approx(before, abs=1e-4)


def test_the_model_card_says_what_it_is_and_names_no_place_on_this_machine(exported: Path, run: Run, lm: Path) -> None:
    found = ModelCard.load(exported / "teacher" / "README.md")
    assert (found.data.license, found.data.license_name, found.data.base_model) == ("other", "see-base-model", None)
    (result,) = found.data.eval_results
    assert (result.dataset_name, result.metric_value) == (TASK, summary(run)["teacher_success_after"])
    assert f"tuned on {TASK}" in found.text and 'spec = "hf:tiny"' in found.text
    assert str(lm.parent) not in found.content


def test_the_embedded_model_is_named_as_on_the_hub_with_its_licence() -> None:
    origin = card.Origin("HuggingFaceTB/SmolLM2-135M-Instruct", True, "apache-2.0", (TASK,), 3)
    rung = {"task": TASK, **{f"teacher_{what}_{when}": 0.5 for what in ("success", "return") for when in ("before", "after")}}
    made = card.model_card(origin, Config(), rung | {"rungs": [rung]})
    text, found = str(made), made.data
    assert (found.license, found.base_model, found.library_name) == ("apache-2.0", origin.base, "transformers")
    assert "3 situations" in text and f"| {TASK} | yes | 50 % | 50 % | 0.500 | 0.500 |" in text


def test_an_untuned_teacher_is_the_base_model_and_an_arm_without_a_student_has_none(lm: Path, tmp_path: Path) -> None:
    words = ["train", *SMALL, "--arm", "llm-only", "--steps", "64", "--teacher", f"hf:{lm}", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    run = Run.open(tmp_path / "run")
    what = export.export(run, load_players(run), tmp_path / "out")
    assert what.student == export.Part(None, "the arm 'llm-only' trains no student")
    assert "never tuned" in what.teacher.says and "never tuned" in (tmp_path / "out/teacher/README.md").read_text()
    base, same = (safetensors.torch.load_file(folder / "model.safetensors") for folder in (lm, tmp_path / "out" / "teacher"))
    assert base.keys() == same.keys() and all(torch.equal(base[name], same[name]) for name in base)


def test_the_tuned_teachers_weights_are_others_under_the_same_names(exported: Path, lm: Path) -> None:
    base, tuned = (safetensors.torch.load_file(folder / "model.safetensors") for folder in (lm, exported / "teacher"))
    moved = [name for name in base if not torch.equal(base[name], tuned[name])]
    assert base.keys() == tuned.keys() and moved and all("layers" in name for name in moved)


def test_readers_of_older_configurations_find_the_rotary_base(exported: Path) -> None:
    config = json.loads((exported / "teacher" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] > 0


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_onnx_acts_as_the_student_does(exported: Path, players: Players, rows: int) -> None:
    size = learner(players).sizes["feature_size"]
    features = (np.random.default_rng(rows).random((rows, size)) < 0.1).astype(np.uint8)
    expected = learner(players).network(SetFeatures.of(features))[0].detach().numpy()
    logits = onnx_logits(exported, features)
    assert logits.shape == (rows, learner(players).sizes["num_actions"]) and logits.dtype == np.float32
    assert np.abs(logits - expected).max() < 1e-4
    assert (logits.argmax(axis=1) == learner(players).greedy(features)).all()


def test_habits_are_in_the_onnx_model(exported: Path, players: Players) -> None:
    features = np.zeros((2, learner(players).sizes["feature_size"]), dtype=np.uint8)
    habits = learner(players).network.get_buffer("habits").numpy()
    (feature, *_), (action, *_) = np.nonzero(habits)
    config = learner(players).config
    network = ActorCritic(Layout(len(habits)), habits.shape[1], config, habits=np.zeros_like(habits))
    network.load_state_dict(learner(players).network.state_dict() | {"habits": torch.zeros(habits.shape)})
    features[1, feature] = 1
    without = network(SetFeatures.of(features))[0].detach().numpy()
    assert (onnx_logits(exported, features) - without)[:, action] == pytest.approx([0.0, habits[feature, action]], abs=1e-4)


def test_the_onnx_file_is_sound_and_tells_nothing_of_this_machine(exported: Path) -> None:
    path = exported / "student" / "student.onnx"
    onnx.checker.check_model(path, full_check=True)
    assert all(word not in path.read_bytes() for word in (b"/coteach", b".py", b"stack_trace"))


def test_the_safetensors_and_json_make_the_student(exported: Path, run: Run, players: Players) -> None:
    about = json.loads((exported / "student" / "student.json").read_text())
    weights = safetensors.torch.load_file(exported / "student" / "student.safetensors")
    layout, habits = Layout(about["feature_size"]), weights["habits"].numpy()
    network = ActorCritic(layout, about["num_actions"], StudentConfig(hidden=about["hidden"]), habits=habits)
    network.load_state_dict(weights)
    assert all(torch.equal(weight, network.state_dict()[name]) for name, weight in learner(players).network.state_dict().items())
    assert about["actions"] == ["left", "right", "forward", "pickup", "drop", "toggle", "done"]
    assert (about["task"], about["trained_on"], about["episodes"], about["first_seed"]) == (TASK, [TASK], 2, SEED)
    assert about["success"] == summary(run)["success"] and about["steps"] == summary(run)["steps"]


def success_of_the_example(folder: Path) -> float:
    code = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    words = [sys.executable, "-c", code, str(ROOT / "examples" / "exported_student.py"), str(folder / "student")]
    answer = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r"success (\S+) over 200 levels", answer.stdout)
    assert found is not None
    return float(found[1])


def test_the_example_plays_it_without_pytorch_and_solves_the_same_levels(exported: Path, players: Players) -> None:
    expected = Examiner(players).evaluate("student", TASK, 200).success
    assert success_of_the_example(exported) == pytest.approx(expected) and 0.0 < expected < 1.0


def test_a_student_trained_with_hints_plays_on_without_them(tmp_path: Path) -> None:
    words = ["train", *SMALL, "--arm", "no-llm", "--steps", "1500", "guidance.hint=0.5", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    run = Run.open(tmp_path / "run")
    hinted = load_players(run)
    export.export(run, hinted, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "student" / "student.json").read_text())
    assert about["feature_size"] == hinted.family.layout.size < hinted.students[0].learner.layout.size
    expected = Examiner(hinted).evaluate("student", TASK, 200).success
    assert success_of_the_example(tmp_path / "out") == pytest.approx(expected) and 0.0 < expected < 1.0


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(
    error: BaseException, run: Run, players: Players, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise error

    monkeypatch.setattr(student, "write", fail)
    monkeypatch.setattr(export.teacher, "write", lambda teacher, players, summary, folder: folder.mkdir() or "written")
    expected = RunFailed if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left on device; choose another --to" if expected is RunFailed else None):
        export.export(run, players, tmp_path / "a" / "out")
    assert not list((tmp_path / "a").iterdir())


def test_an_empty_folder_will_do_and_its_files_can_be_read_by_all(run: Run, players: Players, tmp_path: Path) -> None:
    alone = Players(replace(players.config, arm="no-llm"))
    alone.students = players.students
    what = export.export(run, alone, tmp_path)
    assert what.teacher.folder is None and "'uniform' is not a local language model" in what.teacher.says
    files = {path.relative_to(tmp_path).as_posix(): path.stat() for path in tmp_path.rglob("*") if path.is_file()}
    assert what.files == {name: found.st_size for name, found in files.items()} and len(files) == 3
    assert {found.st_mode & 0o777 for found in files.values()} == {0o644}


def test_a_folder_with_something_in_it_is_left_alone(run: Run, players: Players, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(CoteachError, match="exists and is not empty: choose another --to"):
            export.export(run, players, folder)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_student_of_numbers_flags_and_pictures_is_exported_too(tmp_path: Path) -> None:
    layout = Layout(flags=2, numbers=3, pictures=((3, 8, 8),), centre=(1.0, 2.0, 3.0), spread=(1.0, 5.0, 9.0))
    learner = Learner(StudentConfig(hidden=16, device="cpu"), layout, 4, seed=0)
    features = np.random.default_rng(0).integers(0, 2, (5, layout.size)).astype(np.float32)
    learner.network.adapt(features * 50)
    network = copy.deepcopy(learner.network).requires_grad_(False)
    session = onnxruntime.InferenceSession(student._policy(network, layout).SerializeToString())
    (logits,) = session.run(["logits"], {"features": features})
    assert np.asarray(logits) == pytest.approx(network(read(layout, features))[0].numpy(), abs=1e-5)
