"""An option is followed to its end, and each end is reported once."""

import numpy as np
import pytest

from coteach.grounding.base import Grounded
from coteach.grounding.follower import Ending, OptionFollower, choose_slots

NOBODY = np.zeros(1, dtype=np.bool_)
CONTROLLED = np.ones(1, dtype=np.bool_)
FIRST = np.array([[1.0, 0.0]])
SECOND = np.array([[0.0, 1.0]])


def one(situation=0, actions=(3, 4), completed=0, failed=0):
    """One step of one environment with two options."""
    return Grounded(
        features=np.zeros((1, 1), dtype=np.uint8),
        situation=np.array([situation]),
        actions=np.array([actions], dtype=np.int8),
        completed=np.array([completed]),
        failed=np.array([failed]),
    )


def ended_options(follower):
    """Return what ended on the last step: (situation, slot, duration, ending, next situation)."""
    ended = follower.ended
    rows = zip(ended.situation, ended.slot, ended.duration, ended.ending, ended.next_situation, strict=True)
    return [(int(c), int(o), int(d), Ending(int(w)), int(n)) for c, o, d, w, n in rows]


def follow(follower, advice=FIRST, controlled=CONTROLLED, done=NOBODY, rng=None, **step):
    return int(follower.choose(one(**step), advice, controlled, done, rng)[0])


def test_an_option_is_followed_although_the_advice_turns_against_it():
    follower = OptionFollower(1, 2, patience=10)
    assert follow(follower) == 3
    assert follow(follower, advice=SECOND) == 3
    assert len(follower.ended) == 0
    assert follower.age[0] == 2


def test_the_controllers_action_is_looked_up_anew_on_every_step():
    follower = OptionFollower(1, 2, patience=10)
    assert [follow(follower, actions=(a, 0)) for a in (2, 5, 1)] == [2, 5, 1]


@pytest.mark.parametrize(
    ("step", "done", "ending"),
    [
        ({"completed": 0b01}, False, Ending.COMPLETED),
        ({"failed": 0b01}, False, Ending.FAILED),
        ({"situation": 7}, False, Ending.CHANGED),
        ({"actions": (-1, 4)}, False, Ending.STUCK),
        ({}, True, Ending.EPISODE_END),
        ({"situation": 7, "completed": 0b01}, False, Ending.COMPLETED),
        ({"completed": 0b01}, True, Ending.COMPLETED),
        ({"situation": 7, "failed": 0b01}, True, Ending.FAILED),
        ({"situation": 7}, True, Ending.EPISODE_END),
    ],
)
def test_how_an_option_ends(step, done, ending):
    follower = OptionFollower(1, 2, patience=10)
    follow(follower)
    follow(follower)
    follow(follower, advice=SECOND, done=np.array([done]), **step)
    assert ended_options(follower) == [(0, 0, 2, ending, step.get("situation", 0))]


def test_an_event_of_another_option_does_not_end_the_followed_one():
    follower = OptionFollower(1, 2, patience=10)
    follow(follower)
    follow(follower, completed=0b10, failed=0b10)
    assert ended_options(follower) == []
    assert follower.slot[0] == 0


def test_patience_is_the_number_of_actions_an_option_gets():
    follower = OptionFollower(1, 2, patience=3)
    for _ in range(3):
        follow(follower)
        assert ended_options(follower) == []
    assert follow(follower, advice=SECOND) == 4
    assert ended_options(follower) == [(0, 0, 3, Ending.TIMEOUT, 0)]


def test_the_next_option_begins_on_the_step_on_which_the_last_one_ended():
    follower = OptionFollower(1, 2, patience=10)
    follow(follower)
    assert follow(follower, advice=SECOND, situation=5, completed=0b01) == 4
    assert (follower.situation[0], follower.slot[0], follower.age[0]) == (5, 1, 1)


def test_nothing_is_followed_out_of_the_last_observation_of_an_episode():
    follower = OptionFollower(1, 2, patience=10)
    follow(follower)
    assert follow(follower, done=CONTROLLED) == -1
    assert follow(follower, situation=9) == 3
    assert ended_options(follower) == []


def test_an_option_is_not_recorded_where_the_teacher_loses_control():
    follower = OptionFollower(1, 2, patience=10)
    follow(follower)
    assert follow(follower, controlled=NOBODY, completed=0b01) == -1
    assert ended_options(follower) == []


def test_without_an_option_that_has_an_action_there_is_no_action():
    follower = OptionFollower(1, 2, patience=10)
    assert follow(follower, actions=(-1, -1), rng=np.random.default_rng(0)) == -1
    assert follower.slot[0] == -1
    assert follow(follower) == 3


def test_advice_for_options_without_an_action_is_shared_among_the_others():
    rng = np.random.default_rng(0)
    advice = np.tile([0.6, 0.3, 0.1], (20_000, 1))
    drawn = np.bincount(choose_slots(advice, np.tile([False, True, True], (20_000, 1)), rng), minlength=3) / 20_000
    assert drawn == pytest.approx([0.0, 0.75, 0.25], abs=0.02)


def test_available_options_without_any_advice_are_equally_likely():
    rng = np.random.default_rng(0)
    available = np.tile([False, True, True], (20_000, 1))
    drawn = np.bincount(choose_slots(np.tile([1.0, 0.0, 0.0], (20_000, 1)), available, rng), minlength=3) / 20_000
    assert drawn == pytest.approx([0.0, 0.5, 0.5], abs=0.02)


def test_environments_do_not_influence_each_other():
    """What N environments do together is what each does alone."""
    rng = np.random.default_rng(1)
    steps, envs, slots = 200, 5, 3
    situation = rng.integers(0, 2, (steps, envs))
    actions = rng.integers(-1, 7, (steps, envs, slots)).astype(np.int8)
    completed = np.where(rng.random((steps, envs)) < 0.2, rng.integers(0, 2**slots, (steps, envs)), 0)
    failed = np.where(rng.random((steps, envs)) < 0.1, rng.integers(0, 2**slots, (steps, envs)), 0)
    advice, controlled = rng.random((steps, envs, slots)), rng.random((steps, envs)) < 0.9
    done = rng.random((steps, envs)) < 0.1

    def run(rows):
        follower, acted, seen = OptionFollower(len(rows), slots, 4), [], []
        for t in range(steps):
            now = Grounded(
                np.zeros((len(rows), 1), np.uint8), situation[t, rows], actions[t, rows], completed[t, rows], failed[t, rows]
            )
            acted.append(follower.choose(now, advice[t, rows], controlled[t, rows], done[t, rows], None))
            seen += [(t, rows[e], *row) for e, row in zip(follower.ended.env, ended_options(follower), strict=True)]
        return np.array(acted), seen

    together, seen = run(list(range(envs)))
    alone = [run([env]) for env in range(envs)]
    assert np.array_equal(together, np.hstack([acted for acted, _ in alone]))
    assert seen == sorted(row for _, rows in alone for row in rows)
    assert {row[5] for row in seen} == set(Ending)
