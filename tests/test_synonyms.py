"""Renamed options keep their order and stay different from each other."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import tiny_lm
from coteach.config import TeacherConfig
from coteach.evaluation.synonyms import NOUNS, VERBS, WORDINGS, advise_renamed, rename_options
from coteach.grounding.base import Situation
from coteach.grounding.minigrid import encoding as e
from coteach.grounding.minigrid import mission, words
from coteach.teacher.local.teacher import LocalTeacher

MISSIONS = {
    "pick up the red ball": (e.PLAIN, e.BLOCK),
    "go to a box behind you": (e.PLAIN, e.AT_FIRST),
    "open the red door on your left": (e.PLAIN, e.AT_FIRST, e.BLOCK),
    "put the red ball next to the green box": (e.PLAIN, e.BLOCK),
    "get to the green goal square": (e.PLAIN,),
    "something that no grammar knows": (e.PLAIN,),
}
"""Mission -> the attributes by which it may distinguish things."""
CARRIED = [None, words.Thing(0, e.KEY, e.PLAIN), words.Thing(1, e.BALL, e.PLAIN)]


def grounding_options():
    """Yield the options of every situation with two sorts of things, for each kind of mission and of carried object."""
    for (text, tags), held in itertools.product(MISSIONS.items(), CARRIED):
        read = mission.read(text)
        part = tuple(read.parts[0].tolist())
        sorts = [words.Thing(*which) for which in itertools.product(range(2), range(6), tags)]
        for things in itertools.combinations(sorts, 2):
            facts = words.Facts(read, part, (False,), held, tuple(sorted(things)), more=True, goal=2, moves_only=False)
            yield tuple(option.text for option in words.options(facts))


@pytest.fixture(scope="module")
def every():
    return sorted(set(grounding_options()))


@pytest.mark.parametrize("name", WORDINGS)
def test_renamed_options_of_the_grounding_stay_different(every, name):
    single = sorted({option for options in every for option in options})
    new = rename_options(Situation("", tuple(single)), WORDINGS[name]).options
    assert len(single) > 100 and len(set(new)) == len(new)
    assert not set(new) & set(single), "no option is left as it was, none is taken for another"


def test_every_word_that_is_renamed_is_one_that_options_use(every):
    text = "\n".join(option for options in every for option in options)
    for word in (*VERBS, *NOUNS):
        assert rename_options(Situation("", (text,)), {word: "?"}).options != (text,), word


def test_only_options_change_and_they_keep_their_order():
    situation = Situation("Mission: open the red door.", ("explore", "pick up the red key", "open the red door"), expert=1)
    assert rename_options(situation, VERBS) == Situation(
        "Mission: open the red door.", ("look around", "grab the red key", "unlatch the red door"), expert=1
    )
    assert rename_options(situation, WORDINGS["verbs and nouns"]).options[1:] == ("grab the red passkey", "unlatch the red gate")
    assert rename_options(situation, {}) == situation


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("put the red key next to the blue box", "place the red key beside the blue box"),
        ("drop the red key", "put down the red key"),  # not "place down": what is new is not renamed again
        ("open the closed red door", "unlatch the closed red door"),
        ("close the blue door", "shut the blue door"),
        ("go to the goal", "walk to the goal"),
        ("whistle", "whistle"),
    ],
)
def test_whole_words_are_renamed_once(option, expected):
    assert rename_options(Situation("", (option,)), VERBS).options == (expected,)


def test_advice_on_renamed_options_is_in_the_order_of_the_options_as_they_were():
    teacher = LocalTeacher(tiny_lm.loaded(), TeacherConfig(device="cpu"))
    situation = Situation("You see a ball.", ("explore", "pick up the red ball", "open the red box"))
    by_hand = Situation("You see a ball.", ("look around", "grab the red ball", "unlatch the red box"))
    answer = advise_renamed(VERBS, teacher.advise)([situation])[0]
    assert_array_equal(answer, teacher.advise([by_hand])[0])
    assert not np.allclose(answer, teacher.advise([situation])[0])
