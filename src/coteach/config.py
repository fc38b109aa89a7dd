"""The configuration: dataclasses whose defaults are the method, a TOML file, dotted overrides. One place.

`load(path, overrides)` resolves defaults < file < overrides ("student.learning_rate=3e-4"), checks types
and ranges, and answers wrong input with a one-line `CoteachError`. `dump(config)` writes the resolved
TOML that a run keeps. A field's help is the string in its `setting(...)`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from coteach.arms import ARMS
from coteach.errors import CoteachError, unknown

Table = dict[str, Any]

ENGINES = ("auto", "envpool", "minigrid", "gymnasium")
FRESH = ("nothing", "teacher", "student")

TELL = ("nothing", "examples", "evidence", "both")

PRECISIONS = ("auto", "float32", "bfloat16", "float16", "4bit")

TUNE_METHODS = ("distill", "pg", "dpo")


def setting(default: Any, help: str, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field with its help text and its admissible range (both ends included)."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class CollectConfig:
    """How a round of experience is collected."""

    envs: int = setting(64, "parallel environments", 1, 4096)
    horizon: int = setting(32, "steps per environment and round", 1, 4096)
    led_share_max: float = setting(0.5, "share of environments led by the teacher at the start", 0.0, 1.0)
    led_share_min: float = setting(0.0625, "share that stays led by the teacher", 0.0, 1.0)
    option_patience: int = setting(40, "steps after which a followed option has timed out", 1, 1000)


@dataclass
class StudentConfig:
    """The student's network and PPO."""

    hidden: int = setting(128, "width of the hidden layers", 8, 4096)
    learning_rate: float = setting(1e-3, "Adam's learning rate", 1e-7, 1.0)
    epochs: int = setting(4, "passes over each round's student-led rows", 1, 50)
    minibatch: int = setting(128, "rows per optimiser step", 16, 1_000_000)
    gamma: float = setting(0.99, "discount per step", 0.0, 1.0)
    gae_lambda: float = setting(0.95, "GAE's lambda", 0.0, 1.0)
    clip: float = setting(0.2, "PPO's clip range", 0.0, 1.0)
    entropy: float = setting(0.002, "weight of the entropy bonus", 0.0, 1.0)
    value_weight: float = setting(0.5, "weight of the value loss", 0.0, 10.0)
    max_grad_norm: float = setting(0.5, "gradient norm is clipped here", 0.0, 100.0)
    learned_options: list[str] = setting(
        [], "beginnings of options, for example pick up: the student learns to carry them out, whatever controllers there are"
    )
    device: str = setting("auto", "auto, cpu or cuda", choices=("auto", "cpu", "cuda"))


@dataclass
class TeacherConfig:
    """The LLM: which one, how often asked, how tuned."""

    spec: str = setting(
        "smollm2",
        "smollm2 | hf:<id or folder> | gguf:<file> | openai:<model>@<base url> | recorded:<run> | uniform | oracle | liar",
    )
    temperature: float = setting(2.0, "of the softmax over calibrated option scores (local LLMs)", 0.01, 100.0)
    device: str = setting("auto", "auto, cpu or cuda", choices=("auto", "cpu", "cuda"))
    precision: str = setting(
        "auto",
        "of a local LLM's weights; auto: float32, or half precision for 1B parameters and more on a card; 4bit: NF4, on a card",
        choices=PRECISIONS,
    )
    queries_per_round: int = setting(
        16, "situations the LLM is asked about in a round, at most (lessons of a tuning come on top)", 0, 100_000
    )
    lora_rank: int = setting(16, "rank of the LoRA adapter", 1, 1024)
    lora_learning_rate: float = setting(5e-4, "of the LoRA weights", 1e-7, 1.0)
    tell: str = setting(
        "nothing",
        "what the prompt says of the student's experience: nothing, examples, evidence (in words) or both",
        choices=TELL,
    )
    tell_tokens: int = setting(512, "tokens that may take, at most", 0, 100_000)
    tune_every: int = setting(10, "rounds between tunings, and tellings", 1, 100_000)
    tune_steps: int = setting(12, "optimiser steps per tuning; more where there are many lessons", 1, 10_000)
    tune_situations: int = setting(6, "situations per optimiser step", 1, 1024)
    schooling: int = setting(
        10, "tunings when a rung is over, at most: the LLM plays alone and is taught where that leads it; 0: none", 0, 1000
    )
    tune_method: str = setting(
        "distill", "distill (towards the improved advice), pg (policy gradient) or dpo (preferences)", choices=TUNE_METHODS
    )
    anchor: float = setting(0.05, "weight of KL(untuned || tuned) while tuning", 0.0, 100.0)
    samples: int = setting(6, "openai: replies per situation where the server tells no log-probabilities", 1, 1000)
    concurrency: int = setting(8, "openai: calls under way at once", 1, 1000)
    deadline: float = setting(30.0, "openai: seconds that a call may take, retries included", 0.1, 3600.0)
    price_in: float = setting(0.0, "openai: US dollars for a million tokens of questions", 0.0, 1e6)
    price_out: float = setting(0.0, "openai: US dollars for a million tokens of replies", 0.0, 1e6)
    budget_tokens: int = setting(0, "openai: tokens that the run may use; 0: no limit", 0)
    budget_money: float = setting(0.0, "openai: US dollars that the run may cost; 0: no limit", 0.0, 1e9)


