"""Both engines return the same, and the reference engine plays exactly the episodes of its seeds."""

import importlib.util
import itertools

import gymnasium
import numpy as np
import pytest

from coteach.envs import engines, levels, tasks
from coteach.envs.engines import GymnasiumTask
from coteach.errors import CoteachError

ENGINES = [
    pytest.param("envpool", marks=pytest.mark.skipif(not importlib.util.find_spec("envpool"), reason="extra `fast` is absent")),
    "minigrid",
]
LEFT, RIGHT, FORWARD = 0, 1, 2


def play(task, steps, seed=0):
    """Take `steps` random steps; return (observations, steps), both in order."""
    rng = np.random.default_rng(seed)
    first = task.reset()
    rest = [task.step(rng.integers(0, 7, task.num_envs)) for _ in range(steps)]
    return [first] + [step.observation for step in rest], rest


@pytest.mark.parametrize("engine", ENGINES)
def test_an_episode_ends_with_its_last_observation_and_then_restarts(engine):
    task = tasks.make("MiniGrid-Empty-5x5-v0", engine, 2, 0)
    first = task.reset()
    way = [FORWARD, FORWARD, RIGHT, FORWARD, FORWARD]
    steps = [task.step(np.array([action, LEFT])) for action in way]
    assert [step.terminated.tolist() for step in steps] == [[False, False]] * 4 + [[True, False]]
    assert steps[-1].reward == pytest.approx([1 - 0.9 * 5 / 100, 0.0])
    assert not np.array_equal(steps[-1].observation.image[0], first.image[0])
    after = task.step(np.array([FORWARD, LEFT]))
    assert after.restarted.tolist() == [True, False]
    assert np.array_equal(after.observation.image[0], first.image[0])
    assert after.reward.tolist() == [0.0, 0.0] and not after.terminated.any()
    task.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_time_limit_truncates_and_does_not_terminate(engine):
    task = tasks.make("MiniGrid-Empty-5x5-v0", engine, 1, 0)
    task.reset()
    steps = [task.step(np.array([LEFT])) for _ in range(101)]
    assert [t for t, step in enumerate(steps) if step.truncated[0]] == [99]
    assert not any(step.terminated[0] for step in steps)
    assert steps[100].restarted[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_mission_is_constant_within_an_episode(engine):
    task = tasks.make("BabyAI-GoToRedBallNoDists-v0", engine, 3, 0)
    assert task.reset().mission == ["go to the red ball"] * 3
    local = tasks.make("BabyAI-GoToLocal-v0", engine, 4, 0)
    observations, steps = play(local, 200)
    missions = [observation.mission for observation in observations]
    assert len(set(itertools.chain(*missions))) > 3
    for before, after, step in zip(missions, missions[1:], steps, strict=False):
        assert all(b == a or restarted for b, a, restarted in zip(before, after, step.restarted, strict=True))
        assert all(mission.startswith("go to") for mission in after)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_seed_determines_all_episodes_and_environments_differ(engine):
    runs = [play(tasks.make("BabyAI-GoToLocal-v0", engine, 4, seed), 80)[0] for seed in (3, 3, 4)]
    same, again, other = [np.stack([observation.image for observation in run]) for run in runs]
    assert np.array_equal(same, again)
    assert not np.array_equal(same, other)
    begun = {run[0, env].tobytes() for run in (same, other) for env in range(4)}
    assert len(begun) == 8, "seeds 3 and 4 have no environment in common"
    assert len({same[:, env].tobytes() for env in range(4)}) == 4


@pytest.mark.parametrize("engine", ENGINES)
def test_an_observation_is_not_overwritten_by_later_steps(engine):
    task = tasks.make("MiniGrid-Empty-Random-6x6-v0", engine, 2, 0)
    first = task.reset()
    image = first.image.copy()
    for _ in range(20):
        task.step(np.array([LEFT, FORWARD]))
    assert np.array_equal(first.image, image)


@pytest.mark.skipif(not importlib.util.find_spec("envpool"), reason="extra `fast` is absent")
@pytest.mark.parametrize("name", ["MiniGrid-Empty-6x6-v0", "MiniGrid-DistShift1-v0"])
def test_the_engines_agree_on_levels_that_are_always_the_same(name):
    ours = play(tasks.make(name, "envpool", 4, 0), 600)
    reference = play(tasks.make(name, "minigrid", 4, 0), 600)
    assert sum(step.terminated.sum() for step in ours[1]) > 2
    for fast, slow in zip(ours[0], reference[0], strict=True):
        assert np.array_equal(fast.image, slow.image) and fast.mission == slow.mission
    for fast, slow in zip(ours[1], reference[1], strict=True):
        assert fast.reward == pytest.approx(slow.reward)
        for field in ("terminated", "truncated", "restarted"):
            assert np.array_equal(getattr(fast, field), getattr(slow, field))


def test_each_episode_of_the_reference_engine_has_its_own_seed():
    seeds = iter(range(40, 45))
    task = GymnasiumTask("MiniGrid-Empty-Random-5x5-v0", [seeds, seeds])
    reference = gymnasium.make("MiniGrid-Empty-Random-5x5-v0")
    first = task.reset()
    begun = dict(zip(task.episode.tolist(), first.image, strict=True))
    while not task.idle.all():
        step = task.step(np.array([LEFT, LEFT]))
        for env in np.flatnonzero(step.restarted & ~task.idle):
            begun[int(task.episode[env])] = step.observation.image[env]
    assert sorted(begun) == [40, 41, 42, 43, 44]
    for seed, image in begun.items():
        assert np.array_equal(image, reference.reset(seed=seed)[0]["image"])


def test_an_environment_whose_seeds_are_used_up_is_idle_and_repeats_an_observation():
    task = GymnasiumTask("MiniGrid-Empty-5x5-v0", [iter([1]), iter([1, 2])])
    first = task.reset()
    for _ in range(100):
        task.step(np.array([LEFT, LEFT]))
    assert task.idle.tolist() == [False, False]
    for _ in range(5):
        step = task.step(np.array([FORWARD, FORWARD]))
        assert task.idle.tolist() == [True, False]
        assert step.restarted[0] and step.reward[0] == 0
        assert np.array_equal(step.observation.image[0], first.image[0])


def test_outdated_levels_are_made_without_a_warning(recwarn):
    GymnasiumTask("MiniGrid-ObstructedMaze-1Q-v0", [iter([0])])
    assert not recwarn.list


def test_environments_print_nothing(capfd):
    name, seeds = "BabyAI-PutNextLocal-v0", range(10)
    loud = gymnasium.make(name)
    for seed in seeds:
        loud.reset(seed=seed)
    assert "Sampling rejected" in capfd.readouterr().out
    task = GymnasiumTask(name, [iter(seeds)])
    for _ in seeds:
        task.reset()
    assert capfd.readouterr().out == ""


def test_levels_that_envpool_cannot_play_are_left_to_the_reference_engine(monkeypatch):
    hangs, unsolvable = "BabyAI-SynthS5R2-v0", "MiniGrid-MultiRoom-N4-S5-v0"
    monkeypatch.setattr(tasks, "_envpool_ids", lambda: frozenset({hangs, unsolvable}))
    assert tasks._resolve(hangs, "auto") == tasks._resolve(unsolvable, "auto") == "minigrid"
    with pytest.raises(CoteachError, match="it hangs when it resets 'BabyAI-SynthS5R2-v0'; use the engine minigrid"):
        tasks.make(hangs, "envpool", 1, 0)
    assert tasks._resolve(unsolvable, "envpool") == "envpool", "it is used if it is asked for"
    assert set(tasks.ENVPOOL_HANGS) <= set(levels.task_ids())
    assert any(name.startswith(tasks.ENVPOOL_UNSOLVABLE) for name in levels.task_ids())


def test_runs_with_neighbouring_seeds_share_no_environment():
    firsts = [engines._first_seed(seed, 64) for seed in range(200)]
    taken = {first + env for first in firsts for env in range(64)}
    assert len(taken) == 200 * 64
    assert min(taken) >= 0 and max(taken) < 2**31, "EnvPool takes 32-bit integers with a sign"
    assert all(0 <= engines._first_seed(seed, 4096) < 2**31 - 4096 for seed in (0, 2**31 - 1))


def test_auto_is_envpool_only_where_it_can_run_the_task(monkeypatch):
    monkeypatch.setattr(tasks, "_envpool_ids", lambda: frozenset({"MiniGrid-Empty-5x5-v0"}))
    assert tasks._resolve("MiniGrid-Empty-5x5-v0", "auto") == "envpool"
    assert tasks._resolve("MiniGrid-Empty-6x6-v0", "auto") == "minigrid"
    with pytest.raises(CoteachError, match="has no task 'MiniGrid-Empty-6x6-v0'.*minigrid"):
        tasks._resolve("MiniGrid-Empty-6x6-v0", "envpool")
    monkeypatch.setattr(tasks, "_envpool_ids", frozenset)
    assert tasks.make("MiniGrid-Empty-5x5-v0", "auto", 1, 0).engine == "minigrid"
    with pytest.raises(CoteachError, match=r"not installed.*coteach\[fast\]"):
        tasks.make("MiniGrid-Empty-5x5-v0", "envpool", 1, 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MiniGrid-DorKey-8x8-v0", "did you mean 'MiniGrid-DoorKey-8x8-v0'"),
        ("CartPole-v1", r"no text yet.*coteach\.register\('CartPole-v1', describe"),
        ("Pendulum-v1", "not discrete"),
    ],
)
def test_a_task_that_cannot_be_run_is_refused_with_an_error_of_one_line(name, message):
    with pytest.raises(CoteachError, match=message) as error:
        tasks.make(name, "auto", 1, 0)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_levels_whose_images_are_not_installed_are_neither_listed_nor_made(monkeypatch):
    name = "MiniGrid-WFC-MazeSimple-v0"
    monkeypatch.setattr(levels, "_lacks_patterns", lambda task: task == name)
    assert name not in levels.task_ids()
    with pytest.raises(CoteachError, match="lacks the pattern images"):
        tasks.make(name, "auto", 1, 0)


def test_an_engine_that_does_not_exist_is_refused():
    with pytest.raises(CoteachError, match="unknown engine 'envpol': did you mean 'envpool'"):
        tasks.make("MiniGrid-Empty-5x5-v0", "envpol", 1, 0)


def test_the_listed_tasks_can_be_made():
    names = levels.task_ids()
    assert len(names) > 150 and "BabyAI-GoToRedBallNoDists-v0" in names
    for name in names[::10]:
        tasks.check(name)
        task = GymnasiumTask(name, [iter([0])])
        assert task.reset().image.shape == (1, 7, 7, 3)
