"""What is scored is what the model's own template writes: chat templates of many habits, and tokenizers of every kind."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from coteach.errors import CoteachError
from coteach.grounding.base import Situation
from coteach.teacher import prompt as prompts
from coteach.teacher.feedback import NOTHING, Feedback

INSTRUCTION = "You plan for an agent.\nChoose the next step."
FEEDBACK = Feedback((("You see a ball.", "explore"), ("You see a key.", "take the key")), ("The door stayed shut.",))
SITUATION = Situation("Mission: open the door. You see a door.", ("open the door", "open", "take the key"))
SPECIAL = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>"]
CORPUS = [
    INSTRUCTION,
    "Next step: open the door",
    *SITUATION.options,
    SITUATION.text,
    "user assistant [INST] <<SYS>> Today is",
]


def byte_level(bos: str | None) -> Any:
    """Like GPT-2's: a space begins the token of the word after it."""
    plain = Tokenizer(models.BPE(unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    plain.train_from_iterator(CORPUS * 5, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet))
    return _wrapped(plain, bos)


def sentence_piece(bos: str | None) -> Any:
    """Like Llama 2's: a space is a sign of its own, and one stands before every text that is tokenised alone."""
    plain = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    plain.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    plain.decoder = decoders.Metaspace(prepend_scheme="first")
    letters = sorted({sign for text in CORPUS for sign in text} | set("\n:.!▁"))
    plain.train_from_iterator(CORPUS * 5, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=letters))
    return _wrapped(plain, bos)


def _wrapped(plain: Tokenizer, bos: str | None) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, bos_token=bos, eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {
    "byte level": lambda: byte_level("<s>"),
    "byte level, no start token": lambda: byte_level(None),
    "SentencePiece": lambda: sentence_piece("<s>"),
    "SentencePiece, no start token": lambda: sentence_piece(None),
}

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
DROPS = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>\n{{ m.content }}<|end|>\n"
    "{% elif m.role == 'assistant' %}<|assistant|>\n{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
LAST_TURN_ONLY = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}{{ m.content }}</s>"
    "{% elif m.role == 'user' and (loop.last or loop.index == messages | length - 1) %}[INST] {{ m.content }} [/INST] {% endif %}"
    "{% endfor %}"
)
SPACED = (
    "{% set head = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}<s>[INST] "
    "{% if loop.first and head %}<<SYS>>\n{{ head }}\n<</SYS>>\n\n{% endif %}{{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} </s>{% endif %}{% endfor %}"
)
DATED = (
    "{% if strftime_now is defined %}{% set today = strftime_now('%d %b %Y') %}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.first %}Today is {{ today }}.\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENS_THOUGHT = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")
CLOSES_THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
CHANNELS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.role == 'assistant' %}<|user|>final{% endif %}<|end|>"
    "{{ m.content }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
TEMPLATES = {
    "ChatML": CHATML,
    "refuses the system role": REFUSES,
    "drops the system role": DROPS,
    "shows the last turn only": LAST_TURN_ONLY,
    "spaces around answers": SPACED,
    "with a date": DATED,
    "content as parts": PARTS,
    "thought closed": CLOSES_THOUGHT,
    "channels": CHANNELS,
}


def tokenizer(kind: str, template: str | None) -> Any:
    made = TOKENIZERS[kind]()
    made.chat_template = template
    return made


def whole(made: Any, feedback: Feedback) -> list[tuple[int, ...]]:
    """The ids that are scored for each option of SITUATION."""
    frame = prompts.frame(made, INSTRUCTION, feedback)
    built = prompts.build(made, frame, SITUATION)
    return [prompts.prefix_ids(made, frame) + built.body + option for option in built.options]


