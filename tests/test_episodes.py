"""Evaluations play the same episodes for every player, each once and to its end."""

import numpy as np
import pytest

from coteach.envs.engines import GymnasiumTask
from coteach.errors import CoteachError, RunFailed
from coteach.evaluation import episodes as evaluate
from coteach.grounding.base import Grounded, Layout, Situation, Situations

LEFT, RIGHT, FORWARD, DONE = 0, 1, 2, 6
TASK = "MiniGrid-Empty-5x5-v0"
WAY = [FORWARD, FORWARD, RIGHT, FORWARD, FORWARD]
"""From the start of every episode of TASK to its goal."""


class WayGrounding:
    """Option "walk" follows WAY, option "wait" does nothing; one situation before the corner and one after it."""

    max_options, layout, action_names = 3, Layout(flags=len(WAY)), ("left", "right", "forward")

    def __init__(self, num_envs, num_actions):
        self.num_actions = num_actions
        self.situations = Situations()
        self.walked = np.zeros(num_envs, dtype=np.int64)

    def observe(self, observation, actions, restarted):
        if actions is not None:
            on_its_way = self.walked < len(WAY)
            self.walked += on_its_way & (actions == np.array([*WAY, -1])[self.walked])
        self.walked[restarted] = 0
        controls = np.full((len(restarted), 3), -1, dtype=np.int8)
        controls[:, 0] = np.array([*WAY, -1])[self.walked]
        controls[:, 1] = DONE
        numbers = [self.situations.number(Situation(f"leg {leg}", ("walk", "wait"))) for leg in np.minimum(self.walked // 3, 1)]
        nothing = np.zeros(len(restarted), dtype=np.int64)
        features = (np.arange(len(WAY)) == self.walked[:, None]).astype(np.uint8)
        return Grounded(features, np.array(numbers), controls, nothing, nothing)


class Walker:
    """A student that reads the next action of WAY off its features."""

    def greedy(self, features):
        return np.array(WAY)[features.argmax(axis=1)]


class Turner:
    def greedy(self, features):
        return np.full(len(features), LEFT)


class Advisor:
    """Advises one option and keeps what it was asked."""

    def __init__(self, advice):
        self.advice, self.asked = np.array(advice), []

    def __call__(self, situations):
        self.asked.append([situation.text for situation in situations])
        return [self.advice] * len(situations)


def test_a_student_that_knows_the_way_always_succeeds():
    result = evaluate.evaluate_student(Walker(), TASK, WayGrounding, episodes=7)
    assert result.episodes == 7 and result.success == 1.0
    assert result.lengths.tolist() == [5] * 7
    assert result.mean_return == pytest.approx(1 - 0.9 * 5 / 100)


def test_a_student_that_turns_on_the_spot_runs_out_of_time():
    result = evaluate.evaluate_student(Turner(), TASK, WayGrounding, episodes=3)
    assert (result.success, result.mean_return, result.mean_length) == (0.0, 0.0, 100.0)


def test_advice_alone_drives_the_controllers():
    advisor = Advisor([0.9, 0.1])
    result = evaluate.evaluate_teacher(advisor, TASK, WayGrounding, patience=40, episodes=7)
    assert result.success == 1.0 and result.mean_length == 5
    wrong = evaluate.evaluate_teacher(Advisor([0.1, 0.9]), TASK, WayGrounding, patience=40, episodes=3)
    assert wrong.success == 0.0


def test_a_situation_is_asked_about_once_however_many_environments_are_in_it():
    advisor = Advisor([1.0, 0.0])
    evaluate.evaluate_teacher(advisor, TASK, WayGrounding, patience=40, episodes=120)
    assert advisor.asked == [["leg 0"], ["leg 1"]]


def test_sampled_advice_takes_every_option():
    result = evaluate.evaluate_teacher(Advisor([0.5, 0.5]), TASK, WayGrounding, patience=1, episodes=20, sample=True)
    again = evaluate.evaluate_teacher(Advisor([0.5, 0.5]), TASK, WayGrounding, patience=1, episodes=20, sample=True)
    assert len(set(result.lengths.tolist())) > 3
    assert np.array_equal(result.lengths, again.lengths)


def test_without_an_option_to_follow_it_acts_at_random(monkeypatch):
    class Mute(WayGrounding):
        def observe(self, observation, actions, restarted):
            now = super().observe(observation, actions, restarted)
            now.actions[:] = -1
            return now

    acted = []
    step = GymnasiumTask.step
    monkeypatch.setattr(GymnasiumTask, "step", lambda self, actions: (acted.extend(actions.tolist()), step(self, actions))[1])
    evaluate.evaluate_teacher(Advisor([0.5, 0.5]), TASK, Mute, patience=40, episodes=2)
    assert set(acted) == set(range(7))


def test_every_seed_is_played_once_and_results_are_in_the_order_of_seeds():
    """Lengths of the walk depend on where the agent begins; one environment at a time gives the reference."""

    class Wanderer:
        def greedy(self, features):
            return np.full(len(features), FORWARD)

    task = "MiniGrid-LavaGapS5-v0"
    together = evaluate.evaluate_student(Wanderer(), task, WayGrounding, episodes=60, seed=7)
    alone = [evaluate.evaluate_student(Wanderer(), task, WayGrounding, episodes=1, seed=7 + i) for i in range(60)]
    assert together.lengths.tolist() == [int(one.lengths[0]) for one in alone]
    assert together.returns.tolist() == [float(one.returns[0]) for one in alone]
    assert len(set(together.lengths.tolist())) > 1


@pytest.mark.parametrize(("task", "episodes", "message"), [("MiniGrid-Emty-5x5-v0", 3, "did you mean"), (TASK, 0, "at least 1")])
def test_wrong_use_is_refused(task, episodes, message):
    with pytest.raises(CoteachError, match=message):
        evaluate.evaluate_student(Walker(), task, WayGrounding, episodes=episodes)


def test_an_episode_is_filmed_from_its_first_picture_to_its_last(tmp_path):
    frames = evaluate.film_student(Walker(), TASK, WayGrounding)
    assert len(frames) == 1 + len(WAY)
    assert all(frame.shape == frames[0].shape and frame.dtype == np.uint8 for frame in frames)
    assert not np.array_equal(frames[-1], frames[-2])
    guided = evaluate.film_teacher(Advisor([1.0, 0.0]), TASK, WayGrounding, patience=40)
    assert all(np.array_equal(a, b) for a, b in zip(frames, guided, strict=True))

    import imageio.v3 as imageio

    path = tmp_path / "videos" / "episode.gif"
    evaluate.write_gif(path, frames)
    assert len(imageio.imread(path)) == len(frames)
    assert [file.name for file in path.parent.iterdir()] == ["episode.gif"]


def test_a_video_that_cannot_be_written_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match="cannot be written") as error:
        evaluate.write_gif(tmp_path / "file" / "episode.gif", [np.zeros((8, 8, 3), dtype=np.uint8)] * 2)
    assert "\n" not in str(error.value)


def test_a_greedy_evaluation_is_the_first_episode_of_every_environment():
    def success(student):
        environments = GymnasiumTask(TASK, [iter(range(seed, seed + 9)) for seed in (0, 10, 20)])
        return evaluate.play_first_episodes(evaluate.StudentAlone(student), environments, WayGrounding(3, 3))

    assert success(Walker()) == 1.0 and success(Turner()) == 0.0
