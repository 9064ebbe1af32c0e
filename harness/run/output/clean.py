"""Finds and removes files in the output folder of a run that no record needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness import records
from harness.records import gallery, layout
from harness.run.output import status
from harness.run.output.status import CellStatus
from harness.system import files, locks


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file or folder that may be removed. size: in bytes. cell: folder name of the cell whose lock is needed to
    remove it, if any."""

    path: Path
    reason: str
    size: int
    cell: str | None = None


def find(folder: Path, weights: bool = False) -> list[Leftover]:
    """Lists everything that may be removed: work folders of cells that are finished or not in the suite, files and
    locks of dead processes; with `weights` the fine-tuned weights of finished cells too. Cells being computed are
    left out. DataError if the folder holds no run."""
    layout.require_no_links(folder)
    cells = {item.folder.name: item for item in status.read(folder).cells}
    leftovers = [
        *_work_folders(folder, cells),
        *_progress(folder, cells),
        *_locks(folder),
        *_partials(folder),
        *(_weights(cells.values()) if weights else ()),
    ]
    return [item for item in leftovers if item.cell is None or locks.owner(folder / layout.LOCKS, item.cell) is None]


def remove(folder: Path, leftovers: Sequence[Leftover]) -> int:
    """Removes the leftovers and returns the freed bytes. Cells that a process has started meanwhile are left alone."""
    return sum(item.size for item in leftovers if _removed(folder, item))


def _removed(folder: Path, item: Leftover) -> bool:
    if item.cell is None:
        files.remove(item.path)
        return True
    with locks.held(folder / layout.LOCKS, item.cell) as lock:
        if lock is None:
            return False
        if item.path != folder / layout.LOCKS / item.cell:  # releasing a lock removes it
            files.remove(item.path)
    return True


def _work_folders(folder: Path, cells: dict[str, CellStatus]) -> Iterator[Leftover]:
    for path in sorted((folder / layout.CELLS).glob(".*")):
        name = path.name[1:]
        if not path.is_dir() or path.suffix == files.PARTIAL:
            continue
        if name not in cells:
            yield _leftover(path, "work folder, of no cell of the suite", name)
        elif cells[name].state == "finished":
            yield _leftover(path, "work folder of a finished cell", name)


def _progress(folder: Path, cells: dict[str, CellStatus]) -> Iterator[Leftover]:
    for path in sorted((folder / layout.PROGRESS).glob("*.json")):
        if path.stem not in cells or cells[path.stem].state in ("finished", "failed"):
            yield _leftover(path, "progress of a cell that nobody will go on with", path.stem)


def _locks(folder: Path) -> Iterator[Leftover]:
    for name in locks.names(folder / layout.LOCKS):
        yield _leftover(folder / layout.LOCKS / name, "lock of a dead process", name)


def _partials(folder: Path) -> Iterator[Leftover]:
    """Lists old partial files only, as new ones may still be being written."""
    now = files.clock(folder)
    for place in (folder, *(folder / name for name in (layout.CELLS, layout.LOCKS, layout.PROGRESS, gallery.FOLDER))):
        for path in files.partials(place):
            with suppress(FileNotFoundError):
                if now - path.lstat().st_mtime > locks.LEASE:
                    yield _leftover(path, "left by a process that died while it wrote")


def _weights(cells: Iterable[CellStatus]) -> Iterator[Leftover]:
    for item in cells:
        if item.state == "finished":
            for name in records.read_record(item.folder).files:
                path = item.folder / name
                if path.suffix == ".safetensors" and path.is_file():
                    yield _leftover(path, "fine-tuned weights", item.folder.name)


def _leftover(path: Path, reason: str, cell: str | None = None) -> Leftover:
    return Leftover(path, reason, _size(path), cell)


def _size(path: Path) -> int:
    """Returns the bytes of a file, or of all files in a folder; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        return sum(_size(inner) for inner in path.iterdir())
    with suppress(FileNotFoundError):
        return path.lstat().st_size
    return 0
