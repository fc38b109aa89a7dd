"""The command line: `coteach VERB ...`. One module per verb in `commands/`; here they are told apart.

Exit codes: 0 done, 1 failed while running, 2 wrong use, 130 interrupted by Ctrl-C, 143 by SIGTERM (the loop
saves on both). Wrong use is answered with one line. Nothing slow is imported before a verb needs it.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from io import TextIOWrapper
from types import ModuleType
from typing import Any, NoReturn, TextIO

from coteach.commands import ask, bench, case_study, compare, doctor, evaluate, export, ladder, memory, tasks, train, watch
from coteach.commands.common import only_json, seed_of
from coteach.errors import CoteachError, Note, RunFailed, printable, unknown
from coteach.runs.signals import INTERRUPTED, TERMINATED
from coteach.version import __version__

VERBS: dict[str, ModuleType] = {
    "train": train,
    "eval": evaluate,
    "compare": compare,
    "ladder": ladder,
    "case-study": case_study,
    "ask": ask,
    "watch": watch,
    "tasks": tasks,
    "bench": bench,
    "memory": memory,
    "doctor": doctor,
    "export": export,
}

DESCRIPTION = "An LLM (the teacher) and an RL agent (the student) that make each other better at planning tasks."

EXAMPLE = (
    "Begin with `coteach doctor`, then `coteach train --task MiniGrid-UnlockPickup-v0`; `coteach VERB --help` has an example."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    warnings.showwarning = _show_warning
    warnings.simplefilter("always", Note)
    threading.excepthook = _thread_failed
    try:
        args = _parse(words)
        seed_of(args, 0)  # a wrong one is refused by the verbs that draw nothing too
        with only_json() if args.json else nullcontext():
            return int(args.run(args))
    except CoteachError as error:
        print(f"coteach: error: {printable(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, RunFailed) else 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        return _lost_output(error)


def script() -> NoReturn:
    """`main` as a program. After an interruption it ends at once: Python would wait for threads that are still in a call."""
    _use_utf8()
    _open_streams()
    try:
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _lost_output(error)
    if code in (INTERRUPTED, TERMINATED):
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale is ASCII: libraries cannot write paths with other letters there."""
    if os.name == "posix" and sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "coteach", *sys.argv[1:]])


def _open_streams() -> None:
    """Open standard streams that were closed, so that no file gets their numbers; text that they cannot encode is escaped."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = os.fdopen(os.open(os.devnull, os.O_RDWR), "w" if number else "r")
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)  # a reference that keeps it open
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if isinstance(sys.stderr, TextIOWrapper):
        coding = sys.stderr.encoding
        sys.stderr = _Errors(sys.stderr.detach(), coding, "backslashreplace", line_buffering=True)
        sys.__stderr__ = sys.stderr  # type: ignore[misc]


class _Errors(TextIOWrapper):
    """Standard error, which may be full or gone: what cannot be written there must not end a run."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def _lost_output(error: OSError) -> int:
    """Say why standard output cannot be written, unless its reader has gone (`| head`); return the exit code."""
    # Python would complain once more when it flushes at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        print(f"coteach: error: cannot write standard output: {error.strerror}", file=sys.stderr)
    return 1


_PLAIN_WARNING = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Notes to the user as one line; other warnings as Python shows them."""
    if issubclass(category, Note):
        print(f"coteach: {printable(str(message))}", file=sys.stderr)
    else:
        _PLAIN_WARNING(message, category, filename, lineno, file, line)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """A library's thread that cannot write (TensorBoard's, on a full disk) needs no traceback: the run fails by itself."""
    if isinstance(failure.exc_value, OSError):
        print(f"coteach: {printable(str(failure.exc_value))}", file=sys.stderr)
    else:
        threading.__excepthook__(failure)


class _Parser(argparse.ArgumentParser):
    """Answers wrong use in this program's one-line form."""

    def error(self, message: str) -> NoReturn:
        raise CoteachError(f"{message}; see `{self.prog} --help`")


def _parse(words: list[str]) -> argparse.Namespace:
    if words and not words[0].startswith("-") and words[0] not in VERBS:
        raise unknown("verb", words[0], VERBS)
    parser = _Parser(prog="coteach", description=DESCRIPTION, epilog=EXAMPLE)
    parser.add_argument("--version", action="version", version=f"coteach {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    known = {name: _add_verb(verbs, name) for name in VERBS}
    args, rest = parser.parse_known_args(words)
    for word in rest:
        if word.startswith("-"):
            raise unknown("flag", word, known[args.verb], f"`coteach {args.verb} --help` lists them")
    # argparse takes positional words in one place only; overrides may stand anywhere.
    if rest and not hasattr(args, "overrides"):
        parser.error(f"unrecognised: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    return args


def _add_verb(verbs: Any, name: str) -> list[str]:
    """Declare one verb; returns its flags."""
    module = VERBS[name]
    shape = argparse.RawDescriptionHelpFormatter
    verb = verbs.add_parser(name, help=module.HELP, description=module.HELP, formatter_class=shape, allow_abbrev=False)
    verb.add_argument("--json", action="store_true", help="results as JSON on standard output, and nothing else there")
    verb.add_argument("--seed", help="random seed", metavar="N")
    module.add_arguments(verb)
    verb.set_defaults(run=module.run)
    return [flag for action in verb._actions for flag in action.option_strings]


if __name__ == "__main__":
    script()
