"""The source is a tower: a room imports only from the floors below it, and no modules import each other in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

FLOORS = (
    ("errors", "version", "arms"),
    ("config",),
    ("grounding",),
    ("grounding.minigrid",),
    ("runs",),
    ("envs",),
    ("teacher",),
    ("teacher.local", "teacher.remote"),
    ("teacher.make",),
    ("student",),
    ("student.learner",),
    ("student.student",),
    ("evaluation",),
    ("method",),
    ("", "export"),
    ("experiments",),
    ("commands",),
    ("__main__",),
)
"""Rooms from the ground up: folders, or modules where a folder has more than one floor ("" is what a user imports)."""


def module_of(file: Path) -> str:
    name = ".".join(file.relative_to(SOURCE).with_suffix("").parts)
    return name.removesuffix(".__init__").removeprefix("coteach").removeprefix(".")


MODULES = {module_of(file): file for file in sorted((SOURCE / "coteach").rglob("*.py"))}


def imported(file: Path) -> set[str]:
    """The package's own modules that a file imports, for type checking and inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "coteach":
            module = node.module.removeprefix("coteach").removeprefix(".")
            for alias in node.names:
                whole = f"{module}.{alias.name}".removeprefix(".")
                found.add(whole if whole in MODULES else module)
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("coteach").removeprefix(".") for alias in node.names if alias.name.startswith("coteach")
            }
    return found


def room_of(module: str) -> str:
    """The longest room that holds a module."""
    rooms = [room for floor in FLOORS for room in floor if module == room or (room and module.startswith(f"{room}."))]
    return max(rooms, key=len)


def floor_of(room: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if room in floor)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    """`arms` may be read by `config`; nothing below `method` knows the method."""
    room = room_of(module)
    upwards = [
        other for other in imported(MODULES[module]) if room_of(other) != room and floor_of(room_of(other)) >= floor_of(room)
    ]
    assert not upwards, f"{module} (in {room!r}) imports {', '.join(sorted(upwards))}"


def test_no_circle() -> None:
    graph = {module: imported(file) - {module, ""} for module, file in MODULES.items() if module}
    assert list(TopologicalSorter(graph).static_order())


def test_few_files_on_top() -> None:
    assert len(list((SOURCE / "coteach").glob("*.*"))) <= 12


def test_circles_and_upward_imports_are_seen() -> None:
    assert room_of("grounding.minigrid.belief") == "grounding.minigrid" and room_of("grounding.base") == "grounding"
    assert "errors" in imported(MODULES["config.files"])


def test_no_class_is_longer_than_200_lines_and_no_function_than_40() -> None:
    limits = {ast.ClassDef: 200, ast.FunctionDef: 40, ast.AsyncFunctionDef: 40}
    long = [
        f"{module}.{node.name}: {size} lines"
        for module, file in MODULES.items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, tuple(limits)) and (size := (node.end_lineno or 0) - node.lineno + 1) > limits[type(node)]
    ]
    assert not long
