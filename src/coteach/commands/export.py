"""`coteach export`: a finished run's teacher as a Hugging Face folder, its student as safetensors, JSON and ONNX."""

from __future__ import annotations

import argparse

from coteach.commands.common import add_run, load_players, print_json
from coteach.runs.files import user_path
from coteach.runs.progress import print_table
from coteach.runs.run_folder import Run

HELP = "write a run's teacher as a Hugging Face folder, and its student as safetensors and ONNX"

EXAMPLE = """\
example:
  coteach export runs/demo --to exported
  python examples/exported_student.py exported/student      (plays it with onnxruntime, without PyTorch)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `coteach export`."""
    add_run(parser)
    parser.add_argument("--to", metavar="DIR", type=user_path, required=True, help="a folder that is new or empty")
    parser.add_argument("--task", metavar="ID", help="of tasks trained on together: whose student (default: the last one's)")
    parser.epilog = EXAMPLE


def run(args: argparse.Namespace) -> int:
    """Export and say what is where."""
    with Run.open(args.run_folder) as folder:
        from coteach import export

        export.check(folder, args.to, args.task)  # before the LLM is loaded
        exported = export.export(folder, load_players(folder), args.to, args.task)
    if args.json:
        print_json({"run": str(args.run_folder), "to": str(args.to)} | exported.as_json())
    else:
        for name, part in (("teacher", exported.teacher), ("student", exported.student)):
            print(f"{name}: {part.says}" if part.folder else f"no {name}: {part.says}")
        print_table(("file", "MB"), [(str(args.to / name), f"{size / 1e6:.2f}") for name, size in exported.files.items()])
    return 0
