"""Writes files and folders that are complete or absent, even if several processes, or machines with a shared folder,
write them or are killed; and JSON files that reveal damage."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, DataError

PARTIAL = ".partial"
"""Suffix of a file that is being written."""
PLAIN_NAME = r"^[^/\\.\x00-\x1f][^/\\\x00-\x1f]*$"
"""A name that cannot lead out of its folder (nor hide in it): no separator, no control character, no dot in front."""


def write_text(path: Path, text: str) -> None:
    """Writes a text atomically: into a separate file beside it, which is flushed to disk and renamed. The last of
    several writers wins."""
    with replacing(path) as partial:
        partial.write_text(text)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; it replaces `path` when the block ends without an error, and is removed
    otherwise. A killed process leaves it as one of `partials`."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    # Some network file systems refuse this for folders, whose names they write at once.
    refusal = suppress(OSError) if path.is_dir() else nullcontext()
    try:
        with refusal:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give_usual_permissions(path: Path) -> None:
    """Gives a file or folder the permissions that a new one in its place would have.

    Some libraries (safetensors, tempfile) make files for the user only, so others could not read a shared result. The
    permissions are read from a probe file: a process cannot ask for its umask without changing it for all of its
    threads, and a folder may have special rules.
    """
    probe = path.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
    try:
        if path.is_dir():
            probe.mkdir()
        else:
            probe.touch()
        path.chmod(stat.S_IMODE(probe.stat().st_mode))
    finally:
        remove(probe)


def remove(path: Path) -> None:
    """Removes a file, a link (not its target), or a folder with its contents; does nothing if it is absent."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def partials(folder: Path) -> list[Path]:
    """Lists unfinished files in a folder: leftovers, unless their writers are still at work."""
    return sorted(folder.glob(f".*{PARTIAL}"))


def clock(folder: Path) -> float:
    """Returns the current time in seconds, by the clock that gives the files in this folder their times (on a shared
    folder the server's: compare times of files with nothing else)."""
    probe = folder / f".{uuid.uuid4().hex}{PARTIAL}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def as_url(path: Path) -> str | None:
    """Returns the URL that was given as this path, which has lost a slash of `https://`; None if it is no URL."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/(?=[^/])", str(path))
    return None if scheme is None else f"{scheme[1]}://{str(path)[scheme.end() :]}"


def check_place(path: Path) -> None:
    """Raises ConfigError if there is no folder to write this file into; called before the work whose result it will
    hold."""
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: expected a place in an existing folder")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically, with its digest. Keys must be strings; floats are restored exactly, nan and infinities
    included."""
    text = json.dumps(content)
    write_text(path, f'{{"sha256": "{_digest(text)}", "content": {text}}}\n')


def read_json(path: Path) -> Any:
    """Reads what `write_json` wrote. Raises DataError if it is absent or was changed."""
    try:
        whole = json.loads(path.read_bytes())
        content, expected = whole["content"], whole["sha256"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON with its digest, got: {error}") from None
    if _digest(json.dumps(content)) != expected:
        raise DataError(f"{path}: is not what was written: expected sha256 {expected}")
    return content


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _allowed() -> None: ...


@contextmanager
def whole_folder(folder: Path, check: Callable[[], None] = _allowed) -> Iterator[Path]:
    """Yields a hidden folder beside `folder`, to be filled with files; once all of them are on the disk it replaces
    `folder`. It is removed if the block raises.

    Each writer has a separate hidden folder. check: called before the folder is replaced; raises where that is not
    allowed.
    """
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}{PARTIAL}")
    partial.mkdir()  # not its parents: a process that has moved them away is the one that writes there now
    try:
        yield partial
        for path in (*partial.iterdir(), partial):
            sync(path)
        check()
        shutil.rmtree(folder, ignore_errors=True)  # there is one only if it was damaged
        partial.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def cache_root() -> Path:
    """Returns the folder for files that can be made or downloaded again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detmodes"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link(source: Path, target: Path) -> None:
    """Gives a file another name; copies it where the file system has no links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