@pytest.mark.parametrize("feedback", [NOTHING, FEEDBACK], ids=["plain", "with feedback"])
@pytest.mark.parametrize("template", list(TEMPLATES))
@pytest.mark.parametrize("kind", list(TOKENIZERS))
def test_the_ids_that_are_scored_are_those_of_the_rendered_conversation(kind: str, template: str, feedback: Feedback) -> None:
    made = tokenizer(kind, TEMPLATES[template])
    frame = prompts.frame(made, INSTRUCTION, feedback)
    for option, ids in zip(SITUATION.options, whole(made, feedback), strict=True):
        text = frame.prefix + SITUATION.text + frame.suffix + option + frame.end
        expected = prompts.encode(made, text)
        assert ids == expected[: len(ids)]
        rest = made.decode(expected[len(ids) :]).strip()
        assert not rest and made.decode(ids[-1:]).strip() in ("</s>", "<|im_end|>", "<|end|>")


@pytest.mark.parametrize("feedback", [NOTHING, FEEDBACK], ids=["plain", "with feedback"])
@pytest.mark.parametrize("template", list(TEMPLATES))
def test_every_template_shows_instruction_feedback_and_situation(template: str, feedback: Feedback) -> None:
    made = tokenizer("byte level", TEMPLATES[template])
    asked = made.decode(whole(made, feedback)[0])
    shown = [INSTRUCTION, *feedback.evidence, *(part for example in feedback.examples for part in example), SITUATION.text]
    places = [asked.find(text) for text in shown]
    assert -1 not in places and places == sorted(places)


@pytest.mark.parametrize("kind", list(TOKENIZERS))
def test_without_a_template_the_ids_are_those_of_the_text(kind: str) -> None:
    made = tokenizer(kind, None)
    start = [made.bos_token_id] if made.bos_token_id is not None else []
    for option, ids in zip(SITUATION.options, whole(made, NOTHING), strict=True):
        text = f"{INSTRUCTION}\n\n{SITUATION.text}\nNext step: {option}\n"
        assert made.decode(ids[len(start) :]) == text
        # The two line ends before the situation may be one token in the prefix and two in the whole text; the rest is equal.
        asked = len(prompts.encode(made, f"Next step: {option}\n"))
        assert ids[-asked:] == prompts.encode(made, text)[-asked:]
        assert made.decode(ids[-1:]) == "\n"


@pytest.mark.parametrize("kind", list(TOKENIZERS))
def test_a_thought_that_the_template_opens_is_closed_before_the_answer(kind: str) -> None:
    made = tokenizer(kind, OPENS_THOUGHT)
    assert prompts.frame(made, INSTRUCTION).suffix.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_the_date_is_the_same_on_every_day() -> None:
    frame = prompts.frame(tokenizer("byte level", DATED), INSTRUCTION)
    assert prompts.TODAY.strftime("Today is %d %b %Y.") in frame.prefix
    assert prompts.TODAY.date() < date.today()


WRONG = {
    "shows it twice": (CHATML.replace("{{ m.content }}", "{{ m.content }} {{ m.content }}"), "shows a user's message 2 times"),
    "shows nothing": ("{{ bos_token }}", "shows a user's message 0 times"),
    "always raises": ("{{ raise_exception('only tools') }}", "only tools"),
    "is no template": ("{% for m in %}", "Expected"),
    "drops the instruction": ("<s>{{ messages[-1].content[-20:] }}", "leaves out the message that begins"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_a_template_that_cannot_ask_is_refused_in_one_line(wrong: str) -> None:
    template, reason = WRONG[wrong]
    with pytest.raises(CoteachError, match="chat template cannot ask about a situation") as error:
        prompts.frame(tokenizer("byte level", template), INSTRUCTION)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_a_tokenizer_without_any_end_is_refused_in_one_line() -> None:
    made = tokenizer("byte level", "{% for m in messages %}{{ m.content }}{% endfor %}")
    made.eos_token = None
    with pytest.raises(CoteachError, match="no token that ends an answer"):
        prompts.build(made, prompts.frame(made, INSTRUCTION), SITUATION)
