"""What a user gets wrong is answered in one line that names it and the way out, with exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tiny_lm
from coteach.commands import cli
from coteach.config import Config
from coteach.runs.run_folder import FORMAT, Run
from coteach.version import __version__

SHORT = ("--steps", "100", "--envs", "4", "--threads", "1", "--engine", "minigrid", "episodes=1", "evaluation.levels=1")
QUESTION = ("ask", "--situation", "A door.", "--option", "open it", "--option", "explore")
LONG = ("ask", "--option", "open it", "--option", "explore", "--situation", "You see a ball. " * 60)
"""A situation of 960 characters; the tiny model reads 512, one token each."""

FILES = {
    "broken.toml": b"steps = = 3",
    "binary.toml": b"\xff\xfe\x00",
    "field.toml": b"stepps = 3",
    "type.toml": b'steps = "many"',
    "range.toml": b"[student]\nepochs = 0",
    "table.toml": b"student = 3",
    "list.toml": b"tasks = [1]",
    "text.gguf": b"hello world",
    "cut.gguf": b"GGUF\x03\x00\x00\x00",
    "full/notes.txt": b"mine",
    "torn/config.toml": b"arm = 3",
    "torn/environment.json": f'{{"format": {FORMAT}, "coteach": "{__version__}"}}'.encode(),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the cases name."""
    folder = tmp_path_factory.mktemp("place")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    tiny_lm.model().save_pretrained(folder / "tiny")
    tiny_lm.tokenizer().save_pretrained(folder / "tiny")
    Run.create(folder / "untrained", Config(arm="uniform"))
    return folder


