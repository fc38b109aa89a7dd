"""Word values: estimates for situations never met, and their uncertainty."""

from pathlib import Path

import numpy as np
import pytest

from coteach.config import EvidenceConfig, WordsConfig
from coteach.grounding.base import Situation, Situations
from coteach.grounding.outcomes import Outcome
from coteach.method.word_pairs import Pairs, blank
from coteach.method.word_values import WordValues

TRIED = ("red", "green", "blue")
UNTRIED = ("grey", "pink", "white")


def go_to(colour: str, colours: tuple[str, ...]) -> Situation:
    """Return a situation whose mission names one of the visible balls."""
    seen = ", ".join(f"a {c} ball" for c in colours)
    return Situation(f"Mission: go to the {colour} ball. You see {seen}.", tuple(f"go to the {c} ball" for c in colours))


def taught(rounds: int = 40) -> WordValues:
    """Return word values trained on balls of the first colours: going to the named ball has the value 0.9, the others 0."""
    situations = Situations()
    for colours in (TRIED, UNTRIED):
        for colour in colours:
            situations.number(go_to(colour, colours))
    words = WordValues(situations, 3, WordsConfig(steps=12), EvidenceConfig(), seed=0)
    words.grow(6)
    worth, tries = np.zeros((6, 3)), np.zeros((6, 3))
    worth[:3], tries[:3] = 0.9 * np.eye(3), 20.0
    for _ in range(rounds):
        words.learn(worth, tries, np.ones(6), np.full((6, 3), 1 / 3), np.zeros(6, dtype=np.bool_))
    for number in (0, 1, 2) * 60:
        for slot in range(3):
            words.add_outcome(Outcome(number, slot, 0))
    words.refresh(np.arange(6))
    return words


def test_shared_words_are_blanked_out() -> None:
    assert blank("go to the red ball", "Mission: go to the red ball") == ("* * * *", "mission: * * * *")
    assert blank("pick up the blue key", "a locked blue door") == ("pick up * key", "locked * door")


def test_the_same_relation_between_other_words_is_the_same_pair() -> None:
    pairs = Pairs(Situations(), 2**14)
    assert (
        pairs._pair("go to the red ball", "Mission: go to the red ball")[1]
        == pairs._pair("pick up the blue key", "Mission: pick up the blue key")[1]
    )


def test_the_shape_of_a_relation_leaves_out_which_words_differ() -> None:
    pairs = Pairs(Situations(), 2**14)
    shapes = [pairs._pair(f"pick up the {thing}", "Mission: pick up a ball")[2] for thing in ("red ball", "blue ball", "red key")]
    assert shapes[0] == shapes[1] != shapes[2]


def test_doing_what_the_mission_says_is_learned_for_colours_never_tried() -> None:
    mean = taught().mean[3:]
    assert (mean.argmax(axis=1) == [0, 1, 2]).all()


def test_values_are_certain_for_new_words_if_the_shape_decides() -> None:
    uncertainty = taught().uncertainty
    assert uncertainty[:3].max() < 0.1
    assert uncertainty[3:].max() < 0.2


def test_values_are_uncertain_for_new_words_if_the_shape_does_not_decide() -> None:
    """The right place depends on the thing's name alone: nothing follows for other things."""
    situations, places = Situations(), ("put it in the fridge", "put it on the shelf", "put it in the box")
    for thing in range(12):
        situations.number(Situation(f"Mission: put the thing{thing} away. You hold the thing{thing}.", places))
    words = WordValues(situations, 3, WordsConfig(steps=12), EvidenceConfig(), seed=0)
    words.grow(12)
    worth, tries = np.zeros((12, 3)), np.zeros((12, 3))
    worth[np.arange(9), np.arange(9) % 3], tries[:9] = 0.9, 20.0
    for _ in range(40):
        words.learn(worth, tries, np.ones(12), np.full((12, 3), 1 / 3), np.zeros(12, dtype=np.bool_))
    for number in list(range(9)) * 60:
        for slot in range(3):
            words.add_outcome(Outcome(number, slot, 0))
    words.refresh(np.arange(12))
    assert words.uncertainty[:9].max() < 0.15
    assert words.uncertainty[9:].min() > 0.4


def test_values_are_uncertain_in_an_unfamiliar_situation() -> None:
    words = taught()
    strange = words.situations.number(Situation("Mission: bake bread. You see an oven.", ("light fire", "knead dough")))
    words.grow(strange + 1)
    assert words.uncertainty[strange].tolist() == [0.5] * 3, "nothing is known before `refresh`"
    words.refresh(np.array([strange]))
    assert words.uncertainty[strange, :2].mean() > 3 * words.uncertainty[:3].mean()


def test_the_distilled_prior_predicts_the_teachers_answers() -> None:
    words = taught()
    says = np.array([[0.1, 0.2, 0.7]] * 6)
    answered = np.arange(6) < 4
    for _ in range(40):
        words.learn(np.zeros((6, 3)), np.ones((6, 3)), np.ones(6), says, answered)
    words.refresh(np.arange(6))
    assert words.distilled.sum(axis=1) == pytest.approx(1.0)
    assert np.abs(words.distilled[:4] - says[:4]).max() < 0.1


def test_word_values_continue_from_a_checkpoint_unchanged(tmp_path: Path) -> None:
    one = taught(rounds=3)
    one.save(tmp_path)
    other = WordValues(one.situations, 3, WordsConfig(steps=12), EvidenceConfig(), seed=9)
    other.load(tmp_path)
    for words in (one, other):
        words.learn(np.eye(6)[:, :3], np.ones((6, 3)), np.ones(6), np.full((6, 3), 1 / 3), np.ones(6, dtype=np.bool_))
        words.refresh(np.arange(6))
    assert np.array_equal(one.mean, other.mean) and np.array_equal(one.distilled, other.distilled)
