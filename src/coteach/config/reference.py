"""The settings for people: the lines of `--help`, and the tables of docs/configuration.md."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

from coteach.config.fields import Config
from coteach.config.files import toml
from coteach.config.section import Setting, settings

COMMON = (
    "tasks",
    "together",
    "arm",
    "engine",
    "steps",
    "stop_at",
    "fresh",
    "seed",
    "threads",
    "episodes",
    "collect.envs",
    "collect.horizon",
    "student.hidden",
    "student.learning_rate",
    "student.epochs",
    "student.minibatch",
    "student.gamma",
    "student.entropy",
    "student.learned_options",
    "student.device",
    "guidance.weight",
    "guidance.hint",
    "guidance.subgoal",
    "evidence.optimism",
    "evidence.trust",
    "teacher.spec",
    "teacher.device",
    "teacher.precision",
    "teacher.queries_per_round",
    "teacher.feedback",
    "teacher.tune_every",
    "teacher.tune_steps",
    "teacher.schooling",
    "teacher.budget_tokens",
    "teacher.budget_money",
)
"""What `coteach train --help` shows; `--help-all` and docs/configuration.md have everything."""

INTRODUCTION = """\
# Configuration

Every setting of a run. Put it into a TOML file (`coteach train --config FILE`, sections as tables) or give it as
`SECTION.FIELD=VALUE` on the command line; the run keeps what it used in `config.toml`. *Source* says where a default comes
from: a paper, a measurement (in [the notebook](notebook.md)), or that it was chosen and not tuned.

This page is made by `make configuration`, from `src/coteach/config/fields.py`.
"""


def names() -> list[str]:
    """The dotted name of every field."""
    return [entry.name for entry in settings(Config)]


def describe(everything: bool = False) -> str:
    """One line per field for help: dotted name, default, help, range; only the `COMMON` ones unless `everything`."""
    lines = [(entry, toml(entry.default)) for entry in settings(Config) if everything or entry.name in COMMON]
    width = max(len(entry.name) + len(default) for entry, default in lines) + 1
    return "\n".join(
        f"  {f'{entry.name}={default}':<{width}}  {f'{entry.help} {entry.range}'.rstrip()}" for entry, default in lines
    )


def table() -> str:
    """docs/configuration.md: a table for each section."""
    entries = settings(Config)
    parts = [INTRODUCTION, "## The run\n", _table([entry for entry in entries if "." not in entry.name])]
    config = Config()
    for section in (field.name for field in fields(config) if is_dataclass(getattr(config, field.name))):
        mine = [entry for entry in entries if entry.name.startswith(f"{section}.")]
        parts += ["", f"## `[{section}]`\n", f"{getattr(config, section).__doc__}\n", _table(mine)]
    return "\n".join(parts) + "\n"


def _table(entries: list[Setting]) -> str:
    rows = [
        (f"`{entry.name.split('.')[-1]}`", f"`{toml(entry.default)}`", entry.range, entry.help, entry.source) for entry in entries
    ]
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(
        ["| name | default | range | meaning | source |", "|---|---|---|---|---|", *(f"| {line} |" for line in lines)]
    )
