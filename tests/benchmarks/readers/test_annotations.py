"""The loader: what it reads, and that every kind of bad file gets one clear line."""

from __future__ import annotations

import copy
import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.readers.annotations import check_images, load, load_for_evaluation
from harness.errors import DataError
from harness.types import Box, Category, Example, Instance
from tests.benchmarks.documents import (
    Document,
    annotation,
    category,
    coco_category,
    coco_image,
    document,
    image,
    loaded,
    write,
)


def small() -> Document:
    return document(
        [image(7, neg_category_ids=[2], not_exhaustive_category_ids=[5]), image(3)],
        [
            annotation(12, 7, 5, 10, 20, 30, 40, area=900.5),
            annotation(11, 3, 2, 0, 0, 5, 5),
            annotation(10, 7, 2, 1.5, 2, 3, 4),
        ],
        [category(5, "sofa", "couch", "sofa", "lounge", frequency="r"), category(2, "Band_Aid")],
    )


def test_reads_categories_images_and_instances_in_the_order_of_the_file(tmp_path: Path) -> None:
    annotations = loaded(tmp_path, small())
    assert annotations.categories == (
        Category(5, ("sofa", "couch", "lounge"), "r"),  # own name first, no duplicates
        Category(2, ("Band_Aid",), "f"),
    )
    assert annotations.examples[0] == Example(
        image_id=7,
        path=tmp_path / "images" / "7.jpg",
        width=640,
        height=480,
        instances=(Instance(12, 5, Box(10, 20, 30, 40)), Instance(10, 2, Box(1.5, 2, 3, 4))),
        negative=frozenset({2}),
        not_exhaustive=frozenset({5}),
    )
    assert [example.image_id for example in annotations.examples] == [7, 3]
    assert annotations.digest == hashlib.sha256(annotations.path.read_bytes()).hexdigest()


def test_area_is_the_one_of_the_mask_where_given_and_of_the_box_otherwise(tmp_path: Path) -> None:
    content = small()
    del content["annotations"][1]["area"]
    assert loaded(tmp_path, content).areas == {12: 900.5, 11: 25.0, 10: 12.0}


def test_synonyms_and_frequency_may_be_missing(tmp_path: Path) -> None:
    content = small()
    content["categories"][1] = {"id": 2, "name": "Band_Aid"}
    assert loaded(tmp_path, content).categories[1] == Category(2, ("Band_Aid",), None)


def test_subset_keeps_order_categories_and_digest(tmp_path: Path) -> None:
    annotations = loaded(tmp_path, small())
    subset = annotations.subset([3])
    assert subset.examples == annotations.examples[1:]
    assert (subset.categories, subset.digest) == (annotations.categories, annotations.digest)


@pytest.mark.parametrize(
    ("fields", "present", "expected"),
    [
        ({"file_name": "a.jpg", "coco_url": "http://h/val2017/b.jpg"}, ["a.jpg", "b.jpg"], "a.jpg"),
        ({"file_name": "COCO_a.jpg", "coco_url": "http://h/val2017/b.jpg"}, ["b.jpg"], "b.jpg"),
        ({"coco_url": "http://h/val2017/b.jpg"}, ["val2017/b.jpg"], "val2017/b.jpg"),
        ({"coco_url": "http://h/val2017/b.jpg"}, [], "b.jpg"),
    ],
)
def test_finds_the_picture(tmp_path: Path, fields: dict[str, str], present: list[str], expected: str) -> None:
    for name in present:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    record = {key: value for key, value in image(1).items() if key != "file_name"}
    annotations = loaded(tmp_path, document([{**record, **fields}], [], [category(1, "cat")]))
    assert annotations.examples[0].path == tmp_path / "images" / expected


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    annotations = loaded(tmp_path, small())
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "7.jpg").touch()
    with pytest.raises(DataError, match=r"image not found: .*images/3\.jpg \(1 of 2 missing\)"):
        check_images(annotations)
    (tmp_path / "images" / "3.jpg").touch()
    check_images(annotations)


