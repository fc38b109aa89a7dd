"""A run folder: files are complete or absent, and can be read after a crash."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from coteach.config import Config, load
from coteach.errors import CoteachError, Note, RunFailed
from coteach.runs import jsonl
from coteach.runs.checkpoints import KEEP
from coteach.runs.run_folder import FORMAT, Run
from coteach.version import __version__


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", load(None, ["seed=5"]))


def save(run: Run, step: int, text: str = "weights", best: bool = False) -> Path:
    def write(folder: Path) -> None:
        (folder / "student").mkdir()
        (folder / "student" / "a.safetensors").write_text(f"{text} {step}")

    return run.save_checkpoint(step, write, best)


def test_a_run_stores_its_configuration_and_its_machine(run: Run) -> None:
    assert Run.open(run.folder).config == run.config
    environment = json.loads((run.folder / "environment.json").read_text())
    assert (environment["format"], environment["coteach"]) == (FORMAT, __version__)
    assert environment["packages"]["torch"].startswith("2.")
    assert environment["cores"] >= 1 and environment["processor"] and environment["threads"] >= 1


def test_a_folder_that_is_not_empty_is_not_overwritten(run: Run) -> None:
    before = sorted(run.folder.rglob("*"))
    with pytest.raises(CoteachError, match="not empty: choose another --out, or go on with --resume"):
        Run.create(run.folder, Config())
    assert sorted(run.folder.rglob("*")) == before


def test_a_run_cannot_be_made_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CoteachError, match="choose another --out"):
        Run.create(tmp_path / "file", Config())
    with pytest.raises(CoteachError, match="Not a directory; choose another --out"):
        Run.create(tmp_path / "file" / "run", Config())


def test_a_run_can_be_made_in_an_empty_folder(tmp_path: Path) -> None:
    assert Run.create(tmp_path, Config()).folder == tmp_path


def test_a_folder_that_is_no_run_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(CoteachError, match="is not a run"):
        Run.open(tmp_path)


def test_metrics_are_one_object_per_line_and_numbers_go_to_tensorboard(run: Run) -> None:
    with run:
        run.log({"rung": 0, "task": "T", "round": 1, "steps": 64, "success_student": None, "loss": np.float32(0.5)})
        run.log({"rung": 0, "task": "T", "round": 2, "steps": 128, "success_student": 0.25, "loss": float("nan")})
    rows = run.metrics()
    assert [row["steps"] for row in rows] == [64, 128]
    assert rows[0]["loss"] == 0.5 and rows[1]["loss"] is None and rows[0]["success_student"] is None

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run.folder))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("rung0/loss")] == [(64, 0.5)]
    assert [(event.step, event.value) for event in board.Scalars("rung0/success_student")] == [(128, 0.25)]


def test_rounds_that_are_done_again_are_taken_out_of_tensorboard(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def log(rung: int, rounds: Sequence[int], loss: float) -> None:
        for number in rounds:
            run.log({"rung": rung, "round": number, "steps": 64 * number, "loss": loss})

    with run:
        log(0, range(1, 6), 0.0)
        log(1, range(1, 4), 1.0)
    again = Run.open(run.folder)
    with again:
        again.rewind({1: 1})
        run = again
        log(1, range(2, 4), 2.0)
    board = EventAccumulator(str(run.folder))
    board.Reload()
    assert [event.step for event in board.Scalars("rung0/loss")] == [64, 128, 192, 256, 320]
    assert [(event.step, event.value) for event in board.Scalars("rung1/loss")] == [(64, 1.0), (128, 2.0), (192, 2.0)]


def test_an_incomplete_line_is_left_out_and_rewinding_repairs_the_file(run: Run) -> None:
    path = run.folder / "metrics.jsonl"
    whole = [{"rung": rung, "round": round, "steps": 1} for rung in (0, 1) for round in (1, 2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in whole) + '{"rung": 1, "rou')
    assert run.metrics() == whole
    run.rewind({1: 1})
    assert run.metrics() == whole[:3]
    assert path.read_text().endswith("}\n")


def test_an_incomplete_line_is_repaired_where_no_round_is_done_again(run: Run) -> None:
    path = run.folder / "metrics.jsonl"
    path.write_text('{"rung": 0, "round": 1, "steps": 64}\n{"rung": 0, "rou')
    with run:
        run.rewind({0: 1})
        run.log({"rung": 0, "round": 2, "steps": 128})
    assert [row["round"] for row in run.metrics()] == [1, 2]


@pytest.mark.parametrize("last", ['{"rung": 1, "rou', "", "null", "[" * 100_000])
def test_the_last_complete_line_of_a_long_file_is_found(run: Run, last: str) -> None:
    path = run.folder / "metrics.jsonl"
    assert jsonl.last(path) == {}
    path.write_text("".join(json.dumps({"round": n, "padding": "x" * 100}) + "\n" for n in range(5000)))
    with path.open("a") as file:
        file.write(last[:10_000])
    assert jsonl.last(path)["round"] == run.metrics()[-1]["round"] == 4999


def test_a_file_is_replaced_completely_or_not_at_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_json("summary.json", {"success": 0.5})

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunFailed, match=r"cannot write .*summary.json: No space left"):
        run.write_json("summary.json", {"success": 1.0})
    assert json.loads((run.folder / "summary.json").read_text()) == {"success": 0.5}
    assert not [path for path in run.folder.iterdir() if path.name.startswith(".")]


def test_json_has_null_for_numbers_that_are_not_finite(run: Run) -> None:
    path = run.write_json("summary.json", {"a": float("inf"), "b": np.arange(2), "c": [np.int64(3)], "d": Path("x")})
    assert json.loads(path.read_text()) == {"a": None, "b": [0, 1], "c": [3], "d": "x"}


def test_the_last_checkpoints_are_kept_and_the_best(run: Run) -> None:
    assert run.latest_checkpoint() is None and run.best_checkpoint() is None
    for step in range(1, 8):
        save(run, step, best=step == 2)
    kept = [path.name for path in sorted((run.folder / "checkpoints").glob("step-*"))]
    assert kept == [f"step-{step:012d}" for step in (2, 5, 6, 7)]
    assert len(kept) == KEEP + 1
    latest, best = run.latest_checkpoint(), run.best_checkpoint()
    assert latest is not None and (latest / "student" / "a.safetensors").read_text() == "weights 7"
    assert best is not None and (best / "student" / "a.safetensors").read_text() == "weights 2"


def test_a_checkpoint_saved_again_at_the_same_step_replaces_the_first(run: Run) -> None:
    save(run, 1, "old")
    save(run, 1, "new")
    latest = run.latest_checkpoint()
    assert latest is not None and (latest / "student" / "a.safetensors").read_text() == "new 1"


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "add", "manifest"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(run: Run, damage: str) -> None:
    first, second = save(run, 1), save(run, 2)
    file = second / "student" / "a.safetensors"
    match damage:
        case "flip":
            file.write_text("weightt 2")
        case "cut":
            os.truncate(file, 3)
        case "delete":
            file.unlink()
        case "add":
            (second / "other").write_text("")
        case "manifest":
            (second / "manifest.json").write_text("{")
    with pytest.warns(Note, match=f"checkpoint {second} is damaged: it is passed over"):
        assert run.latest_checkpoint() == first
    shutil.rmtree(first)
    with pytest.warns(Note), pytest.raises(CoteachError, match="no whole checkpoint left: begin anew with another --out"):
        run.latest_checkpoint()


def test_a_checkpoint_that_cannot_be_written_leaves_no_files(run: Run) -> None:
    first = save(run, 1)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "half"))

    with pytest.raises(RunFailed, match="No space left"):
        run.save_checkpoint(2, fail)
    assert run.latest_checkpoint() == first
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == [first.name]


def test_an_error_that_is_no_disk_error_is_not_changed_and_leaves_no_files(run: Run) -> None:
    def fail(folder: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run.save_checkpoint(2, fail)
    assert not list((run.folder / "checkpoints").iterdir())
