"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import ConfigError


def write_text(path: Path, text: str) -> None:
    """Atomically: written beside, flushed to disk, renamed."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def check_place(path: Path) -> None:
    """ConfigError if there is no folder to write this file into: asked before the work whose result it will hold."""
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: expected a place in an existing folder")
