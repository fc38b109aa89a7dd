"""The sections of the configuration: pydantic dataclasses whose errors are one line, and descriptions of their fields.

`setting` declares a field with its default, help, range and source. All sections inherit from `Section`: it turns pydantic's
errors into a `CoteachError` that names the field, its value and what was expected. `settings` lists the fields for help,
documentation and messages. It reads them from pydantic, so nothing is declared twice.
"""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, Self, cast, get_args

from annotated_types import Ge, Le
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass, is_pydantic_dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ArgsKwargs

from coteach.errors import CoteachError, unknown

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False, revalidate_instances="always")
"""How pydantic checks a section: no unknown fields, no NaN, and fields that were assigned later are checked again."""

KINDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bool: ("true or false", ""),
}
"""What a field expects, by its type: in the singular, and in a list."""

LIST_ELSEWHERE = "`coteach train --help-all` lists them"


def _whole(value: Any) -> Any:
    """Convert a float without a fraction, such as 1e5, to an int."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
"""An int; in text it may be written as 1e5."""


def _not_blank(text: str) -> str:
    """Return the text. ValueError if it is blank."""
    if not text.strip():
        raise ValueError("blank")
    return text


Text = Annotated[str, AfterValidator(_not_blank)]
"""A text that is not blank: an item of a list of names."""


def setting(default: Any, help: str, low: float | None = None, high: float | None = None, source: str = "") -> Any:
    """Declare a field with its help text, its range (both ends included) and the source of its default."""
    given: dict[str, Any] = {
        "ge": low,
        "le": high,
        "description": help,
        "strict": None if isinstance(default, str) else True,  # true is no number, and "3" is none
        "json_schema_extra": {"source": source},
    }
    return Field(default_factory=lambda: list(default), **given) if isinstance(default, list) else Field(default, **given)


def part(kind: type) -> Any:
    """Declare a field that is a section."""
    return Field(default_factory=kind)


@dataclass(config=CHECKED)
class Section:
    """A section of the configuration. `StudentConfig` is the table `[student]`, and `Config` is all of it."""

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_line(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Make an object of this section; raise a CoteachError of one line if a value is wrong."""
        try:
            return handler(value)
        except ValidationError as error:
            raise _refusal(cls, value, error) from None


@plain_dataclass(frozen=True)
class Setting:
    """A field, as help and documentation show it.

    name:      dotted, for example "student.clip".
    kind:      int, float, str or bool. many: whether it is a list of these.
    low, high: smallest and largest value; None: no limit.
    choices:   the values that are allowed; empty: all.
    """

    name: str
    kind: type
    many: bool
    default: Any
    help: str
    source: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]

    @property
    def range(self) -> str:
        """Return [low..high], without limits that do not exist; empty if there are none."""
        if self.low is None and self.high is None:
            return ""
        return f"[{'' if self.low is None else self.low}..{'' if self.high is None else self.high}]"

    def refuse(self, value: Any) -> CoteachError:
        """Return the error for a value that does not fit."""
        if self.choices and isinstance(value, str):
            return unknown(self.name, value, self.choices)
        one, several = KINDS[self.kind]
        expected = f"a list of {several}" if self.many else one
        within = f" in {self.range}" if self.range else ""
        return CoteachError(f"{self.name}={value!r}: expected {expected}{within}: {self.help}")


def settings(kind: type) -> list[Setting]:
    """Return every field of a section and of the sections in it, in the order of declaration."""
    section, found = kind(), []
    assert is_pydantic_dataclass(kind)
    for name, field in kind.__pydantic_fields__.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            found += settings(type(value))
        else:
            found.append(_described(table_of(kind) + name, value, field))
    return found


def table_of(kind: type) -> str:
    """Return the prefix of the names of a section's fields: "student." for `StudentConfig`, empty for `Config`."""
    name = kind.__name__.removesuffix("Config").lower()
    return f"{name}." if name else ""


def _described(name: str, default: Any, field: FieldInfo) -> Setting:
    """Return the description of one field; of a list, with the range of its items."""
    inner, limits, many = field.annotation, field.metadata, isinstance(default, list)
    if many:
        inner, *limits = get_args(get_args(inner)[0]) or get_args(inner)
    choices = get_args(inner)
    return Setting(
        name=name,
        kind=str if choices else cast(type, inner),
        many=many,
        default=default,
        help=field.description or "",
        source=cast(dict[str, str], field.json_schema_extra)["source"],
        low=next((cast(float, limit.ge) for limit in limits if isinstance(limit, Ge)), None),
        high=next((cast(float, limit.le) for limit in limits if isinstance(limit, Le)), None),
        choices=choices,
    )


def _refusal(kind: type, value: Any, error: ValidationError) -> CoteachError:
    """Return the first of pydantic's errors, as a CoteachError of one line."""
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
    """Return the value that was given for a field: as an argument, in a table, or as an attribute."""
    table = value.kwargs if isinstance(value, ArgsKwargs) else value
    return (table or {})[name] if isinstance(table, dict | None) else getattr(table, name)
