"""Load a configuration from a TOML file and dotted overrides, and write it as TOML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from coteach.config.fields import Config
from coteach.config.section import LIST_ELSEWHERE, Setting, settings
from coteach.errors import CoteachError, unknown

Table = dict[str, Any]


def load(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Resolve defaults < TOML file < dotted overrides ("student.learning_rate=3e-4") into a checked `Config`.

    Raises `CoteachError` for a file that cannot be read, a field that does not exist, a wrong type or range.
    """
    table = _read(path) if path is not None else {}
    known = {entry.name: entry for entry in settings(Config)} if overrides else {}
    for text in overrides:
        _override(table, text, known)
    return Config(**table)


def loads(text: str) -> Config:
    """Load a configuration from TOML text, for example what `dump` returned. Raises CoteachError as `load` does."""
    return Config(**_parse(text, "the configuration"))


def validate(config: Config) -> None:
    """Check a `Config` whose fields were assigned after it was made. Raises CoteachError as `load` does."""
    Config(**{entry.name: getattr(config, entry.name) for entry in fields(config)})


def dump(config: Config) -> str:
    """Return TOML text with every field; `loads` returns an equal configuration."""
    top, tables = [], []
    for name, value in _values(config):
        if is_dataclass(value):
            tables += ["", f"[{name}]", *(f"{key} = {toml(entry)}" for key, entry in _values(value))]
        else:
            top.append(f"{name} = {toml(value)}")
    return "\n".join(top + tables) + "\n"


def toml(value: Any) -> str:
    """Return one value as TOML. JSON's strings are valid in TOML, except that TOML needs DEL escaped."""
    if isinstance(value, list):
        return f"[{', '.join(toml(item) for item in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _values(config: Any) -> list[tuple[str, Any]]:
    return [(entry.name, getattr(config, entry.name)) for entry in fields(config)]


def _read(path: Path) -> Table:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")  # some editors begin a file with a byte-order mark
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", error)
        raise CoteachError(f"cannot read configuration {path}: {reason}; give --config a TOML file") from None
    return _parse(text, str(path))


def _parse(text: str, where: str) -> Table:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise CoteachError(f"{where} is not TOML: {error}") from None


def _override(table: Table, text: str, known: dict[str, Setting]) -> None:
    """Put one "a.b=value" into `table`; known: every field by its name."""
    name, equals, raw = text.partition("=")
    name, raw = name.strip(), raw.strip()
    if not equals or not name:
        raise CoteachError(f"override {text!r}: expected FIELD=VALUE, for example student.learning_rate=3e-4")
    if name not in known:
        raise unknown("field", name, known, LIST_ELSEWHERE)
    *parents, last = name.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise CoteachError(f"{parent}={table!r}: expected a table [{parent}]")
    table[last] = _from_text(raw, known[name].kind, known[name].many)


def _from_text(raw: str, kind: type, many: bool) -> Any:
    """Parse a value from the command line, where text may be without quotes, and a list without brackets."""
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = raw
    if many:
        return [_from_text(part.strip(), kind, False) for part in value.split(",")] if isinstance(value, str) else value
    return raw if kind is str and not isinstance(value, str) else value
