"""`coteach memory`: shows or clears the answer cache, which all runs share."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import datetime

from coteach.commands.common import print_json
from coteach.runs.progress import print_table

HELP = "show the answer cache (what LLMs answered in all runs so far), or clear it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach memory`."""
    parser.add_argument("--clear", action="store_true", help="delete every answer; later runs ask the LLM again")
    parser.epilog = "examples:\n  coteach memory\n  coteach memory --clear"


def run(args: argparse.Namespace) -> int:
    """Show what the cache holds; with --clear, delete it."""
    from coteach.teacher.answer_cache import AnswerCache

    cache = AnswerCache.default()
    contents = cache.contents()
    if args.clear:
        cache.clear()
    cache.close()
    if args.json:
        print_json({"file": str(cache.path), "limit": cache.limit, **asdict(contents), "cleared": bool(args.clear)})
        return 0
    print_table(
        ("what", "value"),
        [
            ("file", str(cache.path)),
            ("answers", f"{contents.answers:,} of at most {cache.limit:,}: then the oldest are deleted"),
            ("size", f"{contents.size / 2**20:,.1f} MiB"),
            ("oldest", _day(contents.oldest)),
            ("newest", _day(contents.newest)),
        ],
        left=2,
    )
    if args.clear:
        print(f"forgotten: {contents.answers:,} answers")
    return 0


def _day(seconds: float | None) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds).isoformat(" ", "minutes")
