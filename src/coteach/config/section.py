"""What a table of the configuration is: a pydantic dataclass whose errors are one line, and a description of its fields.

`setting` declares a field with its default, help, range and source. `Section` is what the tables inherit from: whatever pydantic
refuses becomes a `CoteachError` that names the field, its value and what was expected. `settings` lists the fields for help,
documentation and messages; it reads pydantic's JSON Schema, so nothing is said twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass as plain_dataclass
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, ModelWrapValidatorHandler, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from coteach.errors import CoteachError, unknown

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False, revalidate_instances="always")
"""How pydantic treats a section: no unknown fields, no NaN, and what was assigned after it was made is checked again."""

KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array of string": "a list of texts",
    "array of number": "a list of numbers",
}
"""What a field expects, by its type in JSON Schema."""

LIST_ELSEWHERE = "`coteach train --help-all` lists them"


def _whole(value: Any) -> Any:
    """1e5 is a whole number too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
"""An int; where it is read from text, 1e5 is one."""


def setting(default: Any, help: str, low: float | None = None, high: float | None = None, source: str = "") -> Any:
    """A field with its help text, its admissible range (both ends included) and where its default comes from."""
    given: dict[str, Any] = {
        "ge": low,
        "le": high,
        "description": help,
        "strict": None if isinstance(default, str) else True,  # true is no number, and "3" is none
        "json_schema_extra": {"source": source},
    }
    return Field(default_factory=lambda: list(default), **given) if isinstance(default, list) else Field(default, **given)


def part(kind: type) -> Any:
    """A field that is a section of its own."""
    return Field(default_factory=kind)


@dataclass(config=CHECKED)
class Section:
    """A table of the configuration. `StudentConfig` is the table `[student]`, and `Config` the whole."""

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_line(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Make an object of this section; whatever is wrong is a `CoteachError` of one line."""
        try:
            return handler(value)
        except ValidationError as error:
            raise _refusal(cls, value, error) from None


@plain_dataclass(frozen=True)
class Setting:
    """A field as help and documentation show it. name: dotted, as "student.clip"; low, high: None where there is no end."""

    name: str
    kind: str
    default: Any
    help: str
    source: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]

    @property
    def range(self) -> str:
        """[low..high], with what there is of it."""
        if self.low is None and self.high is None:
            return ""
        return f"[{'' if self.low is None else self.low}..{'' if self.high is None else self.high}]"

    def refuse(self, value: Any) -> CoteachError:
        """The error for a value that does not fit."""
        if self.choices and isinstance(value, str):
            return unknown(self.name, value, self.choices)
        within = f" in {self.range}" if self.range else ""
        return CoteachError(f"{self.name}={value!r}: expected {KINDS[self.kind]}{within}: {self.help}")


def settings(kind: type) -> list[Setting]:
    """Every field of a section and of the sections in it, in the order of declaration."""
    schema = TypeAdapter(kind).json_schema()
    return list(_described(kind(), schema, schema.get("$defs", {}), table_of(kind)))


def table_of(kind: type) -> str:
    """What stands before the names of a section's fields: "student." for `StudentConfig`, nothing for `Config`."""
    name = kind.__name__.removesuffix("Config").lower()
    return f"{name}." if name else ""


def _described(section: Any, schema: dict[str, Any], others: dict[str, Any], prefix: str) -> Iterator[Setting]:
    for field in fields(section):
        value, entry = getattr(section, field.name), schema["properties"][field.name]
        if is_dataclass(value):
            yield from _described(value, others[type(value).__name__], others, f"{field.name}.")
            continue
        item = entry.get("items", entry)
        yield Setting(
            name=prefix + field.name,
            kind=f"array of {item['type']}" if item is not entry else entry["type"],
            default=value,
            help=entry["description"],
            source=entry["source"],
            low=item.get("minimum"),
            high=item.get("maximum"),
            choices=tuple(entry.get("enum", ())),
        )


def _refusal(kind: type, value: Any, error: ValidationError) -> CoteachError:
    """The first thing that pydantic found wrong with what a section should be made of, in one line."""
    first = error.errors(include_url=False)[0]
    table = table_of(kind)
    if not first["loc"]:  # not a table at all
        return CoteachError(f"{table[:-1]}={first['input']!r}: expected a table [{table[:-1]}]")
    name = table + str(first["loc"][0])
    known = {entry.name: entry for entry in settings(kind)}
    if name not in known:
        return unknown("field", name, known, LIST_ELSEWHERE)
    return known[name].refuse(_given(value, str(first["loc"][0])) if len(first["loc"]) > 1 else first["input"])


def _given(value: Any, name: str) -> Any:
    """The whole of a field that was given to a section: as an argument, in a table, or as an attribute."""
    table = value.kwargs if isinstance(value, ArgsKwargs) else value
    return (table or {})[name] if isinstance(table, dict | None) else getattr(table, name)
