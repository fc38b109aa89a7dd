"""`coteach doctor --grounding`: does what a user wrote keep the contract that the loop relies on."""

from __future__ import annotations

import argparse
import importlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coteach.commands.common import print_json, seed_of
from coteach.errors import CoteachError

if TYPE_CHECKING:
    from coteach.envs.registration import Environment

ENVS, STEPS = 4, 300
"""Environments in which it is tried, and steps in each."""


def check(args: argparse.Namespace) -> int:
    """Play a little with a grounding of the user's, and report each breach of the contract in a line."""
    from coteach.envs import contract, tasks
    from coteach.envs import registration as environments

    found = _load(args.grounding)
    environment = _environment(args.grounding, found, args.task)
    if environment is None:
        task, ground = str(args.task), found
    else:
        environments.add(environment)
        task, ground = environment.task, environment.family.ground
    seed = seed_of(args, 0)
    report = contract.check(ground, tasks.reference(task, ENVS, seed), STEPS, seed)
    if args.json:
        print_json(asdict(report) | {"task": task, "kept": report.kept})
        return int(not report.kept)
    for finding in report.findings:
        print(f"{finding.kind}: {finding.what} (first on step {finding.first}, {finding.times} times)")
    print(
        f"{task}: {report.rows} observations, {report.situations} situations, {report.completed} times options were completed, "
        f"{report.episodes} episodes: the contract is {'kept' if report.kept else 'broken'}"
    )
    return int(not report.kept)


def _load(spec: str) -> Any:
    """What MODULE:NAME names; the current folder is searched too."""
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise CoteachError(f"--grounding {spec}: expected MODULE:NAME, for example mypackage.corridor:CORRIDOR")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a foreign module raises
        raise CoteachError(f"--grounding {spec}: cannot be loaded ({type(error).__name__}: {error})") from error
    finally:
        sys.path.pop(0)


def _environment(spec: str, found: Any, task: str | None) -> Environment | None:
    """The environment to check; None where the grounding is for MiniGrid, whose environments need no registering."""
    from coteach.envs.registration import BUILT_IN, Environment

    if isinstance(found, Environment):
        if task is not None:
            raise CoteachError(f"--task {task}: {spec} is an Environment with a task of its own ({found.task}): leave out --task")
        return found
    if not callable(found):
        raise CoteachError(f"--grounding {spec}: is a {type(found).__name__}: expected an Environment or a Grounding class")
    if task is None:
        raise CoteachError(f"--grounding {spec}: say with --task ID which task's observations it grounds")
    return None if task.startswith(BUILT_IN) else Environment(task, grounding=found)
