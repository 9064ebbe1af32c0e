"""Stores all cells of a published suite in one folder of a few files: what tables and figures are made of, and
nothing else.

    DIR/archive/records.jsonl.xz     a line for every cell: its folder's name, its record, how many rows it has
    DIR/archive/images.parquet       the rows of every cell's images.parquet, with the column `cell` in front
    DIR/archive/detections.parquet   likewise the detections that count, in the order in which they are ranked, without
                                     boxes and scores, as AP is computed from ranks and matches
    DIR/archive/gallery.parquet      the mentions of the cells that the gallery shows
    DIR/archive/files.json           sha256 of these

A record names the digests of the whole tables, so a whole cell can be verified against it, and publishing whole cells
gives these files again. Without whole cells, AP at every evaluated step is computed from the rows here, and compared
with the record. All other figures are computed from them at the steps and temperatures that rows of tables are made of;
at the others, which lines over training or temperatures alone pass through, those of LINE_COLUMNS (see `thin_images`).
Columns of CONTINUOUS are stored to PRECISION, all others exactly.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from harness.errors import DataError
from harness.records.layout import ARCHIVE
from harness.records.record import Record
from harness.records.tables import COUNTS, FURTHER_COLUMN, PER_IMAGE
from harness.system.files import PLAIN_NAME, read_json, sha256, write_json
from harness.system.strict import StrictModel, first_problem

FOLDER = ARCHIVE
RECORDS, DIGESTS = "records.jsonl.xz", "files.json"
PRECISION = 2.0**-30
"""Nine decimals: a mean over images changes by less than the sixth decimal that tables show, at 60% of the size."""
GROUP = 1 << 20
"""Approximate number of rows that are read at once: beyond it, the next cell begins a new row group."""

RANKED = ("step", "temperature", "image_id", "category_id", "true_positive", "left_out", "ignored")
"""Columns of detections.parquet that AP is computed from."""
LINE_COLUMNS = (
    *("step", "temperature", "image_id", "category_id", "instances", "samples"),
    *("verified", "present", "choices", "name_diversity", "distinct_names", "unique_name_sequences"),
    *("mentions", "verified_mentions", "neutral_mentions"),
)
"""Columns of images.parquet that figures over training and over temperatures are made of: AP, recall, coverage, names
in use, precision."""
CONTINUOUS = ("box_spread", "vendi", "self_bleu")
"""Columns of images.parquet with about as many values as rows, for which a dictionary would be no shorter."""

_REAL = dict.fromkeys(
    ({*PER_IMAGE} - {*COUNTS}) | {"temperature", "name_diversity", "box_spread", *"xywh"}, pa.float64()
)
_TYPES: dict[str, dict[str, pa.DataType]] = {
    "images": _REAL | dict.fromkeys(("verified", "names"), pa.list_(pa.int32())),
    "detections": _REAL | dict.fromkeys(("true_positive", "left_out"), pa.uint16()) | {"ignored": pa.bool_()},
    "gallery": _REAL | {"name": pa.string(), "verified": pa.bool_()},
}
"""Types of the columns that do not hold whole numbers."""


class ArchiveLine(StrictModel):
    """One line of RECORDS. rows: the number of rows that the cell has in each table."""

    cell: str
    record: Record
    rows: dict[str, int]


@dataclass(frozen=True, slots=True)
class ArchivedCell:
    """What an archive stores of one cell: the name of its folder, its record, and its tables by name (none for a
    failed cell)."""

    name: str
    record: Record
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)


# ---- writing -----------------------------------------------------------------------------------------------------


def thin_images(images: pd.DataFrame, whole: Collection[tuple[int, float]]) -> pd.DataFrame:
    """Returns the rows of images.parquet where columns that are not of LINE_COLUMNS are null, but at the steps and
    temperatures in `whole`."""
    # Records of older code know a single temperature.
    heats = images["temperature"] if "temperature" in images else [heat for _, heat in whole][:1] * len(images)
    between = np.array([point not in whole for point in zip(images["step"], heats, strict=True)], dtype=np.bool_)
    others = [name for name in map(str, images) if name not in LINE_COLUMNS]
    return images.assign(**{name: images[name].mask(between, None) for name in others})


def write_archive(folder: Path, cells: Iterable[ArchivedCell]) -> None:
    """Writes the archive of these cells into `folder`, which must have none; the same cells give the same bytes.

    Raises DataError where a cell's table has other columns than those of the cells before.
    """
    place = folder / FOLDER
    place.mkdir()
    writers: dict[str, _TableWriter] = {}
    lines = []
    for cell in cells:
        frames = {name: _ranked(frame) if name == "detections" else frame for name, frame in cell.tables.items()}
        rows = {name: len(frame) for name, frame in frames.items()}
        lines.append(ArchiveLine(cell=cell.name, record=cell.record, rows=rows).model_dump_json() + "\n")
        for name, frame in frames.items():
            if name not in writers:
                writers[name] = _TableWriter(place, name, list(map(str, frame)))
            writers[name].add(cell.name, frame)
    for writer in writers.values():
        writer.close()
    (place / RECORDS).write_bytes(lzma.compress("".join(lines).encode(), preset=9))
    write_json(place / DIGESTS, {path.name: sha256(path) for path in sorted(place.iterdir())})


def _ranked(detections: pd.DataFrame) -> pd.DataFrame:
    """Returns the detections that count, with the columns that AP is computed from."""
    counting = detections[detections["evaluated"]] if "evaluated" in detections else detections
    return counting[[name for name in RANKED if name in counting]]


def _other_type(column: str) -> pa.DataType:
    return pa.float64() if column.startswith(FURTHER_COLUMN) else pa.int64()


class _TableWriter:
    """Writes one Parquet file of many cells. A cell lies in one row group; a row group has about GROUP rows."""

    def __init__(self, place: Path, name: str, columns: list[str]) -> None:
        self._place, self._columns = place / f"{name}.parquet", columns
        kinds = [(column, _TYPES[name].get(column, _other_type(column))) for column in columns]
        self._schema = pa.schema([("cell", pa.string()), *kinds])
        self._continuous = [column for column in columns if column in CONTINUOUS]
        self._file = pq.ParquetWriter(
            self._place,
            self._schema,
            compression="zstd",
            compression_level=19,
            use_dictionary=[column for column in self._schema.names if column not in self._continuous],
            column_encoding=dict.fromkeys(self._continuous, "BYTE_STREAM_SPLIT"),
            write_statistics=False,
        )
        self._waiting: list[pa.Table] = []

    def add(self, cell: str, frame: pd.DataFrame) -> None:
        if list(frame) != self._columns:
            raise DataError(f"{cell}: {self._place.name}: expected the columns {self._columns}, got {list(frame)}")
        rounded = frame.assign(**{name: np.rint(frame[name] / PRECISION) * PRECISION for name in self._continuous})
        rounded.insert(0, "cell", cell)
        self._waiting.append(pa.Table.from_pandas(rounded, self._schema, preserve_index=False))
        if sum(map(len, self._waiting)) >= GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.concat_tables(self._waiting).replace_schema_metadata(None)
            self._file.write_table(table, row_group_size=max(1, len(table)))
            self._waiting = []


# ---- reading -----------------------------------------------------------------------------------------------------


class Archive:
    """A published suite's archive, verified by `open_archive`."""

    def __init__(self, place: Path, lines: Mapping[str, ArchiveLine]) -> None:
        self.place, self.lines = place, lines
        self._tables = {path.stem: _TableReader(path) for path in sorted(place.glob("*.parquet"))}

    def has_table(self, cell: str, name: str) -> bool:
        return name in self._tables and cell in self.lines and name in self.lines[cell].rows

    def read_table(self, cell: str, name: str) -> pd.DataFrame:
        """Reads a cell's rows of one of its tables. Raises DataError where they are missing."""
        frame = self._tables[name].read(cell) if self.has_table(cell, name) else None
        if frame is None or len(frame) != self.lines[cell].rows[name]:
            raise DataError(f"{self.place / name}.parquet: expected the rows of {cell} that {RECORDS} names")
        return frame


