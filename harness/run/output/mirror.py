"""Mirrors output at a URL of any kind that fsspec supports (s3://, gs://, file://, memory://): the run works in a
local folder.

    URL/suite.json, cells.json, gallery/    as in the folder of a run (see harness.records.layout)
    URL/cells/<cell>/                       a cell: its files first, record.json last, so that it marks a complete cell

Finished cells, except for their weights, are downloaded before the run; a cell is uploaded as soon as it is done.
Checkpoints, locks, progress and profiles stay local: a cell that was interrupted on another machine starts anew, and
two machines on one URL may compute a cell twice. Both get the same result, and the first record stays. If both upload
at the same moment, files and record may not match: then the cell counts as absent, and the next run without it
computes it again.

fsspec takes credentials from the environment and from the files of the service's tools.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from harness import records
from harness.errors import ConfigError, DataError, DetmodesError
from harness.records import RECORD, Record, gallery, layout
from harness.run.output.watch import Watch
from harness.suite.cells import Cell
from harness.system import files, locks
from harness.system.terminal import shows

WEIGHTS = ".safetensors"
"""Suffix of files that are uploaded but not downloaded."""


def is_url(text: str) -> bool:
    return "://" in text


def local(place: str) -> Path:
    """Returns a folder unchanged; for a URL the local folder, after downloading its content. DataError if it holds no
    run."""
    if not is_url(place):
        return Path(place)
    mirror = Mirror(place)
    mirror.bring()
    if not (mirror.folder / layout.SUITE).is_file():
        raise DataError(f"{place}: expected the output of a run, found no {layout.SUITE}")
    return mirror.folder


def opened(place: str) -> tuple[Path, Mirror | None]:
    """Returns the working folder of a run and, if its output is a URL, the mirror that uploads it. Existing content
    has been downloaded."""
    if not is_url(place):
        return Path(place), None
    mirror = Mirror(place)
    if shows():  # of several processes of a run, one reads and writes
        mirror.bring()
    return mirror.folder, mirror


class Mirror:
    """A URL and its local folder (by default one in the user's cache, the same for the same URL).

    Raises ConfigError for a URL that fsspec does not support, or only with another package. Methods raise DataError
    where the URL cannot be read or written.
    """

    def __init__(self, url: str, folder: Path | None = None) -> None:
        self._files, self._root = _file_system(url)
        self.url = f"file://{self._root}" if url.startswith("file://") else url
        """An absolute URL, which means the same in another process."""
        self.folder = folder or _default_folder(self.url)
        self._settled: dict[str, float] = {}
        self._answered = False

    def bring(self) -> None:
        """Downloads everything that is complete at the URL and not finished here."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if "local" in self._files.protocol:  # file:// is another name of it
            layout.require_no_links(Path(self._root))
        with self._reached():
            self._files.invalidate_cache()
            for name in (layout.SUITE, layout.DIGESTS):
                self._bring_file(name)
            for name in self._names(gallery.FOLDER):
                self._bring_file(f"{gallery.FOLDER}/{name}")
            cells = self._names(layout.CELLS)
        for name in cells:
            self.bring_cell(name)

    def bring_cell(self, name: str) -> None:
        """Downloads one cell, by the name of its folder, unless it is finished or being computed here."""
        target = self.folder / layout.CELLS / name
        theirs = self._record(name)
        if theirs is None or _finished(_record_in(target), theirs):
            return
        with locks.held(self.folder / layout.LOCKS, name) as lock, suppress(_NotWholeError):
            if lock is not None:
                self._download(name, theirs, target)
                self._settled[name] = records.record_time(target)

    def _download(self, name: str, record: Record, target: Path) -> None:
        wanted = [file for file in record.files if not file.endswith(WEIGHTS)]
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.whole_folder(target) as work:
            with self._reached():
                for file in wanted:
                    with suppress(FileNotFoundError):
                        self._files.get_file(self._place(layout.CELLS, name, file), str(work / file))
            records.write_record(record, work)
            try:
                records.verify_files(record, work, wanted)
            except DataError as error:
                raise _NotWholeError from error

    def send(self) -> None:
        """Uploads what the URL lacks: suite and gallery, and every cell that is done."""
        layout.require_no_links(self.folder)
        shown = sorted((self.folder / gallery.FOLDER).glob("[!.]*"))
        with self._reached():
            for path in (self.folder / layout.SUITE, self.folder / layout.DIGESTS, *shown):
                if path.is_file() and self._settled.get(str(path)) != path.stat().st_mtime:
                    written = path.stat().st_mtime
                    self._put(path, *path.relative_to(self.folder).parts)
                    self._settled[str(path)] = written
        for folder in sorted((self.folder / layout.CELLS).glob("[!.]*")):
            self.send_cell(folder.name)

    def send_cell(self, name: str) -> None:
        """Uploads one cell, by the name of its folder, if it is done here and not finished there."""
        folder = self.folder / layout.CELLS / name
        written = records.record_time(folder)
        ours = None if self._settled.get(name) == written else _record_in(folder)
        if ours is None:
            return
        if not _finished(self._record(name), ours):
            with self._reached():
                self._upload(folder)
        self._settled[name] = written

    def _upload(self, folder: Path) -> None:
        with suppress(FileNotFoundError):  # never an old record beside new files
            self._files.rm_file(self._place(layout.CELLS, folder.name, RECORD))
        others = [path for path in sorted(folder.glob("[!.]*")) if path.is_file() and path.name != RECORD]
        for path in (*others, folder / RECORD):
            self._put(path, layout.CELLS, folder.name, path.name)

    def send_or_warn(self) -> None:
        """Uploads during a run: once the URL has been written to, an error is printed in one line and does not end
        the run. The next call tries again."""
        try:
            self.send()
        except DataError as error:
            if not self._answered:
                raise
            print(f"detmodes: not sent yet: {error}", file=sys.stderr)

    # ---- the file system -------------------------------------------------------------------------------------------

    def _place(self, *parts: str) -> str:
        return "/".join((self._root.rstrip("/"), *parts))

    def _names(self, folder: str) -> list[str]:
        """Lists plain names in a folder at the URL: whatever a listing contains, no name leads out of the local
        folder."""
        try:
            listed = self._files.ls(self._place(folder), detail=False)
        except FileNotFoundError:
            return []
        names = {PurePosixPath(str(path).rstrip("/")).name for path in listed}
        return sorted(name for name in names if re.fullmatch(files.PLAIN_NAME, name))

    def _record(self, cell: str) -> Record | None:
        """Reads a record; None where there is no valid one."""
        with self._reached(), suppress(FileNotFoundError, ValidationError):
            return Record.model_validate_json(self._files.cat_file(self._place(layout.CELLS, cell, RECORD)))
        return None

    def _bring_file(self, name: str) -> None:
        target = self.folder / name
        target.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError), files.replacing(target) as partial:
            self._files.get_file(self._place(name), str(partial))

    def _put(self, path: Path, *parts: str) -> None:
        self._files.makedirs(self._place(*parts[:-1]), exist_ok=True)
        self._files.put_file(str(path), self._place(*parts))
        self._answered = True

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turns the errors of any service into one line."""
        try:
            yield
        except DetmodesError:
            raise
        except Exception as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise DataError(f"{self.url}: cannot be reached: {told}; what is done is in {self.folder}") from error


class SendingWatch:
    """A Watch that uploads finished cells, and passes everything on to another Watch."""

    def __init__(self, watch: Watch, mirror: Mirror) -> None:
        self._watch, self._mirror = watch, mirror

    def cell(self, cell: Cell, index: int, total: int, state: str, outcome: str = "") -> None:
        self._watch.cell(cell, index, total, state, outcome)
        self._mirror.send_or_warn()

    def work(self, kind: str, done: int, total: int, note: str = "") -> None:
        self._watch.work(kind, done, total, note)


class _NotWholeError(Exception):
    """Files at the URL differ from those that their record describes."""


def _file_system(url: str) -> tuple[Any, str]:
    """Returns the file system of fsspec, and the path of the URL in it."""
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(url)
    except Exception as error:  # "Install s3fs to access S3"; "Protocol not known: ..."; whatever a service raises
        told = " ".join(str(error).split())[:300]
        raise ConfigError(f"{url}: expected a URL that fsspec can open: {told}") from None
    return system, str(root)


def _default_folder(url: str) -> Path:
    """Returns a readable folder name that is unique for the URL."""
    url = url.rstrip("/")
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", PurePosixPath(url).name)[:40]
    return files.cache_root() / "urls" / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def _finished(one: Record | None, other: Record) -> bool:
    """Tells whether one is a finished record of the other's cell."""
    return one is not None and one.status == "finished" and one.digest == other.digest


def _record_in(folder: Path) -> Record | None:
    with suppress(DataError):
        return records.read_record(folder)
    return None
