"""New words are matched one to one with missing known words by their embeddings."""

import numpy as np

import tiny_lm
from coteach.config import TeacherConfig
from coteach.evaluation.synonym_map import synonym_map
from coteach.teacher.local.teacher import LocalTeacher

KNOWN = ("explore", "pick up the red key", "open the red door", "drop the red key")
NEARBY = {"explore": 0, "look around": 1, "pick up": 10, "grab": 11, "open": 20, "unlatch": 24, "drop": 30, "put down": 26}


def meaning(phrases):
    """Return embeddings on a circle, at forty equally spaced angles."""
    angle = np.array([NEARBY[phrase] for phrase in phrases]) * 2 * np.pi / 40
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_new_words_are_matched_one_to_one_with_the_nearest_known_words():
    new = ("put down the red key", "unlatch the red door", "grab the red key", "look around")
    found = synonym_map(KNOWN, new, meaning)
    assert found == {"look around": "explore", "grab": "pick up", "unlatch": "open", "put down": "drop"}


def test_words_in_both_lists_are_not_mapped():
    assert synonym_map(KNOWN, KNOWN, meaning) == {}
    assert synonym_map(KNOWN, (*KNOWN, "unlatch the red box"), meaning) == {}, "no known word is missing"
    found = synonym_map(KNOWN, ("explore", "grab the red key", "open the red door", "drop the red key"), meaning)
    assert found == {"grab": "pick up"}


def test_some_new_phrases_are_not_mapped_if_there_are_more_than_missing_ones():
    found = synonym_map(("explore", "open the door"), ("look around", "unlatch the door", "grab the door"), meaning)
    assert found == {"look around": "explore", "unlatch": "open"}


def test_embeddings_are_those_of_the_untuned_model():
    teacher = LocalTeacher(tiny_lm.loaded(), TeacherConfig(device="cpu"))
    phrases = ["pick up", "explore the room", "pick up"]
    before = teacher.lm.meaning(phrases)
    assert before.shape == (3, teacher.lm.model.config.hidden_size) and np.isfinite(before).all()
    assert np.array_equal(before[0], before[2]) and not np.allclose(before[0], before[1])
    teacher.lm.adapter.create(seed=0)
    for weight in teacher.lm.adapter.weights().values():
        weight.data.add_(0.1)
    assert np.allclose(teacher.lm.meaning(phrases), before, atol=1e-5)
