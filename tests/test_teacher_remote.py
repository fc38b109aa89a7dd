"""A remote teacher against a real server: llama.cpp's, with the model that coteach carries, on loopback."""

from __future__ import annotations

import importlib.util
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

pytest.importorskip("openai", reason="the extra `remote` is not installed")
pytest.importorskip("xllamacpp", reason="xllamacpp, the server that these tests start, is not installed")

from coteach.commands import cli
from coteach.config import TeacherConfig
from coteach.errors import CoteachError
from coteach.grounding.base import Situation
from coteach.teacher.answer_cache import AnswerCache
from coteach.teacher.base import Lesson
from coteach.teacher.feedback import Feedback
from coteach.teacher.make import make_teacher
from coteach.teacher.remote.option_scores import RequestMode
from coteach.teacher.remote.teacher import RemoteTeacher

KEY = "sk-this-is-secret-0123456789"
DOOR = Situation(
    "Mission: open the door. You carry nothing. You see a red key, a locked red door.", ("explore", "pick up the red key")
)
WORDS = ("red", "blue", "green", "grey", "pink", "teal", "tan", "lime", "gold", "rose", "plum")
BALLS = Situation("Mission: go to a red ball. You see a red ball.", tuple(f"go to the {word} ball" for word in WORDS))
SHORT = ["--task", "MiniGrid-Unlock-v0", "--steps", "100", "--envs", "4", "--engine", "minigrid"]
SHORT += ["threads=1", "episodes=1", "evaluation.levels=1"]
PATIENT = 300.0  # seconds for a call: these processors may have other work


def example(name: str) -> ModuleType:
    """A script in examples/, imported."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with example("own_llm").serving(cache_prompt=False, endpoint_metrics=True) as url:
        yield url


def teacher(url: str, cache: AnswerCache | None = None, **settings: Any) -> RemoteTeacher:
    made = make_teacher(f"openai:smollm2@{url}", TeacherConfig(**{"deadline": PATIENT} | settings), cache)
    assert isinstance(made, RemoteTeacher)
    return made


def counted(url: str) -> tuple[int, int]:
    """Tokens in and out by the server's own count."""
    page = urllib.request.urlopen(f"{url.removesuffix('/v1')}/metrics").read().decode()
    names = ("prompt_tokens_total", "tokens_predicted_total")
    return tuple(int(float(re.search(rf"^llamacpp:{name} (\S+)$", page, re.M)[1])) for name in names)


@pytest.mark.slow
def test_log_probabilities_become_advice_that_the_order_of_the_options_does_not_change(url: str) -> None:
    asked = teacher(url)
    for situation in (DOOR, BALLS):
        turned = Situation(situation.text, situation.options[::-1])
        there, back = asked.advise([situation, turned])
        assert_allclose(there.sum(), 1.0)
        assert there.min() > 0 and np.ptp(there) > 0.01
        assert_allclose(there, back[::-1], rtol=0.02)
    assert asked.scorer.mode is RequestMode.LOGPROBS and asked.usage.calls == 2 * asked.usage.queries == 8


def test_an_only_option_is_certain_and_nobody_is_asked(url: str) -> None:
    asked = teacher(url)
    assert_allclose(asked.advise([Situation("A wall.", ("explore",))])[0], [1.0])
    assert asked.usage.calls == 0


@pytest.mark.slow
def test_replies_are_counted_where_log_probabilities_are_not_told(url: str) -> None:
    asked = teacher(url, samples=4)
    asked.scorer.mode = RequestMode.SEVERAL
    advice = asked.advise([DOOR])[0]
    assert_allclose(advice.sum(), 1.0)
    assert advice.min() > 0 and asked.usage.queries == 1 and asked.usage.tokens_out > asked.usage.calls


@pytest.mark.slow
def test_the_books_have_the_servers_own_count_of_tokens(url: str) -> None:
    before, asked = counted(url), teacher(url)
    asked.advise([DOOR, BALLS])
    asked.scorer.mode = RequestMode.SINGLE
    asked.advise([Situation("You see a wall.", ("explore", "wait"))])
    after = counted(url)
    assert (asked.usage.tokens_in, asked.usage.tokens_out) == (after[0] - before[0], after[1] - before[1])
    assert sum(call.tokens_in for call in asked.usage.journal) == asked.usage.tokens_in > 0


