"""The advice: which situations the LLM is queried about, and how the evidence changes its answers."""

from collections.abc import Sequence

import numpy as np
import pytest

from coteach.arms import ARMS
from coteach.config import Config
from coteach.grounding.base import Family, Layout, Situation, Situations
from coteach.grounding.outcomes import TERMINAL, Outcome
from coteach.method.abstract_model import AbstractModel
from coteach.method.advice import Advice
from coteach.method.lessons import make_lessons
from coteach.method.word_values import WordValues
from coteach.teacher.base import Lesson, TuneReport
from coteach.teacher.costs import Usage

OPTIONS = ("explore", "drop the key", "open the door")


class Stubborn:
    """A teacher with a constant answer, which records what it was asked."""

    name, tunable = "stubborn", False

    def __init__(self, answer: Sequence[float]) -> None:
        self.answer, self.usage, self.asked = np.array(answer), Usage(), list[str]()

    def advise(self, situations: Sequence[Situation]) -> list[np.ndarray]:
        self.asked += [situation.text for situation in situations]
        return [self.answer for _ in situations]

    def tune(self, lessons: Sequence[Lesson], seed: int) -> TuneReport:
        raise NotImplementedError


def advice_of(arm: str, count: int = 3) -> tuple[Advice, AbstractModel, Stubborn]:
    situations, teacher = Situations(), Stubborn([0.1, 0.8, 0.1])
    for i in range(count):
        situations.number(Situation(f"Mission: leave. This is room {i}.", OPTIONS))
    family = Family("test", Layout(flags=1), ("wait",), 4, "", lambda *_: None, "")  # type: ignore[arg-type]
    advice = Advice(Config(), ARMS[arm], family, situations, teacher, seed=0)  # type: ignore[arg-type]
    advice.count_visits([np.arange(count).repeat(np.arange(1, count + 1))])
    advice.budget.left = 10
    return advice, advice.evidence.model, teacher


def test_no_situation_is_asked_about_twice_under_the_same_weights() -> None:
    advice, _, teacher = advice_of("no-share")
    asked = []
    for calls in (2, 2, 2):
        advice.budget.left = calls
        asked.append(advice.query_most_visited())
    assert asked == [2, 1, 0]
    assert sorted(teacher.asked) == [
        "Mission: leave. This is room 0.",
        "Mission: leave. This is room 1.",
        "Mission: leave. This is room 2.",
    ]
    advice.ask_again()
    advice.budget.left = 10
    assert advice.query_most_visited() == 3


def test_queries_go_to_the_most_visited_situations_within_the_budget() -> None:
    advice, _, teacher = advice_of("no-share")
    advice.budget.left = 1
    advice.query_most_visited()
    advice.query_most_visited()
    assert teacher.asked == ["Mission: leave. This is room 2."] and advice.budget.left == 0


def test_a_situation_met_in_a_controlled_episode_is_queried_at_once_within_the_budget() -> None:
    advice, _, teacher = advice_of("mutual")
    advice.budget.left = 1
    met, optimistic = np.array([0, 1, 0]), np.array([True, True, False])
    first = advice.follow(met, optimistic)
    assert len(teacher.asked) == 1 and first.shape == (3, 4)
    assert first.sum(axis=1) == pytest.approx(1.0) and (first[:, 3] == 0).all(), "there is no fourth option"
    assert np.array_equal(advice.follow(met, optimistic), first) and len(teacher.asked) == 1


def test_a_known_situation_is_queried_when_the_teacher_controls_there() -> None:
    """It may have been met first in an evaluation or by the student, when the queries were spent on others."""
    advice, _, teacher = advice_of("no-share")
    advice.budget.left = 0
    advice.improve()
    advice.budget.left = 1
    shown = advice.follow(np.array([1, 1]), np.array([False, False]))
    assert teacher.asked == ["Mission: leave. This is room 1."]
    assert (shown.argmax(axis=1) == 1).all()


