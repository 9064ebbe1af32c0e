"""Reads samples of a finished cell: a folder with samples.parquet and mentions.parquet.

samples.parquet has one row per sample, empty ones too: image_id, sample, temperature; if there are such columns also
step, malformed, truncated, lenient. mentions.parquet has one row per mention: image_id, sample, name, x, y, w, h; if
there are such columns also step, temperature, position, category_id (null: the name is unknown), category_score,
name_score.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.readers import typed_json
from benchmarks.readers.sample_columns import NATURAL, NONE, UNKNOWN, Columns, check_scores
from harness.errors import DataError
from harness.metrics.samples.mentions import Flags, Floats, Integers

SAMPLES, MENTIONS = "samples.parquet", "mentions.parquet"
KINDS = {np.int64: ("iu", "integers"), np.float64: ("iuf", "numbers"), np.bool_: ("b", "true or false")}
SIDES = ("x", "y", "w", "h")


@dataclass(frozen=True, slots=True)
class _Table:
    """A Parquet file, or some of its rows. `rows`: their places in the file, from 0."""

    path: Path
    table: Any
    rows: Integers

    def __contains__(self, name: str) -> bool:
        return name in self.table.column_names

    def take(self, chosen: Flags) -> _Table:
        return _Table(self.path, self.table.filter(chosen), self.rows[chosen])

    def place(self, row: int) -> str:
        return f"{self.path}: row {self.rows[row]}"

    def column(self, name: str, dtype: type[np.generic], missing: float | None = None) -> NDArray[Any]:
        """Returns a column with `missing` in place of null; None: there must be no null. NaN is a value, not null."""
        column, null = self.table.column(name).combine_chunks(), self.null(name)
        if null.any() and missing is None:
            raise DataError(f"{self.place(int(np.argmax(null)))}: {name}: expected a value, got null")
        present = column.drop_null().to_numpy(zero_copy_only=False)
        kinds, expected = KINDS[dtype]
        if present.size and present.dtype.kind not in kinds:
            raise DataError(f"{self.path}: column {name}: expected {expected}, got {column.type}")
        values = np.full(len(column), 0 if missing is None else missing, dtype=dtype)
        values[~null] = present
        return values

    def null(self, name: str) -> Flags:
        return np.asarray(self.table.column(name).combine_chunks().is_null())

    def natural(self, name: str, missing: float | None = None) -> Integers:
        """Returns a column of integers of at least 0."""
        values = self.column(name, np.int64, missing)
        wrong = (values < 0) & (values != missing)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(f"{self.place(row)}: {name}: expected {NATURAL}, got {values[row]}")
        return values

    def codes(self, name: str) -> tuple[Integers, tuple[str, ...]]:
        """Returns a column of strings as indices into its different values, NONE for null."""
        import pyarrow as pa

        column = self.table.column(name).combine_chunks()
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if not text and column.null_count < len(column):
            raise DataError(f"{self.path}: column {name}: expected strings, got {column.type}")
        encoded = column.cast(pa.large_string()).dictionary_encode()
        codes = encoded.indices.fill_null(NONE).to_numpy(zero_copy_only=False)
        return codes.astype(np.int64), tuple(encoded.dictionary.to_pylist())


def read(folder: Path, step: int | None) -> Columns:
    """Reads the columns of a cell's folder at `step` (None: the last). DataError, one line, naming the file, row,
    field."""
    paths = [folder / name for name in (SAMPLES, MENTIONS)]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{folder}: expected a folder with {SAMPLES} and {MENTIONS}, has no {path.name}")
    required = ("image_id", "sample", "temperature"), ("image_id", "sample", "name", *SIDES)
    optional = (
        ("step", "malformed", "truncated", "lenient"),
        ("step", "temperature", "position", "category_id", "name_score", "category_score"),
    )
    samples, mentions = map(_parquet, paths, required, optional)
    if not len(samples.rows):
        raise DataError(f"{samples.path}: expected samples, got an empty table")
    samples, mentions, step = _at_step(samples, mentions, step)
    owner = _owners(samples, mentions)
    order = np.argsort(mentions.column("position", np.int64), kind="stable") if "position" in mentions else slice(None)
    rows = np.arange(len(owner))[order]
    codes, names = mentions.codes("name")
    category_id = np.full(len(owner), NONE)
    if "category_id" in mentions:
        category_id = mentions.natural("category_id", UNKNOWN)
    count = len(samples.rows)
    return Columns(
        digests={path.name: _digest(path) for path in paths},
        step=step,
        image_id=samples.natural("image_id"),
        sample=samples.natural("sample"),
        temperature=samples.column("temperature", np.float64),
        malformed=samples.natural("malformed") if "malformed" in samples else np.zeros(count, np.int64),
        lenient=samples.natural("lenient") if "lenient" in samples else np.zeros(count, np.int64),
        truncated=samples.column("truncated", np.bool_) if "truncated" in samples else np.zeros(count, np.bool_),
        owner=owner[rows],
        name=codes[rows],
        names=names,
        category_id=category_id[rows],
        boxes=np.stack([mentions.column(side, np.float64, math.nan) for side in SIDES], axis=1)[rows],
        score=_scores(mentions)[rows],
        sample_place=samples.place,
        mention_place=lambda row: mentions.place(int(rows[row])),
    )


def _parquet(path: Path, required: tuple[str, ...], optional: tuple[str, ...]) -> _Table:
    import pyarrow.parquet as pq  # late: only here

    try:
        with path.open("rb") as stream:
            names = pq.ParquetFile(stream).schema_arrow.names
            for name in (*required, *optional):
                if names.count(name) > 1 or (name in required and name not in names):
                    raise DataError(f'{path}: expected one column "{name}", got {"two" if name in names else "none"}')
            table = pq.ParquetFile(stream).read(columns=[n for n in (*required, *optional) if n in names])
    except (DataError, MemoryError):
        raise
    except Exception as error:  # what pyarrow raises at a damaged file is not documented
        reason = typed_json.printable(str(error) or type(error).__name__)
        raise DataError(f"{path}: expected a Parquet file: {reason}") from None
    return _Table(path, table, np.arange(table.num_rows))


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _at_step(samples: _Table, mentions: _Table, step: int | None) -> tuple[_Table, _Table, int | None]:
    """Returns the rows of the step (None: the last) and the step; all rows and None if the files have no steps."""
    if "step" not in samples:
        if step is not None:
            raise DataError(f'{samples.path}: expected a column "step" for --step {step}, got none')
        return samples, mentions, None
    if "step" not in mentions:
        raise DataError(f'{mentions.path}: expected a column "step" as {samples.path.name} has, got none')
    steps, of_mentions = (table.column("step", np.int64) for table in (samples, mentions))
    chosen = int(steps.max()) if step is None else step
    if chosen not in steps:
        available = ", ".join(map(str, np.unique(steps)))
        raise DataError(f"{samples.path}: expected --step to be one of {available}, got {chosen}")
    return samples.take(steps == chosen), mentions.take(of_mentions == chosen), chosen


def _owners(samples: _Table, mentions: _Table) -> Integers:
    """Returns the sample of each mention, [M]."""
    by: dict[str, type[np.generic]] = {"image_id": np.int64, "sample": np.int64}
    if "temperature" in mentions:
        by["temperature"] = np.float64
    left, right = ([table.column(name, kind) for name, kind in by.items()] for table in (samples, mentions))
    key, wanted = _keys(left, right)
    order = np.argsort(key, kind="stable")
    again = np.flatnonzero(np.diff(key[order]) == 0)
    if len(again):
        row = int(order[again[0] + 1])
        raise DataError(
            f"{samples.place(row)}: expected one sample for each {', '.join(by)}, got {_tell(left, row)} again"
        )
    nearest = np.minimum(np.searchsorted(key[order], wanted), len(key) - 1)
    lost = key[order][nearest] != wanted
    if lost.any():
        row = int(np.argmax(lost))
        raise DataError(f"{mentions.place(row)}: expected a sample of {samples.path.name}, got {_tell(right, row)}")
    return np.asarray(order[nearest])


def _tell(columns: list[NDArray[Any]], row: int) -> str:
    names = ("image", "sample", "temperature")
    return ", ".join(f"{name} {column[row]}" for name, column in zip(names, columns, strict=False))


def _keys(left: list[NDArray[Any]], right: list[NDArray[Any]]) -> tuple[Integers, Integers]:
    """Returns one integer for each row of several columns, for both tables: equal rows have equal keys."""
    keys = np.zeros(len(left[0]), np.int64), np.zeros(len(right[0]), np.int64)
    for a, b in zip(left, right, strict=True):
        values, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
        keys = keys[0] * len(values) + codes[: len(a)], keys[1] * len(values) + codes[len(a) :]
    return keys


def _scores(mentions: _Table) -> Floats:
    """Returns the probability of the category where it is given, else of the name; nan where neither is."""
    score = np.full(len(mentions.rows), math.nan)
    for name in ("name_score", "category_score"):
        if name in mentions:
            given, null = mentions.column(name, np.float64, math.nan), mentions.null(name)
            check_scores(given, ~null, name, mentions.place)
            score = np.where(null, score, given)
    return score
