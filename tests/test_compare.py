"""A comparison makes each run once, refuses what cannot be compared, and judges what can as its curves say."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comparisons import keep, learner, result
from coteach.arms import ARMS
from coteach.commands import cli
from coteach.commands.train import resolve
from coteach.errors import CoteachError
from coteach.experiments import compare, figures, tables
from coteach.experiments.compare import DEFAULT_ARMS, Plan
from coteach.experiments.pool import Standing, State
from coteach.experiments.results import Key, by_key, read_results

TASK, OTHER = "MiniGrid-UnlockPickup-v0", "BabyAI-GoToLocal-v0"

SETTINGS = ("steps=100000", "threads=1", "stop_at=0.95")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan("mine", (TASK,), ("mutual", "no-llm"), (0, 1), SETTINGS, tmp_path / "results", tmp_path / "runs")


def results_of(plan: Plan, speeds: dict[str, float], task: str = TASK) -> list[dict[str, Any]]:
    return [result(task, arm, seed, learner(speed + 0.05 * seed)) for arm, speed in speeds.items() for seed in plan.seeds]


def kept(plan: Plan) -> dict[Key, dict[str, Any]]:
    return by_key(read_results(plan.folder), plan.name)


def grouped(plan: Plan, results: list[dict[str, Any]]) -> compare.Groups:
    return compare.group(results, plan.tasks, plan.arms, plan.seeds, plan.name)


# Runs and their results


def test_a_comparison_is_a_run_for_each_task_arm_and_seed(plan: Plan) -> None:
    jobs = replace(plan, tasks=(TASK, OTHER), after=("MiniGrid-Unlock-v0",)).jobs()
    assert len(jobs) == len({job.folder for job in jobs}) == len({job.key for job in jobs}) == 8
    assert {(job.task, job.config.arm, job.config.seed) for job in jobs} == {
        (task, arm, seed) for task in (TASK, OTHER) for arm in plan.arms for seed in (0, 1)
    }
    assert all(job.config.tasks == ["MiniGrid-Unlock-v0", job.task] for job in jobs)


def test_the_command_of_a_run_makes_just_that_run(plan: Plan) -> None:
    for job in replace(plan, after=(OTHER,), overrides=(*SETTINGS, "student.epochs=7")).jobs():
        args = cli._parse(job.command())
        assert resolve(args) == job.config and args.out == job.folder
        assert (job.config.student.epochs, job.config.stop_at) == (7, 0.95)


def test_a_kept_result_is_not_made_again_wherever_it_was_made(plan: Plan) -> None:
    job, other = plan.jobs()[:2]
    assert not job.finished(kept(plan))
    keep(plan.folder, result(TASK, "mutual", 0, learner(2.0), ("threads=8", "student.device=cpu")))
    assert job.finished(kept(plan)) and not other.finished(kept(plan))


@pytest.mark.parametrize("setting", ["student.epochs=9", "steps=5000", "stop_at=1.01"])
def test_a_result_of_other_settings_is_refused_with_a_way_out(plan: Plan, setting: str) -> None:
    keep(plan.folder, result(TASK, "mutual", 0, learner(2.0), (setting,)))
    with pytest.raises(CoteachError) as error:
        plan.jobs()[0].finished(kept(plan))
    name, _, value = setting.partition("=")
    assert f"{name}={value}" in str(error.value) and "another --name" in str(error.value)
    assert f"results.jsonl: mutual-0 on {TASK} was made" in str(error.value) and "\n" not in str(error.value)


def test_a_run_begun_with_other_settings_is_refused_too(plan: Plan) -> None:
    from coteach.runs.run_folder import Run

    ours, theirs = plan.jobs()[0], replace(plan, overrides=(*SETTINGS, "student.epochs=9")).jobs()[0]
    Run.create(theirs.folder, theirs.config)
    with pytest.raises(CoteachError, match="student.epochs=9, not"):
        ours.finished({})
    assert not theirs.finished({})
    assert theirs.command() == ["train", "--resume", str(theirs.folder)]


def test_a_setting_that_an_older_version_did_not_know_has_its_default() -> None:
    old = dataclasses.asdict(plan_config())
    new = copy.deepcopy(old)
    del old["student"]["epochs"]
    assert compare.differing(old, new) is None
    new["student"]["epochs"] += 1
    assert compare.differing(old, new) == "student.epochs"


def plan_config() -> Any:
    return Plan("x", (TASK,), ("mutual",), (0,), SETTINGS, Path(), Path()).jobs()[0].config


# What cannot be compared


def test_missing_seeds_are_named_not_averaged_over(plan: Plan) -> None:
    results = results_of(plan, {"mutual": 2.0, "no-llm": 1.0})
    with pytest.raises(CoteachError, match=f"lacks no-llm-1 on {TASK}: nothing is averaged"):
        grouped(plan, results[:-1])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"overrides": ("steps=50000",)}, "steps=100000"),
        ({"overrides": ("student.clip=0.3",)}, "student.clip=0.2"),
        ({"engine": "minigrid"}, "two engines"),
    ],
)
def test_unequal_budgets_settings_and_engines_are_refused(plan: Plan, changed: dict[str, Any], said: str) -> None:
    results = results_of(plan, {"mutual": 2.0, "no-llm": 1.0})
    grouped(plan, results)
    results[-1] = result(TASK, "no-llm", 1, learner(1.0), **changed)
    with pytest.raises(CoteachError, match=said):
        grouped(plan, results)


def test_each_task_may_have_its_own_engine(plan: Plan) -> None:
    speeds = {"mutual": 2.0, "no-llm": 1.0}
    other = [result(OTHER, arm, seed, learner(1.0), engine="minigrid") for arm in speeds for seed in plan.seeds]
    assert len(grouped(replace(plan, tasks=(TASK, OTHER)), results_of(plan, speeds) + other)) == 2


def test_climbs_after_different_rungs_are_refused(plan: Plan) -> None:
    results = results_of(plan, {"mutual": 2.0, "no-llm": 1.0})
    results[-1]["config"]["tasks"] = ["MiniGrid-Unlock-v0", TASK]
    with pytest.raises(CoteachError, match="tasks="):
        grouped(plan, results)


# What comparisons come to


def test_an_arm_that_learns_sooner_is_better_though_all_end_alike(plan: Plan) -> None:
    mutual, other = tables.judge(grouped(plan, results_of(plan, {"mutual": 4.0, "no-llm": 2.0})))
    assert mutual.sooner is None and mutual.success.value == other.success.value == 1.0
    assert other.sooner is not None and other.sooner.value == 1.0
    assert other.better is not None and other.better.value == 0.5
    assert mutual.reach["steps_to_95"].value < other.reach["steps_to_95"].value


def test_runs_that_never_got_there_are_counted_as_beyond_the_budget(plan: Plan) -> None:
    verdicts = tables.judge(grouped(plan, results_of(plan, {"mutual": 4.0, "no-llm": 0.5})))
    never = verdicts[1]
    assert (never.reach["steps_to_80"].value, never.reached["steps_to_80"], verdicts[0].reached["steps_to_80"]) == (np.inf, 0, 2)
    assert tables.learning_cells(verdicts)[1][2] == ">100"
    shown = json.loads(json.dumps(tables.plain(never), allow_nan=False))
    assert shown["reach"]["steps_to_80"]["value"] is None


def test_costs_are_of_the_whole_climb(plan: Plan) -> None:
    results = results_of(plan, {"mutual": 4.0, "no-llm": 0.5})
    for entry in results:
        entry["summary"]["rungs"] = [entry["summary"]["rungs"][0]] * 2
    assert tables.judge(grouped(plan, results))[0].costs["llm_queries"] == 200


def test_an_arm_whose_student_does_not_learn_is_as_good_at_every_step() -> None:
    advice = result(TASK, "llm-only", 0, learner(1.0), success=0.3)
    advice["summary"]["curve"] = []
    assert compare.curve_of(advice) == [[0, 0.3]]


def test_a_suite_has_a_verdict_over_all_tasks(plan: Plan) -> None:
    speeds = {"mutual": 4.0, "no-llm": 2.0}
    plan = replace(plan, tasks=(TASK, OTHER))
    groups = grouped(plan, results_of(plan, speeds) + results_of(plan, {"mutual": 0.5, "no-llm": 0.2}, OTHER))
    verdicts = tables.judge(groups)
    assert [(v.task, v.runs) for v in verdicts[-2:]] == [(tables.ALL, 4)] * 2
    assert 0.5 < verdicts[-2].success.value < 1.0
    shown = tables.markdown(groups, verdicts, "coteach compare ...", ["made by me"])
    assert shown.count("**") == 6 and "coteach compare ..." in shown and "made by me" in shown


def test_a_table_says_what_its_arms_are_and_student_only_is_not_called_plain_ppo(plan: Plan) -> None:
    plan = replace(plan, arms=("mutual", "student-only", "ppo", "liar"))
    groups = grouped(plan, [result(TASK, arm, seed, learner(1.0)) for arm in plan.arms for seed in plan.seeds])
    shown = tables.markdown(groups, tables.judge(groups), "coteach compare ...", [])
    said = dict(line.removeprefix("- `").split("`: ") for line in shown.splitlines() if line.startswith("- `"))
    assert list(said) == list(plan.arms)
    assert "belief-map features" in said["student-only"] and "prior against repetition" in said["student-only"]
    assert "environment's own observation" in said["ppo"] and "adversarial" in said["liar"]


def test_the_command_under_a_table_makes_the_same_comparison(plan: Plan) -> None:
    import shlex

    from coteach.commands.compare import _plan

    plan = replace(plan, after=("MiniGrid-Unlock-v0",), overrides=(*SETTINGS, "student.epochs=9"), seeds=(3,))
    results = [result(TASK, arm, 3, learner(1.0), ("student.epochs=9",)) for arm in plan.arms]
    for entry in results:
        entry["config"]["tasks"] = ["MiniGrid-Unlock-v0", TASK]
    command = shlex.split(compare.command_of(grouped(plan, results), plan.name))
    again = _plan(cli._parse(command[1:]))
    assert command[0] == "coteach" and again.name == plan.name
    assert [job.config for job in again.jobs()] == [job.config for job in plan.jobs()]


# Figures


def test_every_arm_has_a_look_of_its_own() -> None:
    assert set(ARMS) == set(figures.COLOURS)
    looks = [(colour, figures.LINES.get(arm)) for arm, colour in figures.COLOURS.items()]
    assert len(set(looks)) == len(looks)


def drawn(plan: Plan, arms: tuple[str, ...]) -> dict[str, Any]:
    import imageio.v3 as imageio

    plan = replace(plan, arms=arms)
    speeds = {arm: 0.5 + 0.5 * number for number, arm in enumerate(arms)}
    groups = grouped(plan, results_of(plan, speeds))
    return {path.name: imageio.imread(path) for path in figures.draw(groups, tables.judge(groups), plan.folder)}


@pytest.mark.slow
def test_the_figures_show_every_arm_in_its_colour(plan: Plan) -> None:
    pictures = drawn(plan, DEFAULT_ARMS)
    assert set(pictures) == {"success.png", "steps.png", "better.png"}
    for name, picture in pictures.items():
        for arm in DEFAULT_ARMS:
            rgb = [int(figures.COLOURS[arm][i : i + 2], 16) for i in (1, 3, 5)]
            shown = (np.abs(picture[..., :3].astype(int) - rgb).max(axis=-1) <= 2).any()
            assert shown or (name == "better.png" and arm == "mutual"), (name, arm)


def test_without_mutual_nothing_is_said_of_its_being_better(plan: Plan) -> None:
    assert set(drawn(plan, ("no-llm", "no-tune"))) == {"success.png", "steps.png"}


# Progress


def test_the_time_left_counts_the_runs_that_wait(plan: Plan) -> None:
    first, *others = plan.jobs()
    state = State(first, 50_000, 100_000, 0.5, 1000.0)
    assert Standing([state], 0, 4, others, 1).seconds_left == pytest.approx(350)
    assert Standing([state, state], 0, 4, others[1:], 2).seconds_left == pytest.approx(150)
    assert Standing([replace(state, rate=None)], 0, 4, others, 1).seconds_left is None
