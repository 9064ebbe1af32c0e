"""Explains in one line what stopped a cell: what happened, where, and what to change."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import DetmodesError, ElsewhereError

MEMORY_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Texts of plain RuntimeErrors by which torch reports a lack of memory."""
SMALLER = {
    "harness.training.step": ("training", "train.micro_batch, then train.batch_size"),
    "harness.evaluation.generation": ("generation", "sample.batch_images, then sample.samples"),
    "harness.inference.confidence": ("scoring", "sample.max_tokens"),
    "harness.evaluation.probe": ("the probe", "train.probe.images"),
    "harness.evaluation.evaluate": ("evaluation", "sample.samples, or the benchmark's val_images"),
}
"""Maps a module to its task, and the settings on which its memory depends."""
ANYWHERE = ("the cell", "train.micro_batch or sample.batch_images")

STORAGE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a limit on the size of files is reached",
}


def explain(error: BaseException, folder: Path | None = None) -> str:
    """Returns one line for a record. For lack of memory or of disk it says what to do; any other error is `Type:
    message`.

    folder: where the cell writes, for errors that do not name their file.
    """
    if isinstance(error, ElsewhereError):  # explained where it happened
        return one_line(error)
    if _is_memory(error):
        what, smaller = _place(error)
        return f"out of memory in {what}: lower {smaller} ({_how_much(error)})"
    number = _storage_error(error)
    if number is not None:
        return f"{STORAGE[number]}{_where(error, folder)}; make room, then run the same command again"
    return f"{type(error).__name__}: {one_line(error)}"


def is_storage(error: BaseException) -> bool:
    """Tells whether an error is a lack of storage: it is no fault of the cell, and the same work can go on once there
    is room."""
    return _storage_error(error) is not None


def require_finite(row: Mapping[str, float], before: Mapping[str, float] | None, image_ids: Sequence[int]) -> None:
    """Raises DetmodesError if the loss or the gradient's norm of a step is nan or infinite.

    row, before: `step`, `loss` and `grad_norm` of this step, and of the last one that passed (None: there was none);
    image_ids: of the step's batch.
    """
    names = {"loss": "loss", "grad_norm": "gradient norm"}
    wrong = next((key for key in names if not math.isfinite(row[key])), None)
    if wrong is None:
        return
    last = "none before it was finite"
    if before is not None:
        values = ", ".join(f"{name} {before[key]:.6g}" for key, name in names.items())
        last = f"last finite: {values} at step {before['step']}"
    problem = f"{names[wrong]} is {row[wrong]} at step {row['step']} (images {list(image_ids)})"
    raise DetmodesError(f"{problem}; lower train.lr; {last}")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _is_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # where it is not imported, it raises nothing either
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and _mentions(error, MEMORY_TEXTS))


def _mentions(error: BaseException, texts: Sequence[str]) -> bool:
    return any(text in str(error) for text in texts)


def _how_much(error: BaseException) -> str:
    """Returns the message without the advice about CUDA's allocator that torch appends."""
    text = one_line(error)
    match = re.match(r".*?Tried to allocate [\d.]+ \w+", text)
    return match[0] if match else text[:200] or type(error).__name__


def _place(error: BaseException) -> tuple[str, str]:
    """Returns the entry of SMALLER for the innermost module that the error passed through."""
    frames = traceback.walk_tb(error.__traceback__)
    modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    return next((SMALLER[name] for name in reversed(modules) if name in SMALLER), ANYWHERE)


def _storage_error(error: BaseException) -> int | None:
    """Returns the number in STORAGE that the error means; safetensors has it only in its text."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(match[1])
    return number if number in STORAGE else None


def _where(error: BaseException, folder: Path | None) -> str:
    """Names the file, or at least the folder, and how much is free there; empty if neither is known."""
    name = getattr(error, "filename", None)
    path = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else folder
    if path is None:
        return ""
    existing = next((place for place in (path, *path.parents) if place.is_dir()), None)
    free = f" ({shutil.disk_usage(existing).free / 2**20:.1f} MiB free there)" if existing else ""
    return f" {'while writing' if name else 'while writing into'} {path}{free}"