def setting(*path_and_value: Any) -> Callable[[Document], None]:
    """An edit of a document: the last argument is put where the others lead."""
    *path, key, value = path_and_value

    def edit(content: Document) -> None:
        target: Any = content
        for step in path:
            target = target[step]
        target[key] = value

    return edit


def without(*path: Any) -> Callable[[Document], None]:
    def edit(content: Document) -> None:
        target: Any = content
        for step in path[:-1]:
            target = target[step]
        del target[path[-1]]

    return edit


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


def coco() -> Document:
    """Image 1 has an object of category 1 and a crowd of 3; image 2 two objects of 1; image 3 nothing."""
    return document(
        [coco_image(1), coco_image(2), coco_image(3)],
        [
            annotation(10, 1, 1, 0, 0, 5, 5, iscrowd=0, segmentation=[[0, 0, 5, 5, 0, 5]]),
            annotation(11, 1, 3, 0, 0, 50, 50, area=1500.0, iscrowd=1, segmentation={"size": [2, 2], "counts": [4]}),
            annotation(12, 2, 1, 0, 0, 5, 5, ignore=1),
            annotation(13, 2, 1, 5, 5, 5, 5),
        ],
        [coco_category(1, "person"), coco_category(2, "cat"), coco_category(3, "sheep")],
    )


def test_coco_is_exhaustive_but_for_its_crowds(tmp_path: Path) -> None:
    annotations = loaded(tmp_path, coco(), "coco")
    first, second, _ = annotations.examples
    assert annotations.categories[2] == Category(3, ("sheep",), None)
    assert [i.id for i in first.instances] == [10]
    assert [i.id for i in second.instances] == [12, 13]  # `ignore` is LVIS's field: the COCO API overwrites it
    assert annotations.crowds == {1: (Instance(11, 3, Box(0, 0, 50, 50)),)}
    assert annotations.areas == {10: 25.0, 11: 1500.0, 12: 25.0, 13: 25.0}
    assert [e.negative for e in annotations.examples] == [{2}, {2, 3}, {1, 2, 3}]
    assert [e.not_exhaustive for e in annotations.examples] == [{3}, set(), set()]


def test_coco_images_with_the_same_categories_share_their_negatives(tmp_path: Path) -> None:
    content = coco()
    content["annotations"] = [annotation(k, k, 1, 0, 0, 5, 5) for k in (1, 2, 3)]
    first, second, third = loaded(tmp_path, content, "coco").examples
    assert first.negative is second.negative is third.negative


def test_a_subset_has_only_its_own_crowds(tmp_path: Path) -> None:
    annotations = loaded(tmp_path, coco(), "coco")
    assert annotations.subset([2, 3]).crowds == {}
    assert annotations.subset([1]).crowds == annotations.crowds


def test_lvis_takes_no_notice_of_iscrowd(tmp_path: Path) -> None:
    content = small()
    content["annotations"][0]["iscrowd"] = 1
    annotations = loaded(tmp_path, content)
    assert (annotations.crowds, len(annotations.examples[0].instances)) == ({}, 2)


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


def test_loads_real_lvis(shared: Callable[[str], Path], tmp_path: Path) -> None:
    annotations = load(shared("data/lvis_val_100.json"), tmp_path)
    assert (len(annotations.categories), len(annotations.examples)) == (1230, 100)
    assert sum(len(example.instances) for example in annotations.examples) == 977
    assert annotations.areas[1] == 959.73  # of the mask; the box has 1055.6


def test_every_lvis_v1_name_means_one_category(shared: Callable[[str], Path], tmp_path: Path) -> None:
    records = json.loads(shared("data/lvis_v1_categories.json").read_text())
    categories = load(write(tmp_path / "v1.json", document([], [], records)), tmp_path).categories
    assert len(categories) == 1203
    # By synonyms alone 799 have one name, but a category's own name is not always among them (one is not).
    assert sum(len(category.names) == 1 for category in categories) == 798
    assert max(len(category.names) for category in categories) == 8


# ---- what files from practice are like ---------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [(0, 1, 2), (7, 7, 8), (None, None, None), (2**53, 1, 2), (-1, 5, 6)])
def test_annotations_are_numbered_where_their_ids_would_not_do(tmp_path: Path, ids: tuple[int | None, ...]) -> None:
    content = small()
    for record, number in zip(content["annotations"], ids, strict=True):
        record["id"] = number
    examples = loaded(tmp_path, content).examples
    assert [[item.id for item in example.instances] for example in examples] == [[1, 3], [2]]


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


