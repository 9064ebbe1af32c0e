"""The parts of detmodes that are installed only where they are asked for: which package belongs to which.

`pip install detmodes` brings what scores files and reads runs; `detmodes[train]` adds torch and the model libraries.
setup.cfg says what each part installs.
"""

from __future__ import annotations

TRAIN = "train"
"""The part that computes with models."""

PARTS: dict[str, str] = {
    **dict.fromkeys(("accelerate", "einops", "einops_exts", "huggingface_hub", "open_clip", "safetensors"), TRAIN),
    **dict.fromkeys(("timm", "tokenizers", "torch", "torchvision", "transformers"), TRAIN),
    "datasets": "hf",
    "deepspeed": "deepspeed",
    "faster_coco_eval": "peers",
    "peft": "lora",
    "ray": "ray",
}
"""The part that brings a package, by the name that the package is imported by."""

ALONE = {"open_flamingo": "pip install --no-deps open_flamingo==2.0.1"}
"""Packages that no part can bring. open_flamingo pins torch==2.0.1, so that pip refuses it as an ordinary requirement;
it works with today's torch."""


def install_command(package: str) -> str | None:
    """Returns the command that installs a package which an import has missed; None where it is none of ours."""
    name = package.partition(".")[0]
    if name in PARTS:
        return f"pip install 'detmodes[{PARTS[name]}]'"
    return ALONE.get(name)


def explain_missing(error: ModuleNotFoundError) -> str | None:
    """Returns what a user can do about an import that failed, in one line; None where the package is none of ours."""
    command = install_command(error.name or "")
    return None if command is None else f"this needs {error.name}, which is not installed here: {command}"
