"""The arm `ppo`: the student's input is the raw observation, in the minigrid package's own encodings, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from minigrid.wrappers import OneHotPartialObsWrapper
from numpy.typing import NDArray

import worlds
from coteach.arms import ARMS
from coteach.config import load
from coteach.envs import levels, tasks
from coteach.envs.registration import add
from coteach.grounding.base import Grounded, Observation, Situations
from coteach.grounding.minigrid import raw
from coteach.grounding.minigrid.raw import RawGrounding
from coteach.method.players import Players
from whole_runs import DOOR_KEY, LOCAL, fingerprint, interrupting, play, rounds

ENVS, STEPS = 6, 120
IMAGE = 7 * 7 * 20


def walk(engine: str, task: str) -> list[tuple[Observation, NDArray[np.bool_], Grounded]]:
    """Walk at random; return each observation, which rows restarted, and the grounding's answer."""
    env, rng = tasks.make(task, engine, ENVS, seed=3), np.random.default_rng(0)
    grounding = RawGrounding(ENVS, Situations(), env.num_actions)
    seen = env.reset()
    walked = [(seen, np.ones(ENVS, dtype=np.bool_), grounding.observe(seen, None, np.ones(ENVS, dtype=np.bool_)))]
    for _ in range(STEPS):
        actions = rng.integers(env.num_actions, size=ENVS)
        step = env.step(actions)
        # An engine may overwrite the arrays that it returned.
        seen = Observation(step.observation.image.copy(), step.observation.mission, np.array(step.observation.direction))
        walked.append((seen, step.restarted, grounding.observe(seen, actions, step.restarted)))
    env.close()
    return walked


def words(flags: NDArray[np.uint8]) -> list[str]:
    """The words of a mission from its flags."""
    places = flags.reshape(raw.PLACES, len(raw.WORDS) + 1)
    return [(*raw.WORDS, "another")[int(place.argmax())] for place in places if place.any()]


@pytest.mark.parametrize("engine", ["envpool", "minigrid"])
@pytest.mark.parametrize("task", [DOOR_KEY, LOCAL])
def test_the_features_are_the_environments_own_observation(engine: str, task: str) -> None:
    if engine == "envpool":
        pytest.importorskip("envpool")
    walked = walk(engine, task)
    assert any(restarted.any() for _, restarted, _ in walked[1:]) or task == DOOR_KEY
    for seen, _, now in walked:
        assert now.features.shape == (ENVS, RawGrounding.layout.size) and now.features.dtype == np.uint8
        cells = now.features[:, :IMAGE].reshape(ENVS, 7, 7, 20)
        kinds = [part.argmax(axis=-1) for part in np.split(cells, [11, 17], axis=-1)]
        assert np.array_equal(np.stack(kinds, axis=-1), seen.image)
        assert (cells.sum(axis=(1, 2, 3)) == 3 * 49).all(), "one object, colour and state a cell"
        assert np.array_equal(now.features[:, IMAGE : IMAGE + 4].argmax(axis=1), seen.direction)
        for env in range(ENVS):
            assert " ".join(words(now.features[env, IMAGE + 4 :])).replace(" ,", ",") == seen.mission[env].lower()


def test_the_view_is_that_of_minigrids_wrapper() -> None:
    wrapped = OneHotPartialObsWrapper(levels.find(LOCAL).new())
    grounding = RawGrounding(1, Situations())
    for seed in range(5):
        shown, _ = wrapped.reset(seed=seed)
        seen = levels.find(LOCAL).pack([wrapped.unwrapped.gen_obs()])
        now = grounding.observe(seen, None, np.ones(1, dtype=np.bool_))
        assert np.array_equal(now.features[0, :IMAGE], shown["image"].ravel())


def test_nothing_is_remembered() -> None:
    """The same observation makes the same features, whatever came before, in this environment or another."""
    found: dict[bytes, bytes] = {}
    for seen, _, now in walk("minigrid", DOOR_KEY):
        assert seen.direction is not None
        for env in range(ENVS):
            key = seen.image[env].tobytes() + bytes([int(seen.direction[env])]) + seen.mission[env].encode()
            assert found.setdefault(key, now.features[env].tobytes()) == now.features[env].tobytes()
    assert 10 < len(found) < ENVS * (STEPS + 1), "many came again"


