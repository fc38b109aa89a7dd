"""Write the settings for users: the lines of `--help`, and the tables of docs/configuration.md."""

from __future__ import annotations

import re
from collections.abc import Iterator

from coteach.config.fields import Config
from coteach.config.files import toml
from coteach.config.section import Section, Setting, settings

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
`SECTION.FIELD=VALUE` on the command line; the run keeps what it used in `config.toml`. The defaults are the method: each
number that changes what is learned is here. The source of a default is a paper, a measurement (in the
[notebook](notebook.md)), or nothing more than a choice. `coteach train --help-all` prints the same.

Left as constants are numbers that only guard against division by zero, bound memory or time, or describe how a network
is built, and those of how results are evaluated. This page is made by `make configuration` from
[`config/fields.py`](../src/coteach/config/fields.py).
"""


def names() -> list[str]:
    """Return the dotted name of every field."""
    return [entry.name for entry in settings(Config)]


def describe(everything: bool = False) -> str:
    """Return a line for each field: dotted name, default, help, range; the `COMMON` ones, or `everything` by section."""
    entries = settings(Config)
    if not everything:
        return _lines([entry for entry in entries if entry.name in COMMON])
    return "\n\n".join(f"{about}\n{_lines(mine)}" for _, about, mine in _sections(entries))


def table() -> str:
    """Return docs/configuration.md: a table for each section."""
    parts = [
        f"## {f'`[{name}]`' if name else 'The run'}\n\n{about}\n\n{_table(mine)}"
        for name, about, mine in _sections(settings(Config))
    ]
    return "\n\n".join([INTRODUCTION.rstrip(), *parts]) + "\n"


def _sections(entries: list[Setting]) -> Iterator[tuple[str, str, list[Setting]]]:
    """Yield name, first line of the docstring and fields, of the run itself (name "") and of each section."""
    config = Config()
    sections = [("", Config)] + [(name, type(value)) for name, value in vars(config).items() if isinstance(value, Section)]
    for name, kind in sections:
        mine = [entry for entry in entries if entry.name.rpartition(".")[0] == name]
        yield name, (kind.__doc__ or "").splitlines()[0], mine


def _lines(entries: list[Setting]) -> str:
    lines = [(f"{entry.name}={toml(entry.default)}", f"{entry.help} {entry.range}".rstrip()) for entry in entries]
    width = max(len(given) for given, _ in lines)
    return "\n".join(f"  {given:<{width}}  {said}" for given, said in lines)


def _table(entries: list[Setting]) -> str:
    rows = []
    for entry in entries:
        source = re.sub(r"notebook: ([\w-]+)", r"[notebook](notebook.md#\1)", entry.source)
        default = f"`{toml(entry.default)}`"
        rows.append((f"`{entry.name.rpartition('.')[2]}`", default, entry.range, entry.help, source))
    head = ("name", "default", "range", "meaning", "source")
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (head, ("---",) * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)
