"""The machine that a run runs on: versions, processor, threads, source revision. For environment.json and `coteach doctor`."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coteach.config import Config
from coteach.errors import CoteachError
from coteach.runs.files import user_path

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "torch", "numpy", "numba", "transformers", "peft", "safetensors", "gguf", "gymnasium", "minigrid", "envpool",
)  # fmt: skip


def environment(config: Config) -> dict[str, Any]:
    """Return everything about the machine that can change a run's results or its speed."""
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
    """Return the installed version of each package, None for those not installed; nothing is imported."""
    return {name: version(name) for name in packages}


def version(package: str) -> str | None:
    """Return the installed version of one package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """Count the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Return how many bytes of memory are available."""
    import psutil

    return int(psutil.virtual_memory().available)


def torch_device(name: str) -> torch.device:
    """Return the device for `auto` (cuda if there is one), `cpu` or `cuda`. CoteachError for cuda without a CUDA device."""
    import torch  # slow, and most of this module is for commands that do not need it

    if name == "cuda" and not torch.cuda.is_available():
        raise CoteachError("device 'cuda': torch sees no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread. Small batches gain little from more; on shared cores threads wait up to 50 ms for others."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def use_fast_matmul() -> None:
    """Let oneDNN multiply float32 matrices if it is as exact as the default here: on some processors it is nearly twice as fast.

    The setting allows oneDNN to round to bfloat16, and it does so on processors that multiply bfloat16 natively. There, the
    default is kept.
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
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def revision() -> str | None:
    """Return the Git revision of the package's sources; None if they are not in a checkout."""
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
    """Return the folder of converted models and the answer cache: $COTEACH_CACHE, $XDG_CACHE_HOME/coteach or ~/.cache/coteach.

    A user without a home, as in some containers, has a temporary folder instead.
    """
    if own := os.environ.get("COTEACH_CACHE"):
        return user_path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return user_path(shared) / "coteach"
    try:
        return Path.home() / ".cache" / "coteach"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"coteach-{os.getuid()}"
