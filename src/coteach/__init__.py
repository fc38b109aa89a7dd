"""coteach: an LLM (the teacher) and an RL agent (the student) that make each other better at planning tasks.

The command line is `coteach` (see `cli.py`); from Python, `coteach.train(config, run)` is the loop,
`coteach.load(...)` makes its configuration and `coteach.Run.create(...)` its run directory;
`coteach.register(...)` makes a task of a Gymnasium environment. What is slow to import is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from coteach.errors import CoteachError, RunFailed
from coteach.version import __version__

if TYPE_CHECKING:
    from coteach.config import Config, load
    from coteach.envs.registration import Environment, add, register
    from coteach.grounding.options import Option
    from coteach.method.loop import train
    from coteach.runs.run_folder import Run

__all__ = [
    "Config",
    "CoteachError",
    "Environment",
    "Option",
    "Run",
    "RunFailed",
    "__version__",
    "add",
    "load",
    "register",
    "train",
]

_HOMES = {
    "Config": "coteach.config",
    "Environment": "coteach.envs.registration",
    "Option": "coteach.grounding.options",
    "Run": "coteach.runs.run_folder",
    "add": "coteach.envs.registration",
    "load": "coteach.config",
    "register": "coteach.envs.registration",
    "train": "coteach.method.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'coteach' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