@dataclass
class EvidenceConfig:
    """How the student's experience is weighed against the prior."""

    optimism: float = setting(1.0, "pseudo-outcomes of optimistic value per (situation, option)", 0.0, 100.0)
    trust: float = setting(0.5, "c in lambda_N = c sqrt(N+1)/(N+K): how long the prior is believed", 0.0, 100.0)


@dataclass
class GuidanceConfig:
    """How the advice enters the student's loss."""

    weight: float = setting(1.0, "lambda, the weight of KL(q || pi), at the start of a rung", 0.0, 100.0)
    hint: float = setting(0.0, "share of the episodes in which the advice is also an input of the student", 0.0, 1.0)
    subgoal: float = setting(0.0, "weight of the shaped reward where an advised option completes", 0.0, 10.0)
    sharpness: float = setting(4.0, "power to which the improved advice is raised before imitation", 0.0, 100.0)
    replay: float = setting(1.0, "replayed rows distilled per row of PPO", 0.0, 100.0)
    replay_rows: int = setting(32_768, "rows kept for replay", 0, 10_000_000)


@dataclass
class Config:
    """One run. `tasks` are its rungs, climbed in this order (or side by side), each for at most `steps` steps."""

    tasks: list[str] = setting(["MiniGrid-UnlockPickup-v0"], "task ids, one per rung")
    together: bool = setting(False, "climb all rungs side by side: one teacher, a student on each task")
    arm: str = setting("mutual", " | ".join(ARMS))
    engine: str = setting("auto", "auto, envpool, minigrid or gymnasium", choices=ENGINES)
    steps: int = setting(100_000, "environment steps per rung, over all environments", 1)
    stop_at: float = setting(1.01, "a rung ends early once the student's success has held this; above 1 never", 0.0, 1.01)
    fresh: str = setting("nothing", "nothing, teacher or student: what begins anew on each rung", choices=FRESH)
    seed: int = setting(0, "of everything random", 0, 2**31 - 1)
    threads: int = setting(0, "processor threads; 0: as many as there are cores", 0, 1024)
    episodes: int = setting(200, "evaluation episodes per rung", 1, 100_000)
    collect: CollectConfig = field(default_factory=CollectConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)


