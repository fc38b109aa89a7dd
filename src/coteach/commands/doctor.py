"""`coteach doctor`: is everything there that a run needs, what to paste into a bug report; does a grounding keep its contract."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import platform
import shutil
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from coteach.commands import grounding
from coteach.commands.common import print_json
from coteach.errors import CoteachError, printable
from coteach.runs import machine
from coteach.runs.machine import cache_folder
from coteach.runs.progress import print_table
from coteach.version import __version__

HELP = "check this installation, or a grounding of your own, and say what to do where something is wrong"

EXAMPLE = """\
examples:
  coteach doctor
  coteach doctor --grounding mypackage.corridor:CORRIDOR              an Environment, as packages register them
  coteach doctor --grounding mypackage:MyGrounding --task CartPole-v1   a Grounding, for this task's observations
"""

LIBRARIES = ("torch", "numpy", "numba", "gymnasium", "minigrid", "transformers", "peft", "safetensors", "gguf")
"""Packages without which no run works; their names are those that Python imports."""

TASK = "MiniGrid-DoorKey-5x5-v0"
"""In which the engines are tried."""

ROOM = 2e9
"""Bytes that ought to be free: the default LLM unpacked, and runs."""


@dataclass(frozen=True)
class Check:
    """One thing looked at. `state` is ok, missing (no run without it) or absent (runs do without it)."""

    name: str
    state: str
    detail: str
    mend: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach doctor`."""
    parser.add_argument("--grounding", metavar="MODULE:NAME", help="check this Environment or Grounding instead")
    parser.add_argument("--task", metavar="ID", help="with --grounding: the task that a Grounding is for")
    parser.epilog = EXAMPLE


def run(args: argparse.Namespace) -> int:
    """Check everything; 1 if something is missing, or a contract is broken."""
    if args.grounding is not None:
        return grounding.check(args)
    if args.task is not None:
        raise CoteachError(f"--task {args.task} without --grounding: give the grounding to check as --grounding MODULE:NAME")
    checks = list(examine())
    if args.json:
        print_json([asdict(check) for check in checks])
    else:
        print_table(("what", "state", "detail"), [(check.name, check.state, check.detail) for check in checks], left=3)
        for check in checks:
            if check.mend:
                print(f"{check.name}: {check.mend}")
        print(f"\nto paste into a bug report:\n{report(checks)}")
    return int(any(check.state == "missing" for check in checks))


def report(checks: Iterable[Check]) -> str:
    """The same for somebody else to read: plain text, the paths below the home folder without its name."""
    lines = [f"coteach {__version__} (revision {machine.revision() or 'unknown'}) on {platform.platform()}"]
    lines += [f"{check.name}: {check.state}, {check.detail}" for check in checks]
    text = "\n".join(map(printable, lines))
    with contextlib.suppress(RuntimeError):  # a user without a home
        text = text.replace(str(Path.home()), "~")
    return text


def examine() -> Iterator[Check]:
    """Look at everything, one thing after the other."""
    yield Check("python", "ok", platform.python_version())
    for name in LIBRARIES:
        yield _library(name)
    yield _device()
    yield _four_bits()
    yield _engine("minigrid", "missing", "pip install coteach")
    yield _engine("envpool", "absent", 'pip install "coteach[fast]" (without it training uses the slower minigrid engine)')
    yield from _llm()
    yield _memory()
    yield Check("processor", "ok", f"{machine.processor()}, {machine.cores()} cores; a run uses as many threads unless told")
    yield _room(Path.cwd(), "room for runs")


def _library(name: str) -> Check:
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken binary raises anything
        return Check(name, "missing", str(error).splitlines()[0], "pip install coteach")
    return Check(name, "ok", machine.version(name) or "version unknown")


def _device() -> Check:
    try:
        import torch
    except Exception:  # already reported as a library
        return Check("cuda", "absent", "no torch")
    if not torch.cuda.is_available():
        return Check(
            "cuda", "absent", f"none: runs use the processor, LLMs in float32, {machine.free_memory() / 1e9:.1f} GB free"
        )
    from coteach.teacher.local import precision

    free, whole = torch.cuda.mem_get_info()
    name, half = torch.cuda.get_device_name(), precision.half()
    return Check("cuda", "ok", f"{name}, {free / 1e9:.1f} of {whole / 1e9:.1f} GB free; LLMs of 1B parameters and more in {half}")


def _four_bits() -> Check:
    """What loads LLMs in 4 bits."""
    if (found := machine.version("bitsandbytes")) is not None:
        return Check("4 bits", "ok", f"bitsandbytes {found}")
    return Check("4 bits", "absent", "no bitsandbytes", 'pip install "coteach[bigger]" for LLMs that fill the card otherwise')


def _engine(name: str, without: str, mend: str) -> Check:
    """Whether it makes a task and takes a step in it; `without`: the state where it does not."""
    try:
        importlib.import_module(name)
        import numpy as np

        from coteach.envs import tasks

        environments = tasks.make(TASK, name, 2, seed=0)
        environments.reset()
        environments.step(np.zeros(2, dtype=np.int64))
        environments.close()
    except Exception as error:  # a broken binary raises anything
        return Check(f"engine {name}", without, str(error).splitlines()[0], mend)
    return Check(f"engine {name}", "ok", f"{machine.version(name) or 'version unknown'}, steps {TASK}")


def _llm() -> Iterator[Check]:
    """The default LLM, and the folder where it is unpacked to (which this does, where it was not done yet)."""
    try:
        from coteach.teacher.local import embedded

        source, cache = embedded.source(), cache_folder()
        yield Check("default LLM", "ok", f"{source.name}, SHA-256 {embedded.sha256(source)[:16]}...")
        folder = embedded.converted(source)
    except CoteachError as error:
        yield Check("default LLM", "missing", "cannot be used", str(error))
        return
    except ImportError as error:  # already reported as a library
        yield Check("default LLM", "missing", str(error).splitlines()[0])
        return
    if damaged := embedded.damaged(folder):
        yield Check("cache", "missing", f"{folder}: damaged: {', '.join(damaged)}", f"delete {folder}; it is made again")
    else:
        yield Check("cache", "ok", f"{folder}: whole")
    yield _room(cache, "room in the cache")


def _memory() -> Check:
    """The answers of LLMs that all runs share."""
    from coteach.teacher.answer_cache import AnswerCache

    with warnings.catch_warnings(record=True) as faults:
        warnings.simplefilter("always")
        cache = AnswerCache.default()
        contents = cache.contents()
        cache.close()
    if faults:
        return Check("answer cache", "absent", str(faults[0].message), "runs do without it, and ask again")
    return Check("answer cache", "ok", f"{cache.path}: {contents.answers:,} answers, {contents.size / 2**20:,.1f} MiB")


def _room(folder: Path, name: str) -> Check:
    free = shutil.disk_usage(folder).free
    state = "ok" if free >= ROOM else "missing"
    mend = "" if free >= ROOM else f"free some space: {ROOM / 1e9:.0f} GB are wanted"
    return Check(name, state, f"{folder}: {free / 1e9:.1f} GB free", mend)
