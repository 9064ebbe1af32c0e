"""What is known of many pictures, kept in a cache so that only what has changed is read again: one digest of their
names, sizes and contents, and what somebody says of each after reading it. In: paths. Out: a digest, or verdicts.

    CACHE/pictures/<digest of a folder's path>.json           file name -> size, time, sha256 of the content
    CACHE/pictures/<digest of a folder's path>-verdicts.json  file name -> sha256 of the content, question, verdict
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

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
        with _Memory(folder) as memory, ThreadPoolExecutor() as pool:
            for name, (size, _, content) in zip(names, pool.map(memory.entry, names), strict=True):
                done += 1
                progress(done, total)
                lines.append(f"{name}\0{size}\0{content}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def judge_pictures(
    files: Sequence[tuple[Path, str]],
    judge: Callable[[int], str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Returns what `judge(place)` says of each of these files; the same is not asked twice of the same content.

    Args:
        files: paths, each with what its verdict depends on besides its content (the question).
        judge: called in threads, with a place in `files`; a file that is not there is always judged.
        progress: told (done, total) after each file.
    """
    verdicts = [""] * len(files)
    folders: dict[Path, list[int]] = {}
    for place, (path, _) in enumerate(files):
        folders.setdefault(path.parent, []).append(place)
    done = 0
    for folder, places in folders.items():
        with _Memory(folder) as memory, ThreadPoolExecutor() as pool:
            answers = pool.map(
                lambda place: memory.judge(files[place][0], files[place][1], partial(judge, place)), places
            )
            try:
                for place, verdict in zip(places, answers, strict=True):
                    verdicts[place] = verdict
                    done += 1
                    progress(done, len(files))
            except BaseException:  # somebody does not want to wait: what was read is kept, the rest is not
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return verdicts


class _Memory:
    """What is known of the files of a folder, from the cache and from reading; written back when it is left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
        places = cache_root() / FOLDER
        self._paths = places / f"{name}.json", places / f"{name}-verdicts.json"
        self._entries, self._verdicts = map(_read_cache, self._paths)
        self._new_entries: dict[str, list[Any]] = {}
        self._new_verdicts: dict[str, list[Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        news = (self._entries, self._new_entries), (self._verdicts, self._new_verdicts)
        for path, (cached, fresh) in zip(self._paths, news, strict=True):
            if fresh:
                with suppress(OSError):  # a cache that cannot be written costs time only
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_json(path, cached | fresh)

    def entry(self, name: str) -> Entry:
        """Reads a file unless its size and time are what they were."""
        cached = self._entries.get(name)
        entry = _entry(self._folder / name, cached)
        if list(entry) != cached and time.time_ns() - entry[1] > RECENT * 1e9 and entry[2] != MISSING:
            self._new_entries[name] = list(entry)
        return entry

    def judge(self, path: Path, question: str, judge: Callable[[], str]) -> str:
        """Says what was said of the same content before, or asks."""
        content = self.entry(path.name)[2]
        cached = self._verdicts.get(path.name)
        if cached is not None and cached[:2] == [content, question]:
            return str(cached[2])
        verdict = judge()
        if content != MISSING:
            self._new_verdicts[path.name] = [content, question, verdict]
        return verdict


def _read_cache(path: Path) -> dict[str, list[Any]]:
    with suppress(DataError):
        content = read_json(path)
        return content if isinstance(content, dict) else {}
    return {}


def _entry(path: Path, cached: list[Any] | None) -> Entry:
    try:
        status = path.stat()  # before reading: what is written meanwhile is read again next time
        if cached is not None and cached[:2] == [status.st_size, status.st_mtime_ns]:
            return status.st_size, status.st_mtime_ns, str(cached[2])
        return status.st_size, status.st_mtime_ns, sha256(path)
    except OSError:
        return -1, -1, MISSING