def load(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Resolve defaults < TOML file < dotted overrides ("student.learning_rate=3e-4") into a checked `Config`.

    Raises `CoteachError` for a file that cannot be read, a field that does not exist, a wrong type or range.
    """
    table = _read(path) if path is not None else {}
    for text in overrides:
        _override(table, text)
    config: Config = _build(Config, table, "")
    validate(config)
    return config


def loads(text: str) -> Config:
    """`load` for TOML text, for example what `dump` returned."""
    config: Config = _build(Config, _parse(text, "the configuration"), "")
    validate(config)
    return config


def dump(config: Config) -> str:
    """TOML text of every field, which `load` reads back identically."""
    top, tables = [], []
    for name, value in _values(config):
        if is_dataclass(value):
            tables += ["", f"[{name}]", *(f"{key} = {_toml(entry)}" for key, entry in _values(value))]
        else:
            top.append(f"{name} = {_toml(value)}")
    return "\n".join(top + tables) + "\n"


def validate(config: Config) -> None:
    """Check a `Config` made in Python as `load` checks a file: types, ranges, and what fields say of each other."""
    for name, entry, value in _leaves(config):
        _check(name, value, _hint(entry), entry.metadata)
    if config.arm not in ARMS:
        raise unknown("arm", config.arm, ARMS)
    if not config.tasks:
        raise CoteachError("tasks is empty: expected at least one task id; `coteach tasks` lists them")
    if config.together:
        _check_together(config)
    if config.teacher.budget_money and not (config.teacher.price_in or config.teacher.price_out):
        raise CoteachError(
            f"teacher.budget_money={config.teacher.budget_money}: without prices nothing is counted; "
            "set teacher.price_in and teacher.price_out (US dollars for a million tokens)"
        )
    low, high = config.collect.led_share_min, config.collect.led_share_max
    if low > high:
        raise CoteachError(f"collect.led_share_min={low} exceeds collect.led_share_max={high}: lower the one or raise the other")


def _check_together(config: Config) -> None:
    """Raise CoteachError where the tasks cannot be trained on together."""
    twice = [task for task in config.tasks if config.tasks.count(task) > 1]
    if twice or len(config.tasks) < 2:
        given = f"tasks has {twice[0]!r} twice" if twice else f"tasks has {config.tasks[0]!r} alone"
        raise CoteachError(f"together=true: expected several tasks, all different, and {given}; without it they are rungs")
    if config.fresh != "nothing":
        raise CoteachError(
            f"together=true: all rungs begin at once, fresh={config.fresh} is for one after the other; leave one out"
        )


def describe() -> str:
    """One line per field for `--help`: dotted name, default, help, range."""
    lines = [(name, _toml(value), entry.metadata) for name, entry, value in _leaves(Config())]
    width = max(len(name) + len(default) for name, default, _ in lines) + 1
    return "\n".join(f"  {f'{name}={default}':<{width}}  {meta['help']}{_range(meta)}" for name, default, meta in lines)


def names() -> list[str]:
    """The dotted name of every field."""
    return [name for name, _, _ in _leaves(Config())]


def _values(config: Any) -> Iterator[tuple[str, Any]]:
    return ((entry.name, getattr(config, entry.name)) for entry in fields(config))


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """(dotted name, field, value) of every setting, in the order of declaration."""
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{entry.name}.")
        else:
            yield prefix + entry.name, entry, value


def _hint(entry: Field[Any]) -> type:
    """The field's type: annotations are text in this module, and few."""
    return {"int": int, "float": float, "str": str, "list[str]": list, "bool": bool}[str(entry.type)]


def _range(metadata: Any) -> str:
    low, high = metadata["low"], metadata["high"]
    if low is None and high is None:
        return ""
    return f" [{'' if low is None else low}..{'' if high is None else high}]"


def _read(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CoteachError(f"cannot read configuration {path}: {reason}; give --config a TOML file") from None
    return _parse(text, str(path))


def _parse(text: str, where: str) -> Table:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise CoteachError(f"{where} is not TOML: {error}") from None


def _override(table: Table, text: str) -> None:
    """Put one "a.b=value" into `table`; a value that is no TOML value is taken as text."""
    name, equals, raw = text.partition("=")
    name, raw = name.strip(), raw.strip()
    if not equals or not name:
        raise CoteachError(f"override {text!r}: expected FIELD=VALUE, for example student.learning_rate=3e-4")
    entry = {leaf: entry for leaf, entry, _ in _leaves(Config())}.get(name)
    if entry is None:
        raise unknown("field", name, names(), "`coteach train --help` lists them")
    *parents, last = name.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise CoteachError(f"{parent}={table!r}: expected a table [{parent}]")
    table[last] = _from_text(raw, _hint(entry))


def _from_text(raw: str, kind: type) -> Any:
    """A command line's value: quotes may be left out for text, and brackets for a list of ids."""
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = raw
    if kind is list and isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return raw if kind is str and not isinstance(value, str) else value


def _build(kind: type, table: Table, prefix: str) -> Any:
    """A dataclass from a table, with every name and value checked."""
    known = {entry.name: entry for entry in fields(kind)}
    hints = get_type_hints(kind)
    arguments: Table = {}
    for name, value in table.items():
        full = prefix + name
        if name not in known:
            raise unknown("field", full, names(), "`coteach train --help` lists them")
        if is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise CoteachError(f"{full}={value!r}: expected a table [{full}]")
            arguments[name] = _build(hints[name], value, f"{full}.")
        else:
            arguments[name] = _check(full, value, _hint(known[name]), known[name].metadata)
    return kind(**arguments)


def _check(name: str, value: Any, kind: Any, metadata: Any) -> Any:
    """`value` as the field's type; integers pass for floats, and 1e5 for an integer."""
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        raise CoteachError(f"{name}={value!r}: expected {_KINDS[kind]}{_range(metadata)}: {metadata['help']}")
    if kind is list and not all(isinstance(item, str) for item in value):
        raise CoteachError(f"{name}={value!r}: expected {_KINDS[kind]}")
    if metadata["choices"] and value not in metadata["choices"]:
        raise unknown(name, str(value), metadata["choices"])
    low, high = metadata["low"], metadata["high"]
    # Written so that NaN, which compares false with everything, is refused.
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise CoteachError(f"{name}={value!r}: expected {_KINDS[kind]} in{_range(metadata)}: {metadata['help']}")
    return value


_KINDS: dict[type, str] = {int: "a whole number", float: "a number", str: "text", list: "a list of texts", bool: "true or false"}


def _toml(value: Any) -> str:
    """One TOML value. JSON's strings are TOML's, but for DEL, which TOML wants escaped."""
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