@pytest.mark.parametrize("name", ["../out.png", "/etc/passwd", "a/../../out.png", "..\\out.png"])
def test_a_picture_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    content = small()
    content["images"][1]["file_name"] = name
    with pytest.raises(DataError, match=r"images\[1\]: expected the name of a file inside .*images"):
        loaded(tmp_path, content)
    del content["images"][1]["file_name"]
    content["images"][1]["coco_url"] = "http://h/../out.png"
    with pytest.raises(DataError, match=r"images\[1\]: expected the name of a file inside"):
        loaded(tmp_path, content)


@pytest.mark.parametrize("key", ["file_name", "coco_url"])
def test_a_picture_with_a_name_that_no_file_can_have_is_refused(tmp_path: Path, key: str) -> None:
    content = small()
    content["images"][1].pop("file_name", None)
    content["images"][1][key] = "a\0b/c\0d.png"
    with pytest.raises(DataError, match=r"images\[1\]: expected the name of a file, without null characters; got "):
        loaded(tmp_path, content)


def test_links_lead_to_no_picture_outside_the_folder(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    for made in (folder, elsewhere):
        made.mkdir()
    for name in ("3.jpg", "secret.jpg"):
        (elsewhere / name).touch()
    (folder / "7.jpg").touch()
    (folder / "inside.jpg").symlink_to(folder / "7.jpg")
    content = small()
    content["images"][0]["file_name"] = "inside.jpg"
    assert loaded(tmp_path, content).examples[0].path == folder / "inside.jpg"
    (folder / "3.jpg").symlink_to(elsewhere / "3.jpg")
    with pytest.raises(DataError, match=r"images\[1\]: expected a file inside .*, got a link out of it"):
        loaded(tmp_path, content)
    (folder / "sub").symlink_to(elsewhere)
    content["images"][1]["file_name"] = "sub/secret.jpg"
    with pytest.raises(DataError, match=r"got a link out of it: .*sub/secret\.jpg"):
        loaded(tmp_path, content)


def test_the_folder_itself_and_the_published_ones_may_be_links(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "val2017").mkdir(parents=True)
    (elsewhere / "val2017" / "3.jpg").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "val2017").symlink_to(elsewhere / "val2017")
    content = small()
    content["images"][1]["file_name"] = "val2017\\3.jpg"  # as annotated on Windows
    assert loaded(tmp_path, content).examples[1].path == tmp_path / "images" / "val2017" / "3.jpg"


def test_an_evaluation_overlooks_what_it_does_not_need(tmp_path: Path) -> None:
    content = small()
    content["images"][0] |= {"width": "wide", "height": None, "file_name": 5, "date": float("nan")}
    content["categories"][1]["synonyms"] = ["couch"]
    path = write(tmp_path / "loose.json", content)
    with pytest.raises(DataError):
        load(path, tmp_path)
    annotations, expected = load_for_evaluation(path), loaded(tmp_path, small())
    assert [e.instances for e in annotations.examples] == [e.instances for e in expected.examples]
    assert [e.negative for e in annotations.examples] == [e.negative for e in expected.examples]
    assert [(e.width, e.height) for e in annotations.examples] == [(0, 0), (640, 480)]
    content["annotations"][0]["bbox"][0] = float("nan")
    with pytest.raises(DataError, match=r"annotations\[0\]\.bbox: expected four finite numbers"):
        load_for_evaluation(write(path, content))


@pytest.mark.parametrize("present", ["a.jpg", "images/a.jpg", "val2017/images/a.jpg"])
def test_a_picture_is_found_where_annotation_tools_put_it(tmp_path: Path, present: str) -> None:
    path = tmp_path / "images" / present
    path.parent.mkdir(parents=True)
    path.touch()
    content = document([image(1, file_name="images\\a.jpg")], [], [category(1, "cat")])
    assert loaded(tmp_path, content).examples[0].path == path
