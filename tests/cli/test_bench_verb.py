"""`coteach bench` measures what can be measured here, and says of the rest why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coteach.commands import bench as command
from coteach.commands import cli
from coteach.errors import CoteachError
from coteach.experiments import bench


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Figures stand in for the measurements, which take minutes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "_grounding", lambda: {"task": "T", "steps_per_second": 69_615.4})
    monkeypatch.setattr(
        command, "_scoring", lambda options: {"options": len(options), "ours": 9.3, "theirs": 0.78, "ratio": 11.9}
    )
    monkeypatch.setattr(command, "_training", lambda: {"ours": 1812.0, "theirs": 401.0, "ratio": 4.52})


def test_every_part_has_its_figures_with_units(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench"]) == 0
    rows = {
        label.strip(): figure for label, _, figure in (line.rpartition("  ") for line in capsys.readouterr().out.splitlines())
    }
    assert rows["grounding: environment steps per second"] == "69,615"
    assert rows["scoring: the peer, per second"] == "0.78"
    assert cli.main(["bench", "--json"]) == 0
    assert (figures := json.loads(capsys.readouterr().out))["training_ratio"] == 4.52
    assert figures["scoring_15_ratio"] == 11.9 and figures["parts"]["scoring_15"]["options"] == 15
    assert json.loads(Path("runs/bench.json").read_text()) == figures


def test_a_part_that_cannot_be_measured_says_why_and_leaves_the_others_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> dict[str, float]:
        raise CoteachError("stable-baselines3 is not installed; pip install 'coteach[dev]'")

    monkeypatch.setattr(command, "_training", missing)
    assert cli.main(["bench", "--json"]) == 1
    shown = capsys.readouterr()
    assert set(json.loads(shown.out)["parts"]) == {"grounding", "scoring", "scoring_15"}
    assert "training: stable-baselines3 is not installed; pip install" in shown.err


def test_a_ratio_is_of_medians_after_a_turn_that_does_not_count() -> None:
    ours, theirs = iter([1.0, 40.0, 20.0, 30.0]), iter([9.0, 10.0, 10.0, 1000.0])
    assert bench.take_turns(lambda: next(ours), lambda: next(theirs), 3) == {"ours": 30.0, "theirs": 10.0, "ratio": 3.0}
