"""The case study keeps what has finished, makes nothing twice, and says what was not done in full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny_lm
from coteach.errors import CoteachError
from coteach.experiments import case_study
from coteach.experiments.case_study import Study, cells, learn_glam, lines, markdown, notes
from coteach.experiments.glam import GlamConfig
from coteach.experiments.results import Key, Result, keep_result, make_result, write_results
from coteach.runs.progress import percent


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Study:
    """Small iterations of a tiny model; one of them is the budget that is done in full."""
    monkeypatch.setattr(case_study, "load_model", lambda _: tiny_lm.loaded())
    monkeypatch.setattr(case_study, "IN_FULL", 1)
    monkeypatch.setattr(case_study, "ITERATION", 32)

    def config(_: Study, seed: int) -> GlamConfig:
        return GlamConfig(case_study.TASK, seed=seed, engine="minigrid", threads=1, envs=4, horizon=8, epochs=1)

    monkeypatch.setattr(Study, "glam_config", config)
    folders = {"results": tmp_path / "results", "runs": tmp_path / "runs"}
    return Study(arms=("glam",), budgets=(1, 4), seeds=(0,), teacher="tiny", episodes=2, **folders)


def kept(study: Study, budget: int) -> Result:
    """The result of the baseline under a budget."""
    return study.kept()[budget][Key(case_study.TASK, "glam", 0)]


def write(study: Study, budget: int, arm: str, seed: int, **summary: float) -> None:
    figures = {"steps": budget * 256, "success": 0.5, "return": 0.4, "wall_seconds": 60.0, "llm_tokens": 1000}
    about = {"task": case_study.TASK, "arm": arm, "seed": seed, "budget": budget * 256, "curve": [[0, 0.5]]}
    keep_result(study.folder, make_result([], None, {}, {}, figures | about | summary))


def test_one_run_of_glam_serves_both_budgets_and_is_not_made_again(study: Study) -> None:
    said: list[str] = []
    assert list(learn_glam(study, 0, said.append)) == [1, 4]
    first, second = (kept(study, budget)["summary"] for budget in (1, 4))
    assert 32 <= first["steps"] < 64
    assert 128 <= second["steps"] < 160
    assert 0 < first["llm_tokens"] < second["llm_tokens"]
    assert [row["steps"] for row in first["curve"] + second["curve"]] == sorted(
        {row["steps"] for row in first["curve"] + second["curve"]}
    )
    assert "glam-0: 4 of 4 iterations" in said[-1]
    assert list(learn_glam(study, 0, said.append)) == []


def test_what_is_kept_says_what_made_it(study: Study) -> None:
    assert next(learn_glam(study, 0, lambda _: None)) == 1
    result = kept(study, 1)
    assert result["command"] == "coteach case-study --arms glam --budgets 1 --seed 0 --seeds 1 --teacher tiny --glam-minutes 60"
    assert {"revision", "version", "machine", "config", "summary", "finished"} < result.keys()
    assert result["config"]["learning_rate"] == GlamConfig(case_study.TASK).learning_rate


def test_a_budget_that_is_missing_is_made_though_the_other_is_there(study: Study) -> None:
    assert list(learn_glam(study, 0, lambda _: None)) == [1, 4]
    before = kept(study, 1)
    write_results(study.folder, [before])
    assert list(learn_glam(study, 0, lambda _: None)) == [4]
    assert kept(study, 1) == before and kept(study, 4)["summary"]["steps"] >= 128


def test_only_the_long_budget_is_cut_short_and_the_table_says_so(study: Study) -> None:
    hurried = replace(study, glam_minutes=1e-9)
    assert len(list(learn_glam(hurried, 0, lambda _: None))) == 2
    short, long = lines(hurried)
    assert (short.iterations, short.stopped) == ((1,), False)
    assert (long.iterations, long.stopped) == ((1,), True)
    assert cells(short)[3] == "1"
    assert cells(long)[3] == "1 of 4"
    text = markdown(hurried, lines(hurried))
    assert "1 of 4 iterations done" in text
    assert f"with the most probable ones its success is {percent(short.greedy[0])} after 1 iterations" in text
    assert "coteach case-study --seeds 1" in text


def test_results_of_other_settings_and_damaged_ones_are_refused(study: Study) -> None:
    assert next(learn_glam(study, 0, lambda _: None)) == 1
    with pytest.raises(CoteachError, match=r"results.jsonl: glam-0 on .* was made with episodes=2, not 3"):
        list(learn_glam(replace(study, episodes=3), 0, lambda _: None))
    (study.folder / "results.jsonl").write_text("{}")
    with pytest.raises(CoteachError, match="results.jsonl, line 1, is not the result of a run"):
        list(learn_glam(study, 0, lambda _: None))


def test_the_loops_arms_play_rounds_of_one_iteration_with_the_budgets_steps(tmp_path: Path) -> None:
    study = Study(results=tmp_path)
    jobs = {(job.folder.parent.name, job.config.arm, job.config.seed): job.config for job in study.jobs()}
    assert set(jobs) == {(b, arm, seed) for b in ("40", "2100") for arm in case_study.LOOP_ARMS for seed in (0, 1, 2)}
    for (budget, _, _), config in jobs.items():
        assert config.steps == int(budget) * 256
        assert config.collect.envs * config.collect.horizon == 256
        assert config.stop_at == (1.01 if budget == "40" else 0.95)
        assert config.tasks == ["BabyAI-GoToRedBallNoDists-v0"]


def test_a_line_names_its_seeds_and_shows_how_far_they_lie_apart(tmp_path: Path) -> None:
    study = Study(arms=("mutual",), budgets=(40, 2100), seeds=(0, 1), results=tmp_path)
    write(study, 40, "mutual", 0, success=0.9)
    assert cells(lines(study)[0])[:5] == ("mutual", "40", "0", "40", "90 %")
    write(study, 40, "mutual", 1, success=1.0)
    write(study, 2100, "mutual", 0, steps=25_600, success=1.0)
    write(study, 2100, "mutual", 1, steps=51_200, success=1.0)
    short, long = map(cells, lines(study))
    assert short == ("mutual", "40", "0, 1", "40", "95 % [90 %, 100 %]", "0.40", "1m00s", "1,000")
    assert long[3:5] == ("150 of 2,100", "100 %")
    assert any("has held 95 %" in note for note in notes(study, lines(study)))


def test_interrupting_glam_leaves_what_had_finished(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = case_study.Glam.learn

    def interrupted(glam: case_study.Glam, steps: int, seconds: float, report: Callable[[dict[str, Any]], None]) -> None:
        if steps > 32:
            raise KeyboardInterrupt
        learn(glam, steps, seconds, report)

    monkeypatch.setattr(case_study.Glam, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(learn_glam(study, 0, lambda _: None))
    assert [len(results) for results in study.kept().values()] == [1, 0]
