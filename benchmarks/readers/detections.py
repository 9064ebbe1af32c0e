"""Reads and validates detections from a results file into columns.

The suffix decides: `.json` is a list of `{"image_id", "category_id", "bbox": [x, y, w, h], "score"}` as in the
official APIs; the columns image_id, category_id, x, y, w, h, score in `.parquet` or `.npz`. Other fields and columns
(masks, ids) are ignored. Ids are integers in every format: 3.0 is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.readers import typed_json
from benchmarks.readers.annotations import Annotations
from benchmarks.readers.detection_parts import DetectionRecord, NotPlainError, RowTable, SharedDecoder
from harness.errors import DataError
from harness.types import Detections

COLUMNS = ("image_id", "category_id", "x", "y", "w", "h", "score")
IMAGE, X, Y, W, H, SCORE, CATEGORY = range(7)
"""Columns of a table of rows."""
BLOCK = 100_000
"""Rows of a table that are checked at a time."""


def load(path: Path) -> Detections:
    """Reads the detections of a file, in its order; an empty list is valid. `check` tells whether they fit
    annotations.

    Raises DataError, one line, naming the file, the first bad record (from 0) or column and what was expected.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: expected detections as {', '.join(READERS)}, got {path.suffix or 'no suffix'}")
    try:
        return reader(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def load_table(path: Path) -> RowTable:
    """Returns the detections of a file as rows. Raises NotPlainError or DataError where `load` or `check` might."""
    if path.suffix.lower() == ".json":
        with SharedDecoder(path) as decoder:
            return decoder.finish()
    detections = load(path)
    ids = (detections.image_id, detections.category_id)
    if any(column.max(initial=0) > typed_json.LARGEST_ID for column in ids):
        raise NotPlainError("an id beyond float64")
    rows = np.empty((len(detections), 7))
    rows[:, IMAGE], rows[:, CATEGORY] = ids
    rows[:, X:SCORE], rows[:, SCORE] = detections.boxes, detections.scores
    return RowTable(rows, [(start, min(start + BLOCK, len(rows))) for start in range(0, len(rows), BLOCK)])


def check(detections: Detections, annotations: Annotations, where: str = "detections") -> None:
    """Raises DataError, one line, naming the first row (from 0) of `where` that is not a valid detection.

    Valid is a finite box and score, a width and height of at least 0, and ids that the annotations know. The
    official APIs accept NaN scores and get them wrong.
    """
    images = [example.image_id for example in annotations.examples]
    categories = [category.id for category in annotations.categories]
    checks = {
        "a finite box": np.isfinite(detections.boxes).all(axis=1),
        "a finite score": np.isfinite(detections.scores),
        "a width and height of at least 0": (detections.boxes[:, 2:] >= 0).all(axis=1),
        "the id of an evaluated image": np.isin(detections.image_id, images),
        "the id of a category of the annotations": np.isin(detections.category_id, categories),
    }
    for expected, passed in checks.items():
        if not passed.all():
            row = int(np.argmin(passed))
            raise DataError(f"{where}[{row}]: expected {expected}, got {_row(detections, row)}")


def _row(detections: Detections, row: int) -> str:
    ids = f"image_id {detections.image_id[row]}, category_id {detections.category_id[row]}"
    return f"{ids}, bbox {detections.boxes[row].tolist()}, score {detections.scores[row]}"


# ---- JSON --------------------------------------------------------------------------------------------------------

EXPECTED = {
    "": 'a list of detections, [{"image_id", "category_id", "bbox", "score"}, ...]',
    "[]": "an object",
    "[].image_id": "an integer of at least 0",
    "[].category_id": "an integer of at least 0",
    "[].bbox": "four finite numbers x, y, w, h",
    "[].score": "a finite number",
}


def _json(path: Path) -> Detections:
    try:
        with SharedDecoder(path) as decoder:
            parts = list(decoder.finish().parts())
    except (NotPlainError, OSError, ValueError):  # ValueError: a name that no file can have
        return _as_columns(_whole(typed_json.read(path, "a detections file")))
    return Detections(
        np.concatenate([part[:, IMAGE] for part in parts]).astype(np.int64),
        np.concatenate([part[:, CATEGORY] for part in parts]).astype(np.int64),
        np.concatenate([part[:, X:SCORE] for part in parts]),
        np.concatenate([part[:, SCORE] for part in parts]),
    )


def _whole(content: bytes) -> list[DetectionRecord]:
    """Reads all records at once: for errors with their row in the file, and for files that cannot be cut into parts."""
    try:
        records = typed_json.decode(content, list[DetectionRecord], EXPECTED)
        typed_json.require_keys_once(content, dict.fromkeys(DetectionRecord.__struct_fields__, len(records)))
    except DataError as error:
        text = str(error)
        place = f"detections{text}" if text.startswith("[") else text
        raise DataError(f"{place}{_hint(content)}") from None
    return records


def _as_columns(records: list[DetectionRecord]) -> Detections:
    count = len(records)
    boxes = np.fromiter(chain.from_iterable(r.bbox for r in records), np.float64, 4 * count)
    return Detections(
        np.fromiter((r.image_id for r in records), np.int64, count),
        np.fromiter((r.category_id for r in records), np.int64, count),
        boxes.reshape(-1, 4),
        np.fromiter((r.score for r in records), np.float64, count),
    )


class _Wrapped(msgspec.Struct):
    """An object in the place of a list."""

    annotations: msgspec.Raw
    images: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def _hint(content: bytes) -> str:
    """Guesses what a file is that is not a list of detections."""
    try:
        wrapped = msgspec.json.decode(content, type=_Wrapped)
    except (msgspec.DecodeError, RecursionError):
        return ""
    if wrapped.images is msgspec.UNSET:
        return ' (give the list in its "annotations" alone)'
    return " (an annotations file?)"


# ---- columns -----------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Detections:
    import pyarrow.parquet as pq  # late: only here

    def columns(stream: BinaryIO) -> Iterator[Any]:
        file = pq.ParquetFile(stream)
        _complete(file.schema_arrow.names)
        for name in COLUMNS:  # one at a time: the whole table is never in memory beside the result
            column = file.read(columns=[name]).column(0)
            if column.null_count:
                row = next(k for k, value in enumerate(column) if not value.is_valid)
                raise DataError(f"{name}[{row}]: expected a number, got null")
            yield column.to_numpy()

    return _table(path, "a Parquet file", columns)


def _npz(path: Path) -> Detections:
    def columns(stream: BinaryIO) -> Iterator[Any]:
        file = np.load(stream, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError("expected an NPZ file, got a single array")
        _complete(file.files)
        yield from (file[name] for name in COLUMNS)

    return _table(path, "an NPZ file", columns)


def _complete(names: list[str]) -> None:
    for name in COLUMNS:
        if names.count(name) != 1:
            problem = "twice" if name in names else "none"
            raise DataError(f'expected one column "{name}", got {problem}; all: {", ".join(COLUMNS)}')


def _table(path: Path, expected: str, columns: Callable[[BinaryIO], Iterator[Any]]) -> Detections:
    """Puts the columns, in the order of COLUMNS, into one set of detections."""
    try:
        with path.open("rb") as stream:
            return _stacked(columns(stream))
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"expected {expected}: {error.strerror or _line(error)}") from None
    except Exception as error:  # what zipfile, zlib, numpy and pyarrow raise at a damaged file is not documented
        raise DataError(f"expected {expected}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return typed_json.printable(str(error) or type(error).__name__)


def _stacked(columns: Iterator[Any]) -> Detections:
    image_id = _column("image_id", next(columns), np.int64)
    count = len(image_id)
    category_id = _column("category_id", next(columns), np.int64, count)
    boxes = np.empty((count, 4))
    for k, name in enumerate(COLUMNS[2:6]):
        boxes[:, k] = _column(name, next(columns), np.float64, count)
    return Detections(image_id, category_id, boxes, _column("score", next(columns), np.float64, count))


def _column(name: str, values: Any, dtype: type[np.generic], count: int | None = None) -> NDArray[Any]:
    kinds, expected = ("iu", "integers") if dtype is np.int64 else ("iuf", "numbers")
    if values.ndim != 1 or (values.size and values.dtype.kind not in kinds):  # an empty array is often float64
        got = f"{values.dtype} (lists, texts or nothing)" if values.dtype.kind == "O" else values.dtype
        raise DataError(f"column {name}: expected one dimension of {expected}, got {values.shape} of {got}")
    if count is not None and len(values) != count:
        raise DataError(f"column {name}: expected {count} rows as image_id has, got {len(values)}")
    return np.asarray(values, dtype=dtype)


READERS: dict[str, Callable[[Path], Detections]] = {".json": _json, ".parquet": _parquet, ".npz": _npz}
