"""Annotation files: what is read, of LVIS and of COCO."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.readers.annotations import load, load_for_evaluation
from harness.errors import DataError
from harness.types import Box, Category, Example, Instance
from tests.benchmarks.documents import (
    annotation,
    document,
    loaded,
    write,
)
from tests.benchmarks.readers.cases import coco, small


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


@pytest.mark.parametrize("ids", [(0, 1, 2), (7, 7, 8), (None, None, None), (2**53, 1, 2), (-1, 5, 6)])
def test_annotations_are_numbered_where_their_ids_would_not_do(tmp_path: Path, ids: tuple[int | None, ...]) -> None:
    content = small()
    for record, number in zip(content["annotations"], ids, strict=True):
        record["id"] = number
    examples = loaded(tmp_path, content).examples
    assert [[item.id for item in example.instances] for example in examples] == [[1, 3], [2]]


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
