"""The model card of an exported teacher: metadata as the Hugging Face Hub reads it, then task, data, metrics, licence, use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coteach import config as configuration
from coteach.config import Config
from coteach.runs.progress import percent
from coteach.version import __version__

if TYPE_CHECKING:
    from coteach.method.players import Players
    from coteach.teacher.local.teacher import LocalTeacher

USE = """\
import json
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file is
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
how = json.load(open(f"{folder}/coteach.json"))

def ids(text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]

def score(situation, option):  # log-probability that the model answers with this option
    asked = ids(how["prefix"]) + ids(situation) + ids(how["suffix"])
    answer = ids(option) + [how["end_token_id"]]
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
"""Asks an exported teacher as coteach does, with nothing but transformers."""


@dataclass(frozen=True)
class Origin:
    """Where an exported teacher comes from.

    base:       the model that was tuned: an id on the Hugging Face Hub where `on_hub`, else a file's or folder's name.
    tuned_on:   the tasks it was tuned on; none for a model that is as it was.
    situations: on how many situations met there.
    """

    base: str
    on_hub: bool
    licence: str
    tuned_on: tuple[str, ...]
    situations: int

    @classmethod
    def of(cls, teacher: LocalTeacher, players: Players, summary: dict[str, Any]) -> Origin:
        """The origin of a run's teacher."""
        from coteach.teacher.local.models import SMOLLM2

        base, spec = teacher.adapter.base, players.config.teacher.spec
        on_hub = spec == "smollm2" or (spec.startswith("hf:") and not Path(base).expanduser().is_dir())
        rungs = summary["rungs"][-1:] if players.config.fresh == "teacher" else summary["rungs"]
        tuned_on = tuple(rung["task"] for rung in rungs if rung["tune_seconds"] > 0) if teacher.adapter.exists else ()
        return cls(
            base if on_hub else Path(base).name,
            on_hub,
            "apache-2.0" if base == SMOLLM2 else "",
            tuned_on,
            int(players.advice.table.taught.sum()),
        )


def model_card(origin: Origin, config: Config, summary: dict[str, Any]) -> str:
    """README.md of the exported teacher."""
    return f"""---
{_metadata(origin, config, summary)}---

# {_title(origin)}

Told the situation of a planning task in words, it says which of the options at hand is best. Made with coteach
{__version__}, in which an LLM guides an RL agent and is tuned on what that agent finds out (after arXiv 2401.06603).
Weights are float32.

## Task and data

{_data(origin)}

## Metrics

Success (a positive return) over {config.episodes} fixed-seed episodes in which its advice alone drives the controllers, before
the task was begun and when it was over; {"every" if config.together else "the last"} row's "after" is of exactly these weights.

{_table(origin, summary)}

## Licence

{_licence(origin)}

## Use

Its advice is a softmax over the log-probability of each option, less what the untuned model gave that option where nothing was
said: `bias` in `coteach.json`, for every option that was met; for others, what this model gives it.

```python
{USE}```

`vllm serve FOLDER` serves it, and `coteach train --teacher hf:FOLDER` takes it as the teacher of another run.

## How it was made

`coteach train --config config.toml`, then `coteach export`; config.toml was:

```toml
{_toml(origin, config)}```
"""


def _metadata(origin: Origin, config: Config, summary: dict[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    result = EvalResult(
        task_type="reinforcement-learning",
        dataset_type=summary["task"],
        dataset_name=summary["task"],
        metric_type="success",
        metric_name=f"success of its advice alone, {config.episodes} episodes",
        metric_value=summary["teacher_success_after"],
    )
    data = ModelCardData(
        base_model=origin.base if origin.on_hub else None,
        language="en",
        library_name="transformers",
        license=origin.licence or "other",
        license_name=None if origin.licence else "see-base-model",
        model_name=_title(origin),
        pipeline_tag="text-generation",
        tags=["coteach", "reinforcement-learning", "planning"],
        eval_results=[result],
    )
    return f"{data.to_yaml()}\n"


def _title(origin: Origin) -> str:
    return f"{origin.base.rpartition('/')[2]} as a teacher"


def _data(origin: Origin) -> str:
    if not origin.tuned_on:
        return f"It was never tuned: these are the weights of {origin.base}."
    return (
        f"{origin.base}, its LoRA adapter merged in, tuned on {', '.join(origin.tuned_on)}. No dataset was used: it learned from "
        f"{origin.situations} situations that the agents met there, each with the advice that proved right."
    )


def _table(origin: Origin, summary: dict[str, Any]) -> str:
    lines = ["| task | tuned on it | success before | after | return before | after |", "|---|---|--:|--:|--:|--:|"]
    for rung in summary["rungs"]:
        success = [percent(rung[f"teacher_success_{when}"]) for when in ("before", "after")]
        returns = [f"{rung[f'teacher_return_{when}']:.3f}" for when in ("before", "after")]
        tuned = "yes" if rung["task"] in origin.tuned_on else "no"
        lines.append(f"| {' | '.join([rung['task'], tuned, *success, *returns])} |")
    return "\n".join(lines)


def _licence(origin: Origin) -> str:
    if origin.licence:
        return f"{origin.licence}, that of {origin.base}."
    return f"That of the base model, {origin.base}: see there."


def _toml(origin: Origin, config: Config) -> str:
    """The run's configuration; a model on this machine goes by its name, not by its place."""
    kind, colon, _ = config.teacher.spec.partition(":")
    spec = f"{kind}:{origin.base}" if colon else kind
    return configuration.dump(replace(config, teacher=replace(config.teacher, spec=spec)))
