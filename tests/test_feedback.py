"""What the teacher is told: successes that cover what is met, and what its own advice has cost."""

import numpy as np
import pytest

import tiny_lm
from coteach.config import FEEDBACK, TeacherConfig
from coteach.errors import CoteachError, RunFailed
from coteach.grounding.base import Situation
from coteach.teacher import feedback
from coteach.teacher.base import Teacher
from coteach.teacher.feedback import NOTHING, Experience, Feedback
from coteach.teacher.local.teacher import LocalTeacher
from coteach.teacher.recorded import RECORD, Record, RecordedTeacher, Recorder

GO = ("explore", "go to the red ball", "go to the blue box")
DOOR = ("pick up the red key", "open the red door")


def experience(text, options=GO, best=1, said=0, tries=10.0, failures=(), worth=(), met=1.0):
    """`best` is what was shown to work, `said` the slot that the teacher would choose; each option was tried equally often."""
    chosen = np.eye(len(options))
    return Experience(
        Situation(text, options),
        None if said is None else 0.4 * chosen[said] + 0.6 / len(options),
        0.9 * chosen[best] + 0.1 / len(options),
        np.full(len(options), tries),
        np.array(failures or [0.0] * len(options)),
        np.array(worth or 0.5 + 0.4 * chosen[best]),
        met,
    )


def locked(carried, **facts):
    failing = carried == "nothing"
    facts = {"best": 0 if failing else 1, "said": 1, "failures": (0.0, 10.0 if failing else 0.0)} | facts
    return experience(f"Mission: leave. You carry {carried}. You see a locked red door.", DOOR, **facts)


def test_an_example_is_an_option_that_was_completed_where_the_evidence_is_for_it() -> None:
    worked = experience("You see a red ball.")
    never_done = experience("You see a blue box.", best=2, failures=(0.0, 0.0, 10.0), met=100.0)
    assert feedback.examples([worked, never_done], 8) == [("You see a red ball.", "go to the red ball")]


def test_examples_cover_what_is_met_rather_than_repeat_what_is_met_most() -> None:
    balls = [experience(f"You see a red ball and a {colour} key.", met=10.0) for colour in ("blue", "green", "grey", "purple")]
    nothing = experience("You see a green key and a grey key.", best=0, met=3.0)
    chosen = feedback.examples([*balls, nothing], 2)
    assert [option for _, option in chosen] == ["go to the red ball", "explore"]


def test_no_example_is_chosen_twice_and_none_where_nothing_is_known() -> None:
    assert len(feedback.examples([experience("You see a red ball.", met=5.0)] * 3, 8)) == 1
    assert feedback.examples([], 8) == []
    assert feedback.compose(TeacherConfig(feedback="both"), []) == NOTHING


def test_the_advice_that_cost_most_is_told_first() -> None:
    rare = experience("You see a red ball.", said=0, worth=(0.0, 0.9, 0.0), met=1.0)
    often = experience("You see a red ball far away.", said=2, worth=(0.0, 0.9, 0.6), met=10.0)
    first, second = feedback.sentences(TeacherConfig(), [rare, often])
    assert '"go to the blue box"' in first and "0.60" in first and '"explore"' in second
    assert feedback.sentences(TeacherConfig(feedback_pieces=1), [rare, often]) == [first]


def test_advice_that_fails_is_told_with_the_condition_that_decides() -> None:
    (said,) = feedback.sentences(TeacherConfig(), [locked("nothing"), locked("a red key", said=1)])
    assert said == (
        'You advised "open the red door": it failed 10 of 10 times where "You carry nothing", '
        'and was done where "You carry a red key".'
    )


def test_where_nothing_decides_no_condition_is_made_up() -> None:
    always = locked("nothing")
    sometimes = locked("nothing", best=1, failures=(0.0, 5.0))
    (said,) = feedback.sentences(TeacherConfig(), [always, sometimes])
    assert said == 'You advised "open the red door": it failed 15 of 20 times.'


