"""What an LLM says is read as one of the options or as none: never another action, never an exception."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from coteach.grounding.base import Situation
from coteach.teacher.remote.replies import Malformed, choice, labels, question, read_reply, shares

OPTIONS = ("explore", "pick up the red key", "open the red door", "open the red door wide")
NUMBERS = labels(4, letters=False)

PIECES = [
    *OPTIONS, *"0123456789", *"ABCDEF", "10", "12", "99", "-1", "1e9", "2.5", "1.", "2)", "(3)", "**4**", "#", "`", "\n", "\t",
    " ", "", ".", ":", "<think>", "</think>", "The answer is ", "Option ", "I would ", "not ", "\u0663", "\u00b2", "\u2460",
    "\U0001f511", "\x00", "\u202e", "\ud800", '{"choice": ', "}", "[", "\\", "$(rm)", "%s", "EXPLORE", "Open The Red Door",
]  # fmt: skip


def test_ten_thousand_generated_texts_name_an_option_that_is_there_or_none() -> None:
    rng = random.Random(0)
    named = 0
    for _ in range(10_000):
        count = rng.randint(1, len(OPTIONS))
        names = labels(count, letters=False) if rng.random() < 0.5 else tuple("ABCD"[:count])
        text = "".join(rng.choices(PIECES, k=rng.randint(0, 12)))
        place = choice(text, names, OPTIONS[:count])
        assert place is None or (type(place) is int and 0 <= place < count), text
        named += place is not None
    assert 1000 < named < 9000, "the texts are neither all clear nor all nonsense"


def test_ten_thousand_generated_bodies_are_replies_or_malformed() -> None:
    rng = random.Random(1)
    good = json.dumps(
        {
            "choices": [
                {"message": {"content": "2"}, "logprobs": {"content": [{"top_logprobs": [{"token": "2", "logprob": -0.1}]}]}}
            ],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1},
        }
    ).encode()
    read = 0
    for _ in range(10_000):
        body = bytearray(good)
        for _ in range(rng.randint(0, 3)):
            at = rng.randrange(len(body))
            body[at : at + rng.randint(0, 8)] = rng.choice(
                [b"", b"null", b'"', b"{", b"]", b"1e999", b"NaN", b"\xff", b"-1", b"[]"]
            )
        try:
            reply = read_reply(bytes(body))
        except Malformed:
            continue
        read += 1
        share = shares(reply.top, NUMBERS, 0.05)
        assert share is None or (np.isfinite(share).all() and share.sum() == pytest.approx(1.0)), body
        assert reply.tokens is None or min(reply.tokens) >= 0
    assert 500 < read < 9000


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"3", b'{"choices": []}', b"[" * 100_000, b'{"choices": [{"message": {"content": 3}}]}']
)
def test_what_is_no_chat_completion_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        read_reply(body)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("2", 1),
        (" 2.", 1),
        ("**3**", 2),
        ("(1)", 0),
        ("2. pick up the red key", 1),
        ("Pick up the red key!", 1),
        ("open the red door", 2),
        ("open the red door wide", 3),
        ("Option 3", 2),
        ("The answer is 1, because nothing was seen yet.", 0),
        ("<think>1? 2? no, 3</think>\n2", 1),
        ("<think>1, perhaps, or", None),
        ("5", None),
        ("0", None),
        ("2.5", None),
        ("1 or 2", 0),
        ("either 1 or 2", None),
        ("explore, or pick up the red key", None),
        ("exploration", None),
        ("", None),
        ("\u0662", None),  # a digit, but no label
        ("1e9", None),
    ],
)  # fmt: skip
def test_a_reply_is_read_by_its_label_or_in_words(text: str, place: int | None) -> None:
    assert choice(text, NUMBERS, OPTIONS) == place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("2", 1),
        ("**2**", 1),
        ("2. pick up the red", 1),
        ("Answer: 2\n\nBecause the", 1),
        ("2. pick up the red key\n\nBecause", 1),
        ("2. The mission says", None),
        ("1. explore: it shows more of", None),
        ("1. explore\n2. pick up", None),
        ("I explore, because", None),
        ("A key to pick up", None),
        ("", None),
    ],
)
def test_a_reply_that_was_cut_off_is_read_only_if_it_begins_with_a_label_alone(text: str, place: int | None) -> None:
    assert choice(text, NUMBERS, OPTIONS, cut=True) == place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("1. explore\n2. pick up the red key\n\nAnswer: 2", 1),
        ("1. explore\n2. pick up the red key\n\n**2**", 1),
        ("1. explore\n2. pick up the red key", None),
        ("1. It is dark.\nSo I choose.\n3", 2),
        ("The best next step is:\n2. pick up the red key", 1),
    ],
)
def test_a_list_of_the_options_is_no_answer_but_the_line_after_it(text: str, place: int | None) -> None:
    assert choice(text, NUMBERS, OPTIONS) == place


def test_a_letter_that_begins_a_sentence_is_no_answer() -> None:
    names = tuple("ABCDEFGHIJ")
    options = [f"go to door {number}" for number in range(10)]
    assert choice("A", names, options) == 0 and choice("A. go on", names, options) == 0
    assert choice("A good step would be another.", names, options) is None


def test_labels_are_single_characters_as_long_as_there_are_enough() -> None:
    assert labels(9, letters=True) == tuple("123456789") and labels(10, letters=True) == tuple("ABCDEFGHIJ")
    assert labels(27, letters=True)[-1] == "27" and labels(10, letters=False)[-1] == "10"
    for count in range(1, 40):
        assert len(set(labels(count, letters=True))) == count


def test_shares_are_over_the_labels_however_they_are_spelt_and_none_where_the_model_says_something_else() -> None:
    top = [("2", 0.3), (" 2", 0.1), ("1.", 0.1), ("The", 0.4), ("5", 0.1)]
    np.testing.assert_allclose(shares(top, NUMBERS, 0.05), [0.2, 0.8, 0, 0])
    assert shares([("The", 0.96), ("2", 0.04)], NUMBERS, 0.05) is None
    assert shares([], NUMBERS, 0.05) is None


def test_the_question_lists_every_option_once_in_the_order_asked_for() -> None:
    asked = question(Situation("You see a red door.", OPTIONS), NUMBERS, [3, 2, 1, 0])[-1]["content"]
    assert asked.startswith(
        "You see a red door.\n\nOptions:\n1. open the red door wide\n2. open the red door\n3. pick up the red key\n4. explore"
    )