def contents(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*")}


CASES = [
    (["train", *SHORT, "--task", "MiniGrid-Unlok-v0"], "unknown task 'MiniGrid-Unlok-v0': did you mean 'MiniGrid-Unlock-v0'?"),
    (["train", *SHORT, "--task", "x"], "unknown task 'x' (`coteach tasks` lists them)"),
    (["train", *SHORT, "--task", "Pendulum-v1"], "'Pendulum-v1': its action space is not discrete"),
    (
        ["train", *SHORT, "--task", "CartPole-v1"],
        "'CartPole-v1': its observations have no text yet: give them one with coteach.register('CartPole-v1'",
    ),
    (["train", "--engine", "envpol"], "unknown engine 'envpol': did you mean 'envpool'?"),
    (["train", "--arm", "mutaul"], "unknown arm 'mutaul': did you mean 'mutual'?"),
    (["train", "--device", "tpu"], "unknown student.device 'tpu'"),
    (["train", *SHORT, "--teacher", "smolm2"], "unknown teacher 'smolm2': did you mean 'smollm2'?"),
    (["train", *SHORT, "--teacher", "hf:"], "unknown teacher 'hf:'"),
    (["train", *SHORT, "--teacher", "hf:full"], "folder 'full' holds no model: expected config.json"),
    (["train", *SHORT, "--teacher", "hf:./none"], "folder './none' does not exist; give hf:<folder of a model>"),
    (["train", *SHORT, "--teacher", "gguf:none.gguf"], "cannot read the model file 'none.gguf'"),
    (["train", *SHORT, "--teacher", "gguf:text.gguf"], "'text.gguf' is not a GGUF file"),
    (["train", *SHORT, "--teacher", "gguf:full"], "cannot read the model file 'full'"),
    (["train", *SHORT, "--teacher", "gguf:cut.gguf"], "cannot read the GGUF file 'cut.gguf'"),
    (["train", *SHORT, "--teacher", "openai:x"], "teacher 'openai:x': expected openai:<model>@<base url>"),
    (["train", *SHORT, "--teacher", "openai:x@ftp://here"], "expected openai:<model>@<base url>"),
    (["train", *SHORT, "--teacher", "openai:x@http://me:pw@here/v1"], "its url contains a name, a key or a query"),
    (["train", *SHORT, "--teacher", "openai:x@http://127.0.0.1:9/v1"], "'x' at http://127.0.0.1:9/v1: "),
    (["train", "--budget", "50000"], "--budget '50000': expected tokens or US dollars"),
    (["train", "--budget", "2usd"], "teacher.budget_money=2.0: without prices nothing is counted"),
    (["train", *SHORT, "--teacher", "hf:tiny", "--budget", "9tokens"], "'hf:tiny' runs on this machine: a budget is for openai:"),
    (["train", "--steps", "many"], "steps='many': expected a whole number"),
    (["train", "--steps", "0"], "steps=0: expected a whole number in [1..]"),
    (["train", "--seed", "-1"], "--seed -1: expected a whole number in [0..2147483647]"),
    (["train", "student.learning_rate=nan"], "student.learning_rate=nan: expected a number in"),
    (["train", "student.epochs=2.5"], "student.epochs=2.5: expected a whole number"),
    (["train", "collect.envs=true"], "collect.envs=True: expected a whole number"),
    (["train", "student.epcohs=3"], "unknown field 'student.epcohs': did you mean 'student.epochs'?"),
    (["train", "epochs"], "override 'epochs': expected FIELD=VALUE"),
    (["train", "tasks=[]"], "tasks is empty"),
    (["train", "--config", "none.toml"], "cannot read configuration none.toml"),
    (["train", "--config", "full"], "cannot read configuration full"),
    (["train", "--config", "broken.toml"], "broken.toml is not TOML"),
    (["train", "--config", "binary.toml"], "cannot read configuration binary.toml: it is not UTF-8"),
    (["train", "--config", "field.toml"], "unknown field 'stepps': did you mean 'steps'?"),
    (["train", "--config", "type.toml"], "steps='many': expected a whole number"),
    (["train", "--config", "range.toml"], "student.epochs=0: expected a whole number in [1..50]"),
    (["train", "--config", "table.toml"], "student=3: expected a table [student]"),
    (["train", "--config", "list.toml"], "tasks=[1]: expected a list of texts"),
    (["train", *SHORT, "--out", "full"], "full exists and is not empty: choose another --out"),
    (["train", *SHORT, "--out", "text.gguf"], "text.gguf exists and is not empty"),
    (["train", "--resume", "none"], "none is not a run"),
    (["train", "--resume", "full"], "full is not a run"),
    (["train", "--resume", "torn"], "arm=3: expected text"),
    (["eval", "none"], "none is not a run"),
    (["eval", "untrained"], "untrained has no whole checkpoint: let `coteach train --resume untrained` save one"),
    (["eval", "untrained", "--episodes", "1000000000000"], "--episodes 1000000000000: expected a whole number in [1..100000]"),
    (["watch", "untrained", "--task", "x"], "unknown task 'x'"),
    (["watch", "untrained", "--who", "nobody"], "unknown --who 'nobody' (one of: student, teacher)"),
    (["ask", "untrained", "--situation", "1"], "--situation 1: expected the number of one of the run's 0 situations"),
    ([*QUESTION, "--teacher", "oracel"], "unknown teacher 'oracel': did you mean 'oracle'?"),
    ([*QUESTION, "--teacher", "gguf:text.gguf"], "'text.gguf' is not a GGUF file"),
    ([*LONG, "--teacher", "hf:tiny"], "the model reads at most 512"),
    ([*QUESTION, "--teacher", "uniform", "--generate"], "--generate: the teacher 'uniform' writes no tokens"),
    (["train", *SHORT, "teacher.feedback=evrything"], "unknown teacher.feedback 'evrything'"),
    (["train", *SHORT, "teacher.tune_method=ppo"], "unknown teacher.tune_method 'ppo'"),
    (["tasks", "--measure", "x"], "unknown task 'x'"),
    (["tasks", "--measure", "MiniGrid-Unlock-v0", "--seed", "99999999999"], "--seed 99999999999: expected a whole number"),
    (["tasks", "--measure", "MiniGrid-Unlock-v0", "--episodes", "few"], "--episodes few: expected a whole number"),
    (["tasks", "--episodes", "3"], "--episodes 3 without --measure"),
    (["tasks", "unlock", "--measure", "x"], "'unlock' beside --measure x"),
    (["doctor", "--seed", "x"], "--seed x: expected a whole number"),
]


@pytest.mark.parametrize(("words", "said"), CASES, ids=[" ".join(words)[:60] for words, _ in CASES])
def test_wrong_input_is_named_in_one_line_and_leaves_nothing_behind(
    words: list[str],
    said: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("COTEACH_CACHE", str(tmp_path))
    before = contents(place)
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    lines = [
        line for line in shown.err.splitlines() if not line.startswith(("run directory: ", "rung 1/1 ", "the teacher's weights "))
    ]
    assert len(lines) == 1 and lines[0].startswith("coteach: error: ") and said in lines[0]
    assert shown.out == ""
    assert contents(place) == before
    assert not list(tmp_path.glob("models/*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["train", *SHORT, "--teacher", "gguf:text.gguf", "--out", "new/run"],
        ["train", "--task", "BabyAI-SynthS5R2-v0", "--engine", "envpool", "--arm", "uniform"],
        ["eval", "none"],
    ],
)
def test_it_is_the_same_in_a_process_of_its_own(words: list[str], place: Path) -> None:
    before = contents(place)
    command = [sys.executable, "-m", "coteach", *words]
    answer = subprocess.run(command, cwd=place, env=os.environ, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr and answer.stderr.count("coteach: error: ") == 1
    assert contents(place) == before


def test_a_task_whose_texts_are_too_long_for_the_model_is_refused_before_training(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((place / "tiny" / "config.json").read_text())
    monkeypatch.chdir(place)
    before = contents(place)
    (place / "tiny" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 100}))
    try:
        assert cli.main(["train", *SHORT, "--teacher", "hf:tiny"]) == 2
    finally:
        (place / "tiny" / "config.json").write_text(json.dumps(config))
    assert "the model reads at most 100" in capsys.readouterr().err
    assert set(contents(place)) == set(before)
