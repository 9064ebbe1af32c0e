"""Every kind of bad annotation file gets one clear line."""

from __future__ import annotations

import copy
import json
import tracemalloc
from pathlib import Path

import pytest

from benchmarks.readers.annotations import load
from harness.errors import DataError
from tests.benchmarks.documents import (
    loaded,
    write,
)
from tests.benchmarks.readers.cases import coco, setting, small, without

BAD = {
    "no images": (without("images"), 'top level: has no "images"'),
    "no annotations": (without("annotations"), 'has no "annotations"'),
    "no categories": (without("categories"), 'has no "categories"'),
    "images no list": (setting("images", {}), "images: expected a list, got an object"),
    "COCO": (without("images", 1, "neg_category_ids"), r"images\[1\].*looks like a COCO file, not LVIS"),
    "half federated": (
        without("images", 0, "not_exhaustive_category_ids"),
        r'images\[0\]: has no "not_exhaustive_category_ids"',
    ),
    "id a string": (setting("annotations", 0, "id", "1"), r"annotations\[0\]\.id: expected an integer"),
    "id a bool": (setting("annotations", 0, "id", True), r"annotations\[0\]\.id: expected an integer"),
    "id too large for float64": (setting("images", 0, "id", 2**53), r"images\[0\]\.id: expected an integer"),
    "image twice": (setting("images", 1, "id", 7), "image ids: expected unique ids, got 7 again"),
    "category twice": (setting("categories", 1, "id", 5), "category ids: expected unique ids, got 5 again"),
    "unknown image": (setting("annotations", 2, "image_id", 99), r"annotations\[2\]\.image_id: .*, got 99"),
    "unknown category": (
        setting("annotations", 2, "category_id", 99),
        r"annotations\[2\]\.category_id: .*, got 99",
    ),
    "unknown negative": (
        setting("images", 0, "neg_category_ids", [2, 99]),
        r"images\[0\]\.neg_category_ids: .*, got 99",
    ),
    "unknown not exhaustive": (
        setting("images", 0, "not_exhaustive_category_ids", [99]),
        r"images\[0\]\.not_exhaustive_category_ids: .*, got 99",
    ),
    "federated no list": (
        setting("images", 0, "neg_category_ids", 2),
        r"images\[0\]\.neg_category_ids: expected a list of category ids, got 2",
    ),
    "NaN box": (
        setting("annotations", 0, "bbox", 2, float("nan")),
        r"annotations\[0\]\.bbox: expected four finite numbers x, y, w, h, got NaN",
    ),
    "infinite box": (setting("annotations", 0, "bbox", 0, float("inf")), r"annotations\[0\]\.bbox: .*finite"),
    "negative width": (setting("annotations", 0, "bbox", 2, -1), r"annotations\[0\]\.bbox: .*at least 0"),
    "negative height": (setting("annotations", 0, "bbox", 3, -1), r"annotations\[0\]\.bbox: .*at least 0"),
    "three numbers": (setting("annotations", 0, "bbox", [1, 2, 3]), r"annotations\[0\]\.bbox: .*four"),
    "text in box": (
        setting("annotations", 0, "bbox", 0, "1"),
        r"annotations\[0\]\.bbox: .*four finite numbers",
    ),
    "NaN area": (setting("annotations", 0, "area", float("nan")), r"annotations\[0\]\.area: .*finite"),
    "negative area": (setting("annotations", 0, "area", -1), r"annotations\[0\]\.area: .*at least 0"),
    "ignored object": (setting("annotations", 0, "ignore", 1), r"annotations\[0\]\.ignore: .*, got 1"),
    "annotation no object": (setting("annotations", 0, 5), r"annotations\[0\]: expected an object, got a number"),
    "image no object": (setting("images", 0, None), r"images\[0\]: expected an object, got null"),
    "category no object": (setting("categories", 0, "cat"), r"categories\[0\]: expected an object"),
    "width no integer": (setting("images", 0, "width", 640.5), r"images\[0\]\.width: .*integer.*, got 640.5"),
    "height 0": (setting("images", 1, "height", 0), r"images\[1\]\.height: .*at least 1, got 0"),
    "no file": (without("images", 0, "file_name"), r'images\[0\]: expected "file_name" or "coco_url"'),
    "frequency": (
        setting("categories", 0, "frequency", "x"),
        r'categories\[0\]\.frequency: .*r, c or f, got "x"',
    ),
    "name no text": (setting("categories", 0, "name", 5), r"categories\[0\]\.name: .*non-empty string, got 5"),
    "name empty": (setting("categories", 0, "synonyms", [" "]), r"categories\[0\]: .*non-empty strings"),
    "name twice": (
        setting("categories", 1, "synonyms", ["couch"]),
        r"'couch' for 5 \('sofa'\) and 2 \('Band_Aid'\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_gets_one_line_with_file_and_record(tmp_path: Path, name: str) -> None:
    edit, message = BAD[name]
    content = copy.deepcopy(small())
    edit(content)
    with pytest.raises(DataError, match=message) as caught:
        loaded(tmp_path, content)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'annotations.json'}: ")
    assert "\n" not in text
    assert len(text) < len(str(tmp_path)) + 200


BAD_COCO = {
    "LVIS": (setting("images", 1, "neg_category_ids", []), r"images\[1\].*LVIS file, not COCO \(--protocol lvis\)"),
    "crowd 2": (setting("annotations", 1, "iscrowd", 2), r"annotations\[1\]\.iscrowd: expected 0 or 1, got 2"),
    "crowd text": (setting("annotations", 1, "iscrowd", "1"), r'annotations\[1\]\.iscrowd: expected 0 or 1, got "1"'),
    "negative width": (setting("annotations", 1, "bbox", 2, -1), r"annotations\[1\]\.bbox: .*at least 0"),
}


@pytest.mark.parametrize("name", BAD_COCO)
def test_a_mistake_in_a_coco_file_gets_one_line_with_file_and_record(tmp_path: Path, name: str) -> None:
    edit, message = BAD_COCO[name]
    content = coco()
    edit(content)
    with pytest.raises(DataError, match=message) as caught:
        loaded(tmp_path, content, "coco")
    assert str(caught.value).startswith(f"{tmp_path / 'annotations.json'}: ")
    assert "\n" not in str(caught.value)


def test_a_wrong_value_is_quoted_from_its_own_record_however_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "pretty.json"
    content = small()
    content["annotations"][1]["bbox"] = [1, 2, {"w": 3}]
    path.write_text(json.dumps(content, indent=2))
    with pytest.raises(DataError, match=r'annotations\[1\]\.bbox: .*, got \[ 1, 2, \{ "w": 3 \} \]$'):
        load(path, tmp_path)
    content["annotations"][1]["bbox"] = ["long" * 100]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r'got \["long[long]{10,60}\.\.\.$'):
        load(path, tmp_path)