def test_likely_options_are_tried_first_if_the_prior_is_trusted() -> None:
    """Option 1 was tried and reached a new situation: without the prior, the untried options have a higher optimistic Q."""
    tried = [Outcome(0, 1, 1, duration=3)] * 3
    explored = {}
    for arm, trust in (("no-llm", 1.0), ("no-share", 0.0), ("no-share", 1.0)):
        advice, model, _ = advice_of(arm)
        advice.query_most_visited()
        for outcome in tried:
            model.add(outcome)
        advice.prior_trust = trust
        advice.improve()
        explored[arm, trust] = advice.table.optimistic_q[0, :3].argmax()
    assert explored == {("no-llm", 1.0): 0, ("no-share", 0.0): 0, ("no-share", 1.0): 1}


def test_a_teacher_whose_first_choices_fail_loses_trust_before_the_first_reward() -> None:
    """Its first choice, option 1, ends the episode without a reward or fails, and others do not; or the reverse."""
    for bad, believed in ((1, False), (2, True)):
        advice, _, _ = advice_of("no-share", count=12)
        advice.budget.left = 12
        advice.query_most_visited()
        for number in range(12):
            for slot in (1, 2):
                vain = Outcome(number, slot, TERMINAL) if number % 2 else Outcome(number, slot, number, failed=True)
                advice.evidence.model.add(vain if slot == bad else Outcome(number, slot, (number + 1) % 12, duration=2))
        for _ in range(8):
            advice.improve()
        assert (advice.prior_trust < 0.01, advice.prior_trust == 1.0) == (not believed, believed)


def test_until_the_teacher_answered_its_advice_is_uniform() -> None:
    advice, model, _ = advice_of("no-share")
    advice.improve()
    assert advice.table.exploration[0] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=1e-6)


def proof() -> list[Outcome]:
    """Return outcomes in situation 2: 'drop the key' fails, 'open the door' is rewarded."""
    return [Outcome(2, 1, 2, failed=True), Outcome(2, 2, TERMINAL, reward=0.9, duration=3)] * 30


def test_evidence_overrules_the_teacher_only_where_the_arm_reweighs() -> None:
    for arm, best in (("no-share", 2), ("one-way", 1)):
        advice, model, _ = advice_of(arm)
        advice.query_most_visited()
        for outcome in proof():
            model.add(outcome)
        advice.improve()
        assert advice.table.imitation[2].argmax() == best, arm
        assert advice.table.imitation[0].argmax() == 1, "no evidence there: only the prior counts"


def test_lessons_are_what_worked_where_the_teacher_is_wrong() -> None:
    advice, model, _ = advice_of("no-share")
    advice.query_most_visited()
    for outcome in [*proof(), *[Outcome(0, 0, 0, failed=True)] * 30]:
        model.add(outcome)
    advice.improve()
    lessons = make_lessons(advice, 5, np.random.default_rng(0))
    assert [lesson.situation.text for lesson in lessons] == ["Mission: leave. This is room 2."], "failures alone teach nothing"
    assert lessons[0].target.argmax() == 2 and lessons[0].target.sum() == pytest.approx(1.0)


def test_lessons_with_few_outcomes_are_used_if_there_are_not_enough_others() -> None:
    advice, _, _ = advice_of("no-share", count=30)
    advice.budget.left = 30
    advice.query_most_visited()
    for number in range(30):
        for _ in range(12 if number < 3 else 3):
            advice.evidence.model.add(Outcome(number, 2, TERMINAL, reward=0.9, duration=3))
    advice.improve()
    rng = np.random.default_rng(0)
    assert len(make_lessons(advice, 2, rng)) == 2 and len(make_lessons(advice, 20, rng)) == 20


def test_a_teacher_that_agrees_with_the_advice_gets_no_lessons() -> None:
    advice, model, teacher = advice_of("no-share")
    teacher.answer = np.array([0.005, 0.005, 0.99])
    for outcome in proof():
        model.add(outcome)
    advice.query_most_visited()
    advice.improve()
    assert make_lessons(advice, 5, np.random.default_rng(0)) == []


def test_no_query_is_spent_where_the_evidence_has_decided() -> None:
    advice, model, teacher = advice_of("no-share")
    for outcome in proof():
        model.add(outcome)
    advice.improve()
    assert advice.query_most_visited() == 2
    assert "Mission: leave. This is room 2." not in teacher.asked


