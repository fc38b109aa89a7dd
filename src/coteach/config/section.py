"""What a table of the configuration is: a pydantic dataclass whose errors are one line, and a description of its fields.

`setting` declares a field with its default, help, range and source. `Section` is what the tables inherit from: whatever pydantic
refuses becomes a `CoteachError` that names the field, its value and what was expected. `settings` lists the fields for help,
documentation and messages; it reads what pydantic knows of them, so nothing is said twice.
"""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, Self, cast, get_args

from annotated_types import Ge, Le
from pydantic import BeforeValidator, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.dataclasses import dataclass, is_pydantic_dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ArgsKwargs

from coteach.errors import CoteachError, unknown

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False, revalidate_instances="always")
"""How pydantic treats a section: no unknown fields, no NaN, and what was assigned after it was made is checked again."""

KINDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bool: ("true or false", ""),
}
"""What a field of a type expects, one of them or a list."""

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
    """A field as help and documentation show it. name: dotted, as "student.clip"; low, high: None where there is no end.

    kind: int, float, str or bool; many: whether it is a list of these.
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
        """[low..high], with what there is of it."""
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
    """Return what stands before the names of a section's fields: "student." for `StudentConfig`, nothing for `Config`."""
    name = kind.__name__.removesuffix("Config").lower()
    return f"{name}." if name else ""


def _described(name: str, default: Any, field: FieldInfo) -> Setting:
    """One field; of a list, the range of its items."""
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