@pytest.mark.parametrize(
    "harmless",
    [
        experience("A.", said=1),  # right
        experience("A.", said=None),  # never asked
        experience("A.", said=0, tries=3.0),  # hardly tried
        experience("A.", said=0, worth=(0.89, 0.9, 0.1)),  # as good as the best
    ],
)
def test_nothing_is_said_of_advice_that_was_right_or_not_given_or_not_tried(harmless: Experience) -> None:
    assert feedback.sentences(TeacherConfig(), [harmless]) == []


@pytest.mark.parametrize("what", FEEDBACK)
def test_the_two_forms_are_told_as_asked(what: str) -> None:
    composed = feedback.compose(TeacherConfig(feedback=what), [locked("nothing"), locked("a red key")])
    assert bool(composed.examples) == (what in ("examples", "both"))
    assert bool(composed.evidence) == (what in ("evidence", "both"))


def test_what_the_teacher_heeds_is_still_told_until_there_is_news_of_it() -> None:
    key = "a red key"
    first = feedback.compose(TeacherConfig(feedback="evidence"), [locked("nothing"), locked(key)])
    heeded = feedback.compose(TeacherConfig(feedback="evidence"), [locked("nothing", said=0), locked(key)], first)
    assert heeded == first and len(first.evidence) == 1
    worse = feedback.compose(
        TeacherConfig(feedback="evidence"), [locked("nothing", tries=30.0, failures=(0.0, 30.0)), locked(key)], heeded
    )
    assert len(worse.evidence) == 1 and "30 of 30" in worse.evidence[0]


def test_what_fits_is_told_by_turns_and_what_is_too_long_is_left_out() -> None:
    whole = Feedback((("a", "b"), ("c" * 50, "d"), ("e", "f")), ("1", "2", "3"))

    def cost(some: Feedback) -> int:
        return sum(len(text) + len(option) for text, option in some.examples) + sum(map(len, some.evidence))

    assert whole.fitted(cost, 100) == whole
    assert whole.fitted(cost, 3) == Feedback((("a", "b"),), ("1",))
    assert whole.fitted(cost, 6) == Feedback((("a", "b"), ("e", "f")), ("1", "2"))
    assert whole.fitted(cost, 0) == NOTHING


def test_what_was_told_is_read_again_and_damage_is_named_in_one_line(tmp_path) -> None:
    written = Feedback((("You see\na ball.", "go"),), ('You advised "ölen".',))
    assert Feedback.load(tmp_path) == NOTHING
    written.save(tmp_path / "teacher")
    assert Feedback.load(tmp_path / "teacher") == written
    assert [file.name for file in (tmp_path / "teacher").iterdir()] == ["feedback.json"]
    (tmp_path / "feedback.json").write_text('{"examples": [[1]], "evidence": []}')
    with pytest.raises(CoteachError, match=r"feedback\.json") as error:
        Feedback.load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_record_says_again_what_was_told_and_whether_it_was_new(tmp_path) -> None:
    some, more = Feedback((("You see a ball.", "take the ball"),)), Feedback((), ("It failed.",))
    recorder = Recorder(
        LocalTeacher(tiny_lm.loaded(), TeacherConfig(device="cpu", feedback_tokens=200)), Record(tmp_path / RECORD)
    )
    situation = Situation("You see a ball.", ("explore", "take the ball"))

    def played(teacher: Teacher) -> list[object]:
        heard: list[object] = []
        for given in (some, some, more):
            heard += [teacher.give_feedback(given), teacher.feedback, np.array(teacher.advise([situation])[0]).tolist()]
        return heard

    lived = played(recorder)
    assert lived[::3] == [True, False, True] and lived[2] == lived[5] != lived[8]
    again = RecordedTeacher(tmp_path)
    assert again.feedback == NOTHING
    assert played(again) == lived
    with pytest.raises(RunFailed, match="is not in-context feedback"):
        again.give_feedback(some)
