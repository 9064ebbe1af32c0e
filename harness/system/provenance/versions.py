"""Reports versions of the code and of packages, and the device."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "torch",
    "transformers",
    "open_flamingo",
    "open_clip_torch",
    "hotcoco",
    "lvis",
    "numpy",
    "accelerate",
)


def code_version() -> dict[str, Any]:
    """Returns the version, and if the code is a git checkout, the commit and whether tracked files differ from it."""
    root = Path(__file__).parents[3]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD") if (root / ".git").exists() else None
    dirty = None if commit is None else bool(git("status", "--porcelain", "--untracked-files=no"))
    return {"version": __version__, "commit": commit, "dirty": dirty}


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


# The versions are asked for by commands that have no use for torch, which takes seconds and half a GiB to import.


def describe_device(device: torch.device, processes: int, precision: str) -> dict[str, Any]:
    """Describes the device of one process, and how many processes computed the cell. precision: the number formats
    (see harness.inference.precision). batch_invariant: whether the answers to an image are the same in any batch, to
    the last bit: true on a CPU in float32 (tested); neither a GPU's kernels nor bf16 guarantee it."""
    import torch

    on_gpu = device.type == "cuda"
    exact = not on_gpu and precision.endswith("float32")  # the last entry is the format of generation
    description: dict[str, Any] = {
        "type": "cuda" if on_gpu else "cpu",
        "processes": processes,
        "batch_invariant": exact,
    }
    if on_gpu:
        return {**description, "name": torch.cuda.get_device_name(device), "precision": precision}
    return {**description, "name": platform.machine(), "threads": torch.get_num_threads(), "precision": precision}