def test_infinity_in_a_field_that_is_not_used_is_no_json(tmp_path: Path) -> None:
    content = small()
    content["images"][0]["license"] = float("-inf")
    with pytest.raises(DataError, match=r"not valid JSON: expected finite numbers, got -Infinity \(byte \d+\)"):
        loaded(tmp_path, content)


NONSENSE = {
    "numbers": (b"[" + b"0," * 2_000_000 + b"0]", "top level: expected an object .*, got a list"),
    "images": (b'{"images":[' + b"0," * 2_000_000 + b"0]}", r"images\[0\]: expected an object, got a number"),
    "empty images": (b'{"images":[' + b"{}," * 2_000_000 + b"{}]}", r'images\[0\]: has no "id"'),
    "unknown field": (b'{"more":[' + b"{}," * 2_000_000 + b'{}],"images":0}', "images: expected a list, got a number"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_refused_without_being_built(tmp_path: Path, name: str) -> None:
    content, message = NONSENSE[name]
    path = tmp_path / "nonsense.json"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message):
            load(path, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(content) + 1e6  # two million list slots alone are 16 MB


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(small()).encode()[:-40], "not valid JSON, is the file complete"),
        (b"", "expected an annotation file, got an empty file"),
        (b"\xff\xd8\xff\xe0 a picture", "not valid JSON"),
        (b"[" * 100_000, "expected an object .*got a list"),
        (b'{"info": ' + b"[" * 100_000, "not valid JSON.*recursion depth"),
        (b'[{"image_id": 1}]', "expected an object .*detections file"),
        (b"3", "expected an object"),
    ],
)
def test_what_is_no_annotation_file_gets_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(path, tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_folder_or_nothing_at_all_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected an annotation file: Is a directory"):
        load(tmp_path, tmp_path)
    with pytest.raises(DataError, match=r"none\.json: .*No such file"):
        load(tmp_path / "none.json", tmp_path)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "windows.json"
    path.write_text(json.dumps(small()), encoding="utf-8-sig")
    assert load(path, tmp_path).examples == load(write(tmp_path / "plain.json", small()), tmp_path).examples


@pytest.mark.parametrize("key", ["annotations", "images", "categories"])
def test_a_list_that_is_there_twice_is_refused(tmp_path: Path, key: str) -> None:
    """The last one would win: a trailing, empty one empties the file."""
    path = tmp_path / "twice.json"
    path.write_text(json.dumps(small(), indent=1)[:-1] + f', "{key}": []}}')
    with pytest.raises(DataError, match=rf'line \d+: expected a key once, got "{key}" again'):
        load(path, tmp_path)


@pytest.mark.parametrize(("where", "key"), [("annotations", "bbox"), ("images", "file_name"), ("categories", "name")])
@pytest.mark.parametrize("escape", ["", "\\n"])
def test_a_field_that_is_there_twice_is_refused(tmp_path: Path, where: str, key: str, escape: str) -> None:
    content = small()
    content["images"][0]["note"] = escape  # texts with and without escapes are looked through in different ways
    text = json.dumps(content)
    position = text.index(f'"{where}"')
    value = json.dumps(content[where][0][key])
    path = tmp_path / "twice.json"
    path.write_text(text[:position] + text[position:].replace(f'"{key}": ', f'"{key}": {value}, "{key}": ', 1))
    with pytest.raises(DataError, match=rf'line 1: expected a key once, got "{key}" again'):
        load(path, tmp_path)


def test_equal_keys_of_different_objects_are_no_mistake(tmp_path: Path) -> None:
    content = {**small(), "licenses": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}], "info": {"name": "x", "id": 3}}
    content["images"][0]["area"] = {"id": 5, "area": [{"area": 1}, {"area": 2}], "bbox": '"bbox"'}
    assert len(loaded(tmp_path, content).examples) == 2