@pytest.mark.slow
def test_what_was_learned_in_one_situation_is_guessed_for_others_where_the_arm_shares() -> None:
    for arm, best in (("mutual", 2), ("no-share", 1)):
        advice, _, _ = advice_of(arm)
        advice.query_most_visited()
        for outcome in [*proof(), *[Outcome(2, 0, 2, failed=True)] * 30]:
            advice.evidence.add_outcome(outcome)
        for _ in range(30):
            advice.table.visits[:] = 5.0
            advice.improve()
        assert advice.table.imitation[0].argmax() == best, arm


@pytest.mark.slow
def test_the_distilled_prior_stands_in_where_the_teacher_was_not_asked() -> None:
    advice, _, _ = advice_of("one-way", count=80)
    advice.budget.left = 40
    advice.query_most_visited()
    for outcome in proof():
        advice.evidence.model.add(outcome)
    for _ in range(30):
        advice.table.visits[:] = 5.0
        advice.improve()
    unasked = np.flatnonzero(~advice.table.answered)
    assert len(unasked) == 40
    assert (advice.table.exploration[unasked].argmax(axis=1) == 1).all() and advice.table.prior[unasked, :3].std() < 1e-6


def advice_with(answer: list[float]) -> Advice:
    """Return the advice after evidence that the last option is right in thirty situations; answer: the teacher's, in all."""
    advice, _, teacher = advice_of("no-share", count=30)
    teacher.answer = np.array(answer)
    advice.budget.left = 30
    advice.query_most_visited()
    for number in range(30):
        for slot, reward in ((0, 0.0), (1, 0.0), (2, 0.9)):
            for _ in range(5):
                advice.evidence.add_outcome(Outcome(number, slot, TERMINAL, reward=reward, duration=3))
    for _ in range(5):
        advice.table.visits[:] = 5.0
        advice.improve()
    return advice


def test_trust_in_the_prior_follows_the_teachers_answers() -> None:
    right, wrong = advice_with([0.01, 0.01, 0.98]), advice_with([0.01, 0.98, 0.01])
    assert right.prior_trust > 0.7 and wrong.prior_trust < 0.1
    right.begin_round(16)
    wrong.begin_round(16)
    assert right.budget.left > 10 and wrong.budget.left == 4, "a teacher that is wrong is queried less, but not never"


def test_answers_that_are_right_no_more_often_than_wrong_earn_no_trust() -> None:
    """The mean gain is above 0, but not significantly, as on KeyCorridorS3R3 (docs/notebook.md)."""
    advice = advice_with([0.05, 0.05, 0.9])
    for number in range(30):  # leaning to the right option in every second situation, as far to a wrong one in the others
        advice.table.prior[number, :3] = [0.25, 0.25, 0.5] if number % 2 else [0.5, 0.25, 0.25]
    advice.prior_trust = 0.25
    for _ in range(10):
        advice.table.visits[:] = 5.0
        advice.improve()
    assert advice.prior_trust < 0.01


def test_new_weights_earn_trust_by_their_answers() -> None:
    advice = advice_with([0.01, 0.98, 0.01])
    advice.ask_again()
    assert advice.prior_trust < 0.1
    advice.teacher.answer = np.array([0.01, 0.01, 0.98])  # type: ignore[attr-defined]
    for _ in range(6):
        advice.begin_round(16)
        advice.query_most_visited()
        advice.table.visits[:] = 5.0
        advice.improve()
    assert advice.prior_trust > 0.7


def test_lessons_that_were_taught_do_not_change_the_trust() -> None:
    advice = advice_with([0.01, 0.98, 0.01])
    advice.table.taught[:] = True
    advice.prior_trust = 1.0
    advice.improve()
    assert advice.prior_trust == 1.0


def test_without_any_try_the_student_imitates_the_expected_values() -> None:
    advice, _, _ = advice_of("no-llm", count=1)
    advice.grow()
    words = advice.evidence.words
    assert isinstance(words, WordValues)
    words.mean[0, :3], words.uncertainty[0, :3] = [0.1, 0.4, 0.2], [0.5, 0.3, 0.05]
    advice.update_policies(np.array([0]))
    assert advice.table.exploration[0].argmax() != 2, "what may turn out best is tried"
    assert advice.table.exploration[0, 0] > 0.5 * advice.table.exploration[0, 1]
    assert advice.table.imitation[0].argmax() == 1
    assert advice.table.imitation[0, 0] < advice.table.imitation[0, 2]
