"""The house: every thing has one place, held-out things are not trained on, only episodes without a mistake are rewarded."""

import pytest

from coteach.envs.tidy_up import HELD_OUT_THINGS, PLACES, THINGS, TIDY_UP, TIDY_UP_NEW, TO_TIDY, TRAINING_THINGS, House


def place(thing):
    return list(PLACES).index(THINGS[thing][1])


def test_every_thing_has_one_place_and_is_either_for_training_or_held_out():
    names = [thing for thing, _ in THINGS]
    assert len(set(names)) == len(names) == 200
    assert sorted(TRAINING_THINGS + HELD_OUT_THINGS) == list(range(200)) and not set(TRAINING_THINGS) & set(HELD_OUT_THINGS)
    for things in (TRAINING_THINGS, HELD_OUT_THINGS):
        assert len({sum(THINGS[thing][1] == where for thing in things) for where in PLACES}) == 1, "no place is likelier"


def test_four_things_in_their_places_are_rewarded_once():
    house = House(TRAINING_THINGS)
    thing, _ = house.reset(seed=3)
    rewards = []
    for count in range(TO_TIDY):
        assert thing in TRAINING_THINGS
        thing, reward, over, truncated, _ = house.step(place(thing))
        rewards.append(reward)
        assert over == (count == TO_TIDY - 1) and not truncated
    assert rewards == [0, 0, 0, 1]


def test_the_first_mistake_ends_the_episode():
    house = House(HELD_OUT_THINGS)
    thing, _ = house.reset(seed=3)
    assert thing in HELD_OUT_THINGS
    assert house.step((place(thing) + 1) % len(PLACES))[1:3] == (0.0, True)


@pytest.mark.parametrize("task", [TIDY_UP, TIDY_UP_NEW])
def test_the_text_names_the_thing_and_not_its_place(task):
    for number, (thing, where) in enumerate(THINGS):
        text = task.describe(number)
        assert thing in text and where not in text
        assert task.expert(number) == f"put it {where}" and task.expert(number) in task.actions
