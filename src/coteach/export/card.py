"""The model card (README.md) of an exported teacher: the Hub's metadata, then task, data, metrics, licence and use.

`huggingface_hub` writes the metadata and fills in the template. Format: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coteach import config as configuration
from coteach.config import Config
from coteach.runs.progress import percent
from coteach.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import ModelCard, ModelCardData

    from coteach.method.players import Players
    from coteach.teacher.local.teacher import LocalTeacher

USE = """\
import json
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # the folder of this file
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
how = json.load(open(f"{folder}/coteach.json"))

def ids(text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]

def follow(before, text):  # tokens of a text after another one
    whole, head = ids(before + text), ids(before)
    return whole[len(head) :] if whole[: len(head)] == head else ids(text)

def score(situation, option):  # log-probability that the model answers with this option
    asked = ids(how["prefix"]) + follow(how["last_line"], how["before_situation"] + situation + how["suffix"])
    answer = follow(how["suffix"], how["before_option"] + option) + how["end_token_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([asked + answer])).logits[0, len(asked) - 1 : -1]
    return logits.log_softmax(-1)[range(len(answer)), answer].sum().item()

def advise(situation, options):  # a distribution over the options
    bias = [how["bias"][option] if option in how["bias"] else score("", option) for option in options]
    calibrated = torch.tensor([score(situation, option) for option in options]) - torch.tensor(bias)
    return (calibrated / how["temperature"]).softmax(-1)

situation = "Mission: open the red door. You carry a red key. You see a locked red door. Everything here is explored."
print(advise(situation, ["drop the red key", "open the red door"]))
"""
"""Code that asks an exported teacher as coteach does, with nothing but transformers."""


TEMPLATE = """\
---
{{ card_data }}
---

# {{ origin.title }}

Given the situation of a planning task in words, this model says which of the available options is best. It was made with
coteach {{ version }}, in which an LLM guides an RL agent and is tuned on what that agent finds out (after arXiv 2401.06603).
The weights are float32.

## Task and data

{% if origin.tuned_on -%}
{{ origin.base }}, tuned on {{ origin.tuned_on | join(", ") }}; its LoRA adapter is merged in. No dataset was used: it \
learned from {{ origin.situations }} situations that the agents met there, each with the improved advice as its target.
{%- else -%}
The model was never tuned: these are the weights of {{ origin.base }}.
{%- endif %}

## Metrics

Success rate and mean return over {{ config.episodes }} episodes with fixed seeds, in which the model's advice alone chooses the
options: before training on the task began, and after it ended. {{ "Every" if config.together else "The last" }} row's "after" was
measured with exactly these weights.

| task | tuned on it | success before | after | return before | after |
|---|---|--:|--:|--:|--:|
{%- for rung in rungs %}
| {{ rung.task }} | {{ "yes" if rung.task in origin.tuned_on else "no" }} \
| {{ percent(rung.teacher_success_before) }} | {{ percent(rung.teacher_success_after) }} \
| {{ "%.3f" | format(rung.teacher_return_before) }} | {{ "%.3f" | format(rung.teacher_return_after) }} |
{%- endfor %}

## Licence

{% if origin.licence -%}
{{ origin.licence }}, the licence of {{ origin.base }}.
{%- else -%}
The licence of the base model applies: see {{ origin.base }}.
{%- endif %}

## Use

The advice is a softmax over calibrated scores, divided by a temperature. A calibrated score is the log-probability of an option
less its bias: the log-probability that the untuned model gives the option after an empty situation. `coteach.json` holds the bias
of every option met in training; the bias of another option is computed with this model.

```python
{{ use }}```

`vllm serve FOLDER` serves the model, and `coteach train --teacher hf:FOLDER` makes it the teacher of another run.

## How it was made

`coteach train --config config.toml`, then `coteach export`, with this config.toml:

```toml
{{ toml }}```

"""


@dataclass(frozen=True)
class Origin:
    """Where an exported teacher comes from.

    base:       the model that was tuned: its id on the Hugging Face Hub if `on_hub`, else the name of its file or folder.
    licence:    the base model's licence on the Hub; empty where coteach does not know it.
    tuned_on:   the tasks it was tuned on; empty for an untuned model.
    situations: number of situations it was tuned on.
    """

    base: str
    on_hub: bool
    licence: str
    tuned_on: tuple[str, ...]
    situations: int

    @property
    def title(self) -> str:
        """The name of the exported model: that of the base model, without its owner's."""
        return f"{self.base.rpartition('/')[2]} as a teacher"

    @classmethod
    def of(cls, teacher: LocalTeacher, players: Players, summary: dict[str, Any]) -> Origin:
        """Read the origin of a run's teacher from its players and its `summary.json`."""
        from coteach.teacher.local.models import SMOLLM2

        base, spec = teacher.lm.adapter.base, players.config.teacher.spec
        on_hub = spec == "smollm2" or (spec.startswith("hf:") and not Path(base).expanduser().is_dir())
        rungs = summary["rungs"][-1:] if players.config.fresh == "teacher" else summary["rungs"]
        tuned_on = tuple(rung["task"] for rung in rungs if rung["tune_seconds"] > 0) if teacher.lm.adapter.exists else ()
        return cls(
            base if on_hub else Path(base).name,
            on_hub,
            "apache-2.0" if base == SMOLLM2 else "",
            tuned_on,
            int(players.advice.table.taught.sum()),
        )


def model_card(origin: Origin, config: Config, summary: dict[str, Any]) -> ModelCard:
    """Return the model card of the exported teacher; `str` gives its text."""
    from huggingface_hub import ModelCard

    card: ModelCard = ModelCard.from_template(
        _metadata(origin, config, summary),
        template_str=TEMPLATE,
        version=__version__,
        origin=origin,
        config=config,
        rungs=summary["rungs"],
        percent=percent,
        use=USE,
        toml=_toml(origin, config),
    )
    return card


def _metadata(origin: Origin, config: Config, summary: dict[str, Any]) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    result = EvalResult(
        task_type="reinforcement-learning",
        dataset_type=summary["task"],
        dataset_name=summary["task"],
        metric_type="success",
        metric_name=f"success rate of its advice alone, {config.episodes} episodes",
        metric_value=summary["teacher_success_after"],
    )
    return ModelCardData(
        base_model=origin.base if origin.on_hub else None,
        language="en",
        library_name="transformers",
        license=origin.licence or "other",
        license_name=None if origin.licence else "see-base-model",
        model_name=origin.title,
        pipeline_tag="text-generation",
        tags=["coteach", "reinforcement-learning", "planning"],
        eval_results=[result],
    )


def _toml(origin: Origin, config: Config) -> str:
    """Return the run's configuration as TOML; a model on this machine is named without its path."""
    kind, colon, _ = config.teacher.spec.partition(":")
    spec = f"{kind}:{origin.base}" if colon else kind
    return configuration.dump(replace(config, teacher=replace(config.teacher, spec=spec)))
