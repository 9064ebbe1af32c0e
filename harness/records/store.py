"""Reads the cells of a suite, from one folder each, as a run leaves them, or from one archive, as most published
suites have it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pandas as pd

from harness.errors import DataError
from harness.records.archive import Archive, open_archive
from harness.records.layout import CELLS
from harness.records.record import FORMAT, RECORD, Record, read_record, verify_files


class CellStore(Protocol):
    """The cells of a suite, each identified by the name of its folder. All methods raise DataError, in one line, for
    damaged files."""

    def read_record(self, cell: str) -> Record | None:
        """Reads a cell's record; None where there is none."""

    def has_table(self, cell: str, name: str) -> bool:
        """Tells whether a finished cell has a table of this name."""

    def verify_table(self, cell: str, name: str) -> None:
        """Raises DataError unless a table of a finished cell is the one that was written with its record."""

    def read_table(self, cell: str, name: str) -> pd.DataFrame: ...


class FolderStore:
    """A run's output folder, or a published one with whole cells."""

    def __init__(self, folder: Path) -> None:
        self._cells = folder / CELLS
        self._records: dict[str, Record] = {}

    def read_record(self, cell: str) -> Record | None:
        if cell not in self._records and (self._cells / cell / RECORD).is_file():
            self._records[cell] = read_record(self._cells / cell)
        return self._records.get(cell)

    def has_table(self, cell: str, name: str) -> bool:
        record = self.read_record(cell)
        return record is not None and f"{name}.parquet" in record.files

    def verify_table(self, cell: str, name: str) -> None:
        record = self._records.get(cell) or read_record(self._cells / cell)
        verify_files(record, self._cells / cell, [f"{name}.parquet"])

    def read_table(self, cell: str, name: str) -> pd.DataFrame:
        path = self._cells / cell / f"{name}.parquet"
        try:
            return pd.read_parquet(path)
        except (ValueError, OSError, NotImplementedError) as error:
            raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from None


class ArchiveStore:
    """A published folder with an archive; its files were verified when it was opened."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def read_record(self, cell: str) -> Record | None:
        line = self._archive.lines.get(cell)
        if line is None:
            return None
        if line.record.format != FORMAT:
            raise DataError(f"{self._archive.place}: {cell}: expected record format {FORMAT}, got {line.record.format}")
        return line.record

    def has_table(self, cell: str, name: str) -> bool:
        return self._archive.has_table(cell, name)

    def verify_table(self, cell: str, name: str) -> None:
        if not self._archive.has_table(cell, name):
            raise DataError(f"{self._archive.place}: expected the table {name} of {cell}, got none")

    def read_table(self, cell: str, name: str) -> pd.DataFrame:
        return self._archive.read_table(cell, name)


def open_store(folder: Path) -> CellStore:
    """Opens the cells of a run's output folder, or of a published one."""
    archive = open_archive(folder)
    return FolderStore(folder) if archive is None else ArchiveStore(archive)