class _TableReader:
    """Reads a Parquet file of many cells, holding one row group in memory at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._group: tuple[int, pa.Table] | None = None

    @cached_property
    def rows(self) -> dict[str, tuple[int, int, int]]:
        """Maps each cell to its row group, its first row there, and its number of rows."""
        groups = {}
        with pq.ParquetFile(self._path) as file:
            for group in range(file.num_row_groups):
                names = file.read_row_group(group, columns=["cell"])["cell"].to_numpy()
                ends = np.flatnonzero(np.r_[names[1:] != names[:-1], True][: len(names)]) + 1
                for start, end in zip([0, *ends], ends, strict=False):
                    groups[str(names[start])] = (group, int(start), int(end - start))
        return groups

    def read(self, cell: str) -> pd.DataFrame:
        if cell not in self.rows:
            return pd.DataFrame(pq.read_schema(self._path).empty_table().drop_columns(["cell"]).to_pandas())
        group, start, count = self.rows[cell]
        if self._group is None or self._group[0] != group:
            with pq.ParquetFile(self._path) as file:
                self._group = group, file.read_row_group(group).drop_columns(["cell"])
        return pd.DataFrame(self._group[1].slice(start, count).to_pandas())


def open_archive(folder: Path) -> Archive | None:
    """Opens the archive of a published folder; None where it has none.

    Raises DataError (one line) where a file is missing or differs from the published one, or a record is invalid.
    """
    place = folder / FOLDER
    if not place.is_dir():
        return None
    digests = read_json(place / DIGESTS)
    if not isinstance(digests, dict) or not all(re.fullmatch(PLAIN_NAME, name) for name in digests):
        raise DataError(f"{place / DIGESTS}: expected the digests of files beside it")
    for name, digest in digests.items():
        if not (place / name).is_file() or sha256(place / name) != digest:
            raise DataError(f"{place / name}: missing, or not the file that {DIGESTS} describes")
    try:
        lines = lzma.decompress((place / RECORDS).read_bytes()).decode().splitlines()
        entries = [ArchiveLine.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise DataError(f"{place / RECORDS}: {first_problem(error)}") from None
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{place / RECORDS}: cannot be read: {error}") from None
    return Archive(place, {line.cell: line for line in entries})
