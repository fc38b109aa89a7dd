"""Servers of many habits: the advice is right, or uniform with a note that says why; a thought is never read as an answer."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("openai", reason="the extra `remote` is not installed")

from coteach.config import Config, TeacherConfig
from coteach.errors import CoteachError
from coteach.grounding.base import Situation
from coteach.teacher.answer_cache import AnswerCache
from coteach.teacher.remote.teacher import RemoteTeacher
from llm_server import Server
from server_habits import HABITS, RIGHT, SITUATION, advise, behaving


@pytest.mark.parametrize("name", list(HABITS))
def test_a_server_of_any_habit_gives_the_right_advice_or_says_why_not(name: str, server: Server) -> None:
    habit = HABITS[name]
    server.reply = behaving(habit)
    advice, notes = advise(server, **habit.settings)
    if habit.note:
        np.testing.assert_allclose(advice, 1 / 3, atol=1e-6)
        assert len(notes) == 1 and habit.note in notes[0]
    else:
        assert SITUATION.options[int(np.argmax(advice))] == RIGHT and advice.max() > 0.5 and not notes


def test_further_parameters_are_sent_with_every_call_and_are_part_of_the_key(server: Server) -> None:
    server.reply = behaving(HABITS["20 alternatives"])
    cache = AnswerCache(None)
    for extra in ("", '{"top_k": 20, "chat_template_kwargs": {"enable_thinking": true}}'):
        before = len(server.requests)
        advise(server, cache, extra_body=extra)
        sent = [json.loads(request.split(b"\r\n\r\n", 1)[1]) for request in server.requests[before:]]
        assert sent and all(body.get("top_k") == (20 if extra else None) for body in sent)


@pytest.mark.parametrize("wrong", ["top_k=20", "[1]", "{"])
def test_further_parameters_that_are_no_object_are_refused(wrong: str) -> None:
    with pytest.raises(CoteachError, match="teacher.extra_body=.*expected a JSON object"):
        Config(teacher=TeacherConfig(extra_body=wrong))


def test_a_switch_of_ones_own_is_sent_beside_the_one_against_thoughts(server: Server) -> None:
    server.reply = behaving(HABITS["thoughts inline, can be switched off"])
    advice, _ = advise(server, extra_body={"chat_template_kwargs": {"tools": False}})
    sent = json.loads(server.requests[-1].split(b"\r\n\r\n", 1)[1])["chat_template_kwargs"]
    assert sent == {"tools": False, "enable_thinking": False} and SITUATION.options[int(np.argmax(advice))] == RIGHT


@pytest.mark.parametrize("taken", ["model", "messages", "stream"])
def test_further_parameters_leave_the_question_alone(taken: str) -> None:
    with pytest.raises(CoteachError, match=f"teacher.extra_body has '{taken}'"):
        TeacherConfig(extra_body=json.dumps({taken: 1}))


def test_an_answer_is_taken_from_the_cache_only_if_the_server_was_asked_in_the_same_way(server: Server) -> None:
    cache = AnswerCache(None)
    server.reply = behaving(HABITS["no log-probabilities"])
    counted, _ = advise(server, cache)
    before = len(server.requests)
    again, _ = advise(server, cache)
    assert len(server.requests) == before, "a new run knows how the server was asked"
    np.testing.assert_array_equal(again, counted)
    server.reply = behaving(HABITS["20 alternatives"])
    teacher = RemoteTeacher(f"openai:model@{server.url}", TeacherConfig(deadline=20.0), cache)
    teacher.advise([Situation("Mission: look.", SITUATION.options)])
    (told,) = teacher.advise([SITUATION])
    assert told is not None and told.max() > counted.max() + 0.1
