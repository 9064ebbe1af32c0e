"""Results files: three formats give the same columns, large files are read in parts, and bad ones get one line."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.readers import detection_parts, detections
from benchmarks.readers.detection_parts import NotPlainError, SharedDecoder
from benchmarks.readers.detections import check, load
from harness.errors import DataError
from harness.types import Detections
from tests.benchmarks.documents import Document, annotation, category, document, image, loaded, result, write

ROWS = [result(7, 5, 0.5, 1, 2, 3, 4), result(3, 2, -1e-3, 0.25, 0, 0, 5), result(7, 5, 2, 1, 2, 3, 4)]


def columns(rows: list[Document]) -> dict[str, Any]:
    boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    ids = {key: np.array([row[key] for row in rows], dtype=np.int32) for key in ("image_id", "category_id")}
    return {**ids, **dict(zip("xywh", boxes.T, strict=True)), "score": np.array([row["score"] for row in rows])}


def save(path: Path, **content: Any) -> Path:
    """Columns as .npz or .parquet."""
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        pq.write_table(pa.table(content), path, row_group_size=2)
    return path


def equal(a: Detections, b: Detections) -> bool:
    pairs = ((a.image_id, b.image_id), (a.category_id, b.category_id), (a.boxes, b.boxes), (a.scores, b.scores))
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


def expected() -> Detections:
    boxes = np.array([[1, 2, 3, 4], [0.25, 0, 0, 5], [1, 2, 3, 4]], dtype=np.float64)
    return Detections(np.array([7, 3, 7]), np.array([5, 2, 5]), boxes, np.array([0.5, -1e-3, 2.0]))


def test_json_parquet_and_npz_give_the_same_columns_in_the_order_of_the_file(tmp_path: Path) -> None:
    assert equal(load(write(tmp_path / "d.json", ROWS)), expected())
    assert equal(load(save(tmp_path / "d.parquet", **columns(ROWS))), expected())
    assert equal(load(save(tmp_path / "d.npz", **columns(ROWS))), expected())


def test_other_fields_and_columns_are_ignored(tmp_path: Path) -> None:
    mask = {"size": [480, 640], "counts": "PY}, {"}
    more: Document = {"id": 1, "segmentation": mask, "parts": [{"a": 1}, {"b": 2}]}  # a repeated id is no mistake
    rows = [{**more, **row, "name": "é"} for row in ROWS]
    assert equal(load(write(tmp_path / "d.json", rows)), expected())
    for suffix in ("parquet", "npz"):
        names = np.array(["a", "b", "c"])
        assert equal(load(save(tmp_path / f"d.{suffix}", name=names, **columns(ROWS))), expected())


def test_no_detections_are_valid(tmp_path: Path) -> None:
    nothing = Detections.of([])
    assert equal(load(write(tmp_path / "d.json", [])), nothing)
    assert equal(load(save(tmp_path / "d.parquet", **columns([]))), nothing)
    untyped = {name: np.array([]) for name in detections.COLUMNS}
    assert equal(load(save(tmp_path / "d.npz", **untyped)), nothing)


# ---- parts -------------------------------------------------------------------------------------------------------

awkward = st.sampled_from([{}, {"m": {"size": [1]}}, {"parts": [{"a": 1}, {"b": 2}]}, {"t": "}, {"}, {"t": '"},{"'}])


@given(st.lists(awkward, min_size=1, max_size=12), st.integers(1, 300), st.sampled_from([None, 0, 2]))
def test_a_file_in_parts_is_the_file(extras: list[Document], size: int, indent: int | None) -> None:
    """All rows in the order of the file; or a cut fell inside a record, and the careful reader is asked for."""
    rows = [{**extra, **result(k, k, k / 2, k, 0, 1, 1), **extra} for k, extra in enumerate(extras)]
    with tempfile.NamedTemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        Path(file.name).write_text(json.dumps(rows, indent=indent))
        patch.setattr(detection_parts, "PART", size)
        patch.setattr(detection_parts, "WINDOW", 2)
        try:
            with SharedDecoder(Path(file.name)) as decoder:
                table = decoder.finish()
        except NotPlainError:
            assert any(extra.keys() & {"parts", "t"} for extra in extras)
        else:
            assert np.concatenate(list(table.parts()))[:, [0, 5]].tolist() == [[k, k / 2] for k in range(len(rows))]


@pytest.mark.parametrize("separator", [",", ", ", ",\n", "\n  ,  \n"])
def test_a_long_file_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str) -> None:
    rows = [result(k, k + 1, k / 7, k, 2 * k, 3, 4) for k in range(100)]
    path = tmp_path / "d.json"
    path.write_text("[" + separator.join(map(json.dumps, rows)) + "]")
    whole = load(path)
    monkeypatch.setattr(detection_parts, "PART", 500)
    monkeypatch.setattr(detections, "_whole", lambda content: pytest.fail("not in parts"))
    assert equal(load(path), whole)
    assert whole.image_id.tolist() == list(range(100))


def test_a_mistake_after_the_first_part_has_its_row_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection_parts, "PART", 100)
    rows = [result(1, 1, 0.5, 1, 2, 3, 4) for _ in range(20)]
    rows[17]["score"] = "high"
    with pytest.raises(DataError, match=r'detections\[17\]\.score: expected a finite number, got "high"'):
        load(write(tmp_path / "d.json", rows))


def test_records_that_a_cut_would_split_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection_parts, "PART", 1)
    rows = [{"parts": [{}, {}], **row, "text": "}, {"} for row in ROWS]
    assert equal(load(write(tmp_path / "d.json", rows)), expected())


# ---- bad files ---------------------------------------------------------------------------------------------------

GOOD = json.dumps(ROWS[0])

BAD = {
    "NaN score": (GOOD.replace("0.5", "NaN"), r"detections\[2\]\.score: expected a finite number, got NaN"),
    "infinite box": (GOOD.replace("3,", "-Infinity,"), r"detections\[2\]\.bbox: .*four finite.*, got -Infinity"),
    "score too large": (GOOD.replace("0.5", "1e999"), r"detections\[2\]\.score: .*finite number, got 1e999"),
    "score null": (GOOD.replace("0.5", "null"), r"detections\[2\]\.score: .*, got null"),
    "three numbers": (GOOD.replace("3, ", ""), r"detections\[2\]\.bbox: .*four finite numbers.*\[1, 2, 4\]"),
    "five numbers": (GOOD.replace("3,", "3, 3,"), r"detections\[2\]\.bbox: .*four.*\[1, 2, 3, 3, 4\]"),
    "no score": (GOOD.replace("score", "Score"), r'detections\[2\]: has no "score"'),
    "float id": (GOOD.replace("7", "7.0"), r"detections\[2\]\.image_id: expected an integer of at least 0, got 7\.0"),
    "id too large": (GOOD.replace("7", f"{2**53}"), rf"detections\[2\]\.image_id: .*, got {2**53}"),
    "negative id": (GOOD.replace("5,", "-5,", 1), r"detections\[2\]\.category_id: .*, got -5"),
    "bool id": (GOOD.replace("7", "true"), r"detections\[2\]\.image_id: .*integer.*, got true"),
    "empty object": ("{}", r'detections\[2\]: has no "image_id"'),
    "wrong, then deep": (
        GOOD.replace("7", '"7", "deep": ' + "[" * 100_000),
        r"detections\[2\]\.image_id: .*integer of at least 0, got a string",
    ),
    "no object but a huge number": (
        "1e999",
        r"detections\[2\]: expected an object, got a number too large for float64",
    ),
    "no object": ("null", r"detections\[2\]: expected an object, got null"),
    "unfinished": (GOOD[:-1], r"not valid JSON, is the file complete\?"),
    "NaN elsewhere": (GOOD.replace("{", '{"loss": NaN, '), r"not valid JSON: expected finite.* got NaN \(byte \d+\)"),
    "deep": ('{"deep": ' + "[" * 100_000, "not valid JSON.*recursion"),
}


def refused(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert text.isprintable()
    assert len(text) < len(str(path)) + 250


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_gets_one_line_with_file_and_record(tmp_path: Path, name: str) -> None:
    record, message = BAD[name]
    path = tmp_path / "d.json"
    path.write_text(f"[{GOOD},\n{GOOD}, {record}, {GOOD}]")
    refused(path, message)


ANNOTATIONS = document([image(1)], [annotation(1, 1, 1, 0, 0, 5, 5)], [category(1, "cat")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a detections file, got an empty file"),
        (f"[{GOOD}, ".encode(), "not valid JSON, is the file complete"),
        (f"[{GOOD}], 3".encode(), "not valid JSON.*trailing"),
        (b"\xff\xd8\xff\xe0 a picture", "not valid JSON"),
        (b"3", "top level: expected a list of detections.*, got a number"),
        (GOOD.encode(), r"top level: expected a list of detections.*, got an object$"),
        (json.dumps(ANNOTATIONS).encode(), r"got an object \(an annotations file\?\)"),
        (f'{{"annotations": [{GOOD}]}}'.encode(), r'got an object \(give the list in its "annotations" alone\)'),
    ],
)
def test_what_is_no_results_file_gets_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "d.json"
    path.write_bytes(content)
    refused(path, message)


@pytest.mark.parametrize("suffix", ["json", "parquet", "npz"])
def test_a_folder_or_nothing_at_all_gets_one_line(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / f"folder.{suffix}"
    folder.mkdir()
    refused(folder, "Is a directory")
    refused(tmp_path / f"none.{suffix}", "No such file")


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "d.csv", r"expected detections as \.json, \.parquet, \.npz, got \.csv")


NONSENSE = {"numbers": (b"0,", "an object, got a number"), "objects": (b"{},", 'no "image_id"'), "lists": (b"[],", "")}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_refused_without_being_built(tmp_path: Path, name: str) -> None:
    element, message = NONSENSE[name]
    path = tmp_path / "nonsense.json"
    path.write_bytes(b"[" + element * 2_000_000 + element[:-1] + b"]")
    tracemalloc.start()
    try:
        refused(path, rf"detections\[0\]: .*{message}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * path.stat().st_size + 1e6  # the text and a part of it; two million list slots are 16 MB


# ---- columns -----------------------------------------------------------------------------------------------------

BAD_COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "float ids": ({"image_id": np.array([7.0, 3.0, 7.0])}, "column image_id: expected .*integers, got .*float64"),
    "text": ({"score": np.array(["a", "b", "c"])}, "column score: expected .*numbers"),
    "bools": ({"x": np.array([True, False, True])}, "column x: expected .*numbers, got .*bool"),
}
BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "short": ({"h": np.array([1.0])}, "column h: expected 3 rows as image_id has, got 1"),
    "two dimensions": ({"image_id": np.ones((3, 2), dtype=int)}, r"column image_id: expected one dim.*\(3, 2\)"),
    "objects": ({"score": np.array([1, None, "x"], dtype=object)}, "NPZ file: Object arrays cannot be loaded"),
}


@pytest.mark.parametrize(
    ("suffix", "name"),
    [*((s, n) for s in ("npz", "parquet") for n in BAD_COLUMNS), *(("npz", n) for n in BAD_ARRAYS)],
)
def test_a_wrong_column_is_named(tmp_path: Path, suffix: str, name: str) -> None:
    change, message = {**BAD_COLUMNS, **BAD_ARRAYS}[name]
    refused(save(tmp_path / f"d.{suffix}", **{**columns(ROWS), **change}), message)


@pytest.mark.parametrize("name", ["image_id", "category_id", "x", "y", "w", "h", "score"])
def test_lists_in_a_parquet_column_are_named(tmp_path: Path, name: str) -> None:
    content = columns(ROWS)
    lists = pa.array([[value] for value in content[name].tolist()])
    message = f"column {name}: expected one dimension of (integers|numbers), got .* of object .lists, texts or nothing"
    refused(save(tmp_path / "d.parquet", **{**content, name: lists}), message)


def test_boxes_in_one_parquet_column_are_told_the_columns(tmp_path: Path) -> None:
    content = columns(ROWS)
    boxes = pa.array([[content[side][k] for side in "xywh"] for k in range(3)])
    rest = {name: content[name] for name in ("image_id", "category_id", "score")}
    refused(save(tmp_path / "d.parquet", **rest, bbox=boxes), 'expected one column "x", got none; all: image_id, cat')


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_a_missing_column_is_named(tmp_path: Path, suffix: str) -> None:
    content = {"image": np.array([1]), "bbox": np.array([1])}
    refused(save(tmp_path / f"d.{suffix}", **content), 'expected one column "image_id", got none; all: image_id, cat')


def test_a_null_in_a_parquet_file_is_named(tmp_path: Path) -> None:
    refused(save(tmp_path / "d.parquet", **{**columns(ROWS), "w": pa.array([1.0, None, 2.0])}), r"w\[1\]: .*got null")


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"PK\x03\x04" + b[9:]])
def test_a_damaged_file_gets_one_line(tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]) -> None:
    path = save(tmp_path / f"d.{suffix}", **columns(ROWS))
    path.write_bytes(damage(path.read_bytes()))
    refused(path, f"expected an? {'NPZ' if suffix == 'npz' else 'Parquet'} file: .+")


def test_a_single_array_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    with path.open("wb") as stream:
        np.save(stream, np.ones(3))
    refused(path, "expected an NPZ file, got a single array")


# ---- check -------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "NaN score": ({"scores": [0.5, np.nan, np.nan]}, "a finite score, got image_id 3, .*score nan"),
    "infinite box": ({"boxes": [[1, 2, 3, 4], [0, np.inf, 1, 1], [1, 2, 3, 4]]}, "a finite box"),
    "negative width": ({"boxes": [[1, 2, 3, 4], [0, 0, -1, 1], [1, 2, 3, 4]]}, r"at least 0, .*\[0, 0, -1, 1\]"),
    "negative height": ({"boxes": [[1, 2, 3, 4], [0, 0, 1, -1], [1, 2, 3, 4]]}, "a width and height of at least 0"),
    "unknown image": ({"image_id": [7, 8, 9]}, "the id of an evaluated image, got image_id 8"),
    "unknown category": ({"category_id": [5, 6, 5]}, "the id of a category of the annotations, got .*category_id 6"),
}


@pytest.mark.parametrize("name", WRONG)
def test_check_names_the_first_invalid_row(tmp_path: Path, name: str) -> None:
    change, message = WRONG[name]
    annotations = loaded(tmp_path, document([image(7), image(3)], [], [category(5, "a"), category(2, "b")]))
    check(expected(), annotations)
    wrong = replace(expected(), **{key: np.array(value) for key, value in change.items()})
    with pytest.raises(DataError, match=rf"^d\.json: detections\[1\]: expected .*{message}"):
        check(wrong, annotations, where="d.json: detections")


def test_ids_of_an_image_outside_a_subset_are_unknown(tmp_path: Path) -> None:
    annotations = loaded(tmp_path, document([image(7), image(3)], [], [category(5, "a"), category(2, "b")]))
    with pytest.raises(DataError, match=r"detections\[1\]: expected the id of an evaluated image"):
        check(expected(), annotations.subset([7]))


def test_nothing_fits_everything(tmp_path: Path) -> None:
    check(Detections.of([]), loaded(tmp_path, document([image(1)], [], [category(1, "a")])))