def test_there_are_no_options_to_follow_and_one_situation() -> None:
    for _, _, now in walk("minigrid", DOOR_KEY):
        assert not now.situation.any() and (now.actions == -1).all()
        assert not now.completed.any() and not now.failed.any() and now.unscripted is None


MISSIONS = (
    "BabyAI-BossLevel-v0", "BabyAI-MiniBossLevel-v0", "BabyAI-MoveTwoAcrossS5N2-v0", "BabyAI-PutNextLocal-v0",
    "BabyAI-SynthLoc-v0",
    "MiniGrid-BlockedUnlockPickup-v0", "MiniGrid-Dynamic-Obstacles-5x5-v0", "MiniGrid-Empty-5x5-v0", "MiniGrid-Fetch-5x5-N2-v0",
    "MiniGrid-FourRooms-v0", "MiniGrid-GoToDoor-5x5-v0", "MiniGrid-KeyCorridorS3R1-v0", "MiniGrid-LavaGapS5-v0",
    "MiniGrid-LockedRoom-v0", "MiniGrid-MemoryS7-v0", "MiniGrid-MultiRoom-N2-S4-v0", "MiniGrid-ObstructedMaze-1Dl-v0",
    "MiniGrid-PutNear-6x6-N2-v0", "MiniGrid-RedBlueDoors-6x6-v0", "MiniGrid-SimpleCrossingS9N1-v0", "MiniGrid-Unlock-v0",
)  # fmt: skip


@pytest.mark.parametrize("task", MISSIONS)
def test_every_word_of_the_built_in_missions_is_seen(task: str) -> None:
    with levels.suppressed_output():
        env = levels.find(task).new()
        missions = [env.reset(seed=seed)[0]["mission"] for seed in range(10)]
    for mission in missions:
        seen = words(raw.encode_mission(mission))
        assert seen == mission.lower().replace(",", " , ").split() and "another" not in seen


def test_any_other_word_is_another_and_too_long_a_mission_is_cut() -> None:
    assert words(raw.encode_mission("Open the wardrobe")) == ["open", "the", "another"]
    assert words(raw.encode_mission("go " * 100)) == ["go"] * raw.PLACES


def test_the_student_has_no_habits_and_the_other_arms_have_theirs() -> None:
    """What `student-only` has and `ppo` has not: the belief map's features and the prior against repetition."""
    students = [Players(load(None, [f"tasks={LOCAL}", f"arm={arm}"])).students[0] for arm in ("ppo", "student-only")]
    assert students[0].learner.layout == RawGrounding.layout and students[0].learner.network.habits is None
    assert students[1].learner.layout != RawGrounding.layout and students[1].learner.network.habits is not None


def test_minigrid_and_babyai_are_one_family_and_it_is_not_that_of_the_belief_map() -> None:
    plain, belief = (tasks.common_family([DOOR_KEY, LOCAL], raw=seen_raw) for seen_raw in (True, False))
    assert plain.features != belief.features and plain.action_names == belief.action_names and plain.max_options == 1


@pytest.mark.slow
def test_a_stopped_run_of_it_goes_on_exactly(tmp_path: Path) -> None:
    settings = ("arm=ppo", f"tasks={DOOR_KEY},{LOCAL}", "steps=700")
    whole = play(tmp_path / "whole", *settings)
    for moment in (("collect", 2), ("collect", 1)):
        with pytest.raises(KeyboardInterrupt):
            play(tmp_path / "torn", *settings, display=interrupting([moment]))
    torn = play(tmp_path / "torn")
    assert len(rounds(whole)) == 6 and rounds(torn) == rounds(whole) and fingerprint(torn) == fingerprint(whole)


def test_on_registered_environments_it_is_student_only(tmp_path: Path) -> None:
    """There is neither a belief map nor a prior against repetition: the features are the encoded observation."""
    add(worlds.environment())
    assert tasks.family("Line-v0", raw=True) is tasks.family("Line-v0") and tasks.family("Line-v0").habits is None
    settings = ("tasks=Line-v0", "steps=600", "engine=auto")
    plain, alone = (play(tmp_path / arm, *settings, f"arm={arm}") for arm in ("ppo", "student-only"))
    assert fingerprint(plain) == fingerprint(alone)


def test_every_arm_says_what_it_is_in_a_line_of_its_own() -> None:
    said = [arm.description for arm in ARMS.values()]
    assert len(set(said)) == len(said) and all(text and "\n" not in text for text in said)
    assert "belief-map features" in ARMS["student-only"].description and "own observation" in ARMS["ppo"].description
