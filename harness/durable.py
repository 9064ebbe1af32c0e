"""What outlives a killed process: JSON files and folders that are whole or not there, and that show damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness.errors import DataError
from harness.files import sync, write_text


def write_json(path: Path, content: Any) -> None:
    """Atomically, with its own digest. Keys must be strings; floats come back exactly, nan and infinities included."""
    text = json.dumps(content)
    write_text(path, f'{{"sha256": "{_digest(text)}", "content": {text}}}\n')


def read_json(path: Path) -> Any:
    """What `write_json` wrote. Raises DataError if it is not there or not what was written."""
    try:
        whole = json.loads(path.read_bytes())
        content, expected = whole["content"], whole["sha256"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected JSON with its digest, got: {error}") from None
    if _digest(json.dumps(content)) != expected:
        raise DataError(f"{path}: is not what was written: expected sha256 {expected}")
    return content


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder`, to be filled with files; once all of them have reached the disk it takes the
    place of `folder`. Nothing of it stays if the block raises."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in (*partial.iterdir(), partial):
            sync(path)
        shutil.rmtree(folder, ignore_errors=True)  # there is one only where it was damaged
        partial.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
