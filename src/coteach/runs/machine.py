"""What a run ran on: versions, processor, threads, source revision. For environment.json and `coteach doctor`."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coteach.config import Config
from coteach.errors import CoteachError

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "torch", "numpy", "numba", "transformers", "peft", "safetensors", "gguf", "gymnasium", "minigrid", "envpool",
)  # fmt: skip


def environment(config: Config) -> dict[str, Any]:
    """Everything about the machine that could change a run's results or its speed."""
    return {
        "python": platform.python_version(),
        "packages": versions(PACKAGES),
        "system": platform.platform(),
        "processor": processor(),
        "cores": cores(),
        "threads": config.threads or cores(),
        "engine": config.engine,
        "revision": revision(),
    }


def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """Installed version of each package, None where there is none; nothing is imported."""
    return {name: version(name) for name in packages}


def version(package: str) -> str | None:
    """Installed version of one package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes of memory that programs could still have."""
    import psutil

    return int(psutil.virtual_memory().available)


def torch_device(name: str) -> torch.device:
    """The device that `auto` (cuda where there is one), `cpu` or `cuda` means here; CoteachError for a cuda that is not there."""
    import torch  # slow, and most of this module is for verbs that do without it

    if name == "cuda" and not torch.cuda.is_available():
        raise CoteachError("device 'cuda': torch sees no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


@contextmanager
def one_thread() -> Iterator[None]:
    """So few rows gain little from more threads, and where cores are shared with others they wait up to 50 ms for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fast_products() -> None:
    """Let oneDNN multiply float32 matrices on this processor, where it is as exact as the default: nearly twice as fast on some.

    The setting allows it to round to bfloat16, which it does where the processor multiplies those natively; there
    the default stays.
    """
    import torch

    chosen: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if chosen is None:  # an older torch
        return
    left, right = (torch.linspace(-1.0, 1.0, 256 * 512).sin().view(shape) for shape in ((256, 512), (512, 256)))
    exact = left.double() @ right.double()
    chosen.fp32_precision = "bf16"
    if float((left @ right - exact).abs().max()) > 1e-3:
        chosen.fp32_precision = "none"


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def revision() -> str | None:
    """Git revision of the source this package runs from, or None where it is not a checkout."""
    here = Path(__file__).resolve().parent
    if not (here.parents[2] / ".git").exists():
        return None
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def cache_folder() -> Path:
    """Where converted models and the answer cache live: $COTEACH_CACHE, $XDG_CACHE_HOME/coteach or ~/.cache/coteach."""
    if own := os.environ.get("COTEACH_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "coteach"
