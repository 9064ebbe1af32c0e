"""Computes digests of pictures: names, sizes and contents of many files, with a cache so that only changed files are
read again. In: paths. Out: one digest for all of them.

    CACHE/pictures/<digest of a folder's path>.json    file name -> its size, its time, the sha256 of its content
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.errors import DataError
from harness.system.files import cache_root, read_json, sha256, write_json

FOLDER = "pictures"
RECENT = 5.0
"""Seconds for which a file counts as new. It may be written once more within the same tick of its clock, so it is not
cached."""
MISSING = "missing"

Entry = tuple[int, int, str]
"""Size in bytes, time of the last change in nanoseconds, sha256."""


def digest_pictures(paths: Iterable[Path], progress: Callable[[int, int], None] = lambda done, total: None) -> str:
    """Returns one sha256 over the names, sizes and contents of these files, which does not depend on their order and
    folder.

    An absent file counts as missing. `progress(done, total)` is called as files are read.
    """
    folders: dict[Path, list[str]] = {}
    for path in dict.fromkeys(paths):
        folders.setdefault(path.parent, []).append(path.name)
    total, done, lines = sum(map(len, folders.values())), 0, []
    for folder, names in folders.items():
        for name, (size, _, content) in _entries(folder, names):
            done += 1
            progress(done, total)
            lines.append(f"{name}\0{size}\0{content}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _entries(folder: Path, names: list[str]) -> Iterator[tuple[str, Entry]]:
    """Returns the entries of these files of a folder, from the cache where size and time are unchanged."""
    place = cache_root() / FOLDER / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]}.json"
    cached: dict[str, list[Any]] = {}
    with suppress(DataError):
        cached = read_json(place)
    fresh: dict[str, list[Any]] = {}
    with ThreadPoolExecutor() as pool:
        for name, entry in zip(
            names, pool.map(lambda name: _entry(folder / name, cached.get(name)), names), strict=True
        ):
            yield name, entry
            if list(entry) != cached.get(name) and time.time_ns() - entry[1] > RECENT * 1e9:
                fresh[name] = list(entry)
    if fresh:
        with suppress(OSError):  # a cache that cannot be written costs time only
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, cached | fresh)


def _entry(path: Path, cached: list[Any] | None) -> Entry:
    try:
        status = path.stat()  # before reading: what is written meanwhile is read again next time
        if cached is not None and cached[:2] == [status.st_size, status.st_mtime_ns]:
            return status.st_size, status.st_mtime_ns, str(cached[2])
        return status.st_size, status.st_mtime_ns, sha256(path)
    except OSError:
        return -1, -1, MISSING
