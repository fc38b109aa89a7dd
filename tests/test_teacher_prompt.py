"""What the model reads: the same ids for the same words, whatever stands beside them."""

import pytest

import tiny_lm
from coteach.errors import CoteachError
from coteach.grounding.base import GRID_WORLD_INSTRUCTION, Situation
from coteach.teacher import prompt as prompts
from coteach.teacher.feedback import Feedback

CHAT = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}!\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT
SITUATION = Situation("Mission: go.", ("explore", "go to the door"))


def test_a_chat_model_is_asked_through_its_template():
    frame = prompts.frame(tiny_lm.tokenizer(CHAT))
    assert frame.prefix == f"[system]{GRID_WORLD_INSTRUCTION}!\n[user]"
    assert frame.suffix == "!\n[assistant]"
    assert frame.end == "!\n"


def test_a_template_without_system_role_gets_the_instruction_with_the_question():
    assert prompts.frame(tiny_lm.tokenizer(NO_SYSTEM)).prefix == f"[user]{GRID_WORLD_INSTRUCTION}\n\n"


def test_a_model_without_template_is_asked_in_plain_text_after_its_first_token():
    tokenizer = tiny_lm.tokenizer()
    frame = prompts.frame(tokenizer)
    assert prompts.prefix_ids(tokenizer, frame)[0] == tokenizer.bos_token_id
    assert tokenizer.decode(prompts.prefix_ids(tokenizer, frame)[1:]).startswith(GRID_WORLD_INSTRUCTION)


TOLD = Feedback((("You see a ball.", "explore"), ("You see a key.", "take it")), ("It failed.",))
HEAD = f"{GRID_WORLD_INSTRUCTION}\n\n{prompts.EVIDENCE}\n- It failed."


@pytest.mark.parametrize(
    ("chat", "prefix"),
    [
        (
            CHAT,
            f"[system]{HEAD}!\n[user]You see a ball.!\n[assistant]explore!\n[user]You see a key.!\n[assistant]take it!\n[user]",
        ),
        (NO_SYSTEM, f"[user]{HEAD}\n\nYou see a ball.!\n[assistant]explore!\n[user]You see a key.!\n[assistant]take it!\n[user]"),
        (None, f"{HEAD}\n\nYou see a ball.\nNext step: explore\n\nYou see a key.\nNext step: take it\n\n"),
    ],
)
def test_what_is_told_stands_before_the_situation_examples_as_questions_answered(chat, prefix):
    bare, feedback = (prompts.frame(tiny_lm.tokenizer(chat), feedback=what) for what in (Feedback(), TOLD))
    assert feedback.prefix == prefix
    assert (feedback.suffix, feedback.end, feedback.bos) == (bare.suffix, bare.end, bare.bos)


@pytest.mark.parametrize("chat", [None, CHAT])
def test_every_option_ends_with_the_same_token_which_no_option_holds(chat):
    tokenizer = tiny_lm.tokenizer(chat)
    built = prompts.build(tokenizer, prompts.frame(tokenizer), SITUATION)
    ends = {option[-1] for option in built.options}
    assert len(ends) == 1
    assert not ends & {token for option in built.options for token in option[:-1]}


def test_an_options_tokens_do_not_depend_on_the_situation():
    tokenizer = tiny_lm.tokenizer(CHAT)
    frame = prompts.frame(tokenizer)
    other = Situation("", SITUATION.options)
    built, empty = prompts.build(tokenizer, frame, SITUATION), prompts.build(tokenizer, frame, other)
    assert built.options == empty.options
    assert empty.body and built.body[-len(empty.body) :] == empty.body


def test_a_prompt_longer_than_the_models_context_is_refused():
    built = prompts.Prompt((1,) * 90, ((1,) * 8,))
    prompts.check_length((1, 1), built, 100, "text")
    with pytest.raises(CoteachError, match="prompt of 101 tokens .* reads at most 100"):
        prompts.check_length((1, 1, 1), built, 100, "text")