@pytest.mark.slow
def test_what_is_told_stands_before_every_question_within_its_budget_and_is_kept(url: str, tmp_path: Path) -> None:
    feedback = Feedback(
        (("You see a green ball.", "pick it up"),), ('You advised "explore": it failed 9 of 9 times.', "x" * 4000)
    )
    asked = teacher(url)
    before = asked.advise([DOOR])[0]
    assert asked.give_feedback(feedback) and not asked.give_feedback(feedback)
    assert asked.feedback == Feedback(feedback.examples, feedback.evidence[:1]), "512 tokens are no more than 2,048 characters"
    read = asked.explain(DOOR).prompt
    assert "it failed 9 of 9 times" in read and read.index("pick it up") < read.index(DOOR.text)
    after = asked.advise([DOOR])[0]
    assert asked.usage.queries == 2 and np.abs(after - before).max() > 1e-3
    asked.save(tmp_path / "teacher")
    again = teacher(url)
    again.load(tmp_path / "teacher")
    assert again.feedback == asked.feedback
    other = make_teacher(f"openai:smollm2@{url}", TeacherConfig(deadline=PATIENT), instruction="You drive a taxi.")
    assert isinstance(other, RemoteTeacher) and other.explain(DOOR).prompt.startswith("You drive a taxi.")


@pytest.mark.slow
def test_what_was_answered_is_not_asked_again_unless_of_another_model_or_server(url: str, tmp_path: Path) -> None:
    first = teacher(url, AnswerCache(tmp_path / "advice.sqlite3")).advise([DOOR])[0]
    again = teacher(url, AnswerCache(tmp_path / "advice.sqlite3"))
    assert_allclose(again.advise([DOOR])[0], first)
    assert (again.usage.queries, again.usage.cache_hits, again.usage.tokens) == (0, 1, 0)
    other = make_teacher(f"openai:another@{url}", TeacherConfig(deadline=PATIENT), AnswerCache(tmp_path / "advice.sqlite3"))
    other.advise([DOOR])
    assert other.usage.queries == 1


def test_its_weights_are_out_of_reach(url: str, tmp_path: Path) -> None:
    asked = teacher(url)
    assert not asked.tunable
    with pytest.raises(CoteachError, match=r"cannot be tuned: use a local language model"):
        asked.tune([Lesson(DOOR, np.array([0.5, 0.5]))], seed=0)
    asked.save(tmp_path / "teacher")
    assert not (tmp_path / "teacher").exists()


@pytest.mark.slow
def test_ask_shows_what_the_model_read(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = [word for option in DOOR.options for word in ("--option", option)]
    assert cli.main(["ask", "--teacher", f"openai:smollm2@{url}", "--situation", DOOR.text, *options, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert "1. explore\n2. pick up the red key" in answer["prompt"] and sum(answer["untuned"]) == pytest.approx(1.0)


def trained(url: str, tmp_path: Path, *words: str) -> int:
    """The exit code of a short run with the server as the teacher."""
    teacher = (f"teacher.deadline={PATIENT}", "--teacher", f"openai:smollm2@{url}")
    return cli.main(["train", *SHORT, *teacher, "--out", str(tmp_path / "run"), *words])


@pytest.mark.slow
def test_a_run_learns_from_it_and_keeps_its_books_and_no_key(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("COTEACH_CACHE", str(tmp_path / "cache"))
    prices = ("teacher.price_in=1", "teacher.price_out=2", "teacher.queries_per_round=2")
    assert trained(url, tmp_path, *prices) == 0
    shown = capfd.readouterr()
    assert "but not tuned" in shown.err and "LLM, evaluations included: " in shown.out and KEY not in shown.err + shown.out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    calls = [json.loads(line) for line in (tmp_path / "run" / "calls.jsonl").read_text().splitlines()]
    total = summary["llm_total"]
    assert total["queries"] > 0 and total["tunings"] == 0 and {"rung", "round", "seconds"} <= set(calls[0])
    assert (sum(call["tokens_in"] for call in calls), sum(call["tokens_out"] for call in calls)) == (
        total["tokens_in"],
        total["tokens_out"],
    )
    assert total["money"] == pytest.approx((total["tokens_in"] + 2 * total["tokens_out"]) / 1e6)
    assert (
        summary["llm_tokens"] == summary["llm_tokens_in"] + summary["llm_tokens_out"] <= total["tokens_in"] + total["tokens_out"]
    )
    assert any(json.loads(line)["asked"] for line in (tmp_path / "run" / "advice.jsonl").read_text().splitlines())
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.slow
def test_when_the_budget_is_spent_training_goes_on_without_asking(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COTEACH_CACHE", str(tmp_path / "cache"))
    assert trained(url, tmp_path, "--budget", "250tokens") == 0
    assert "its budget was spent" in capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    total = summary["llm_total"]
    assert 250 <= total["tokens_in"] + total["tokens_out"] < 250 + 8 * 150 and total["unanswered"] > 0
    assert summary["steps"] >= 100


@pytest.mark.slow
def test_a_server_that_was_stopped_leaves_the_advice_there_is() -> None:
    with example("own_llm").serving() as url:
        asked = teacher(url)
        assert asked.advise([DOOR])[0] is not None
    known, new = asked.advise([DOOR, BALLS])
    assert known is not None and new is None and asked.usage.failures > 0
