"""Files of captions, beside the annotations of the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.coco import Coco
from benchmarks.lvis import Lvis
from harness.errors import DataError
from tests.benchmarks.documents import annotation, category, coco_category, coco_image, document, image, write


def coco(folder: Path) -> Path:
    """Two images for training, one for validation, each with a couch; and a folder for their captions."""
    (folder / "annotations").mkdir()
    for split, ids in (("train2017", (1, 2)), ("val2017", (3,))):
        objects = [annotation(i, i, 63, 10, 10, 50, 50, iscrowd=0) for i in ids]
        content = document([coco_image(i) for i in ids], objects, [coco_category(63, "couch")])
        write(folder / "annotations" / f"instances_{split}.json", content)
        for i in ids:
            (folder / f"{i}.jpg").touch()
    return folder


def captions(folder: Path, split: str, *rows: tuple[int, object]) -> Path:
    content = {"annotations": [{"id": k, "image_id": i, "caption": text} for k, (i, text) in enumerate(rows)]}
    return write(folder / "annotations" / f"captions_{split}.json", content)


def test_coco_captions(tmp_path: Path) -> None:
    data = coco(tmp_path)
    written = captions(data, "train2017", (1, "A couch.\n"), (2, " two  couches"), (1, "Seats"), (99, "elsewhere"))
    captions(data, "val2017", (3, "a couch"))
    benchmark = Coco({"captions": True}, data)
    assert {e.image_id: e.captions for e in benchmark.split("train")} == {1: ("A couch.", "Seats"), 2: ("two couches",)}
    assert [e.captions for e in benchmark.split("val")] == [("a couch",)]
    before: Any = benchmark.describe()
    assert before["captions"] is True
    captions(data, "train2017", (1, "Another couch"))
    after: Any = Coco({"captions": True}, data).describe()
    assert {key for key in before["digests"] if before["digests"][key] != after["digests"][key]} == {"train_captions"}
    # Without the setting nothing is read, and a record says what it always has.
    written.unlink()
    plain = Coco({}, data)
    assert [e.captions for e in plain.split("train")] == [(), ()]
    assert "captions" not in plain.describe()
    assert set(plain.describe()["digests"]) == {"train", "val"}  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([(1, " \n")], r"annotations\[0\]\.caption: expected some words, got ' \\n'"),
        ([(1, 5)], r"annotations\[0\]\.caption: expected a string, got 5"),
        ([(99, "elsewhere")], r"expected captions of images of instances_train2017\.json, got none"),
        ([], r"expected captions of images"),
        (None, r"no such file; download http\S+annotations_trainval2017\.zip and unpack it into annotations/"),
    ],
)
def test_captions_files_that_are_wrong(tmp_path: Path, rows: list[tuple[int, object]] | None, problem: str) -> None:
    data = coco(tmp_path)
    captions(data, "val2017", (3, "a couch"))
    if rows is not None:
        captions(data, "train2017", *rows)
    with pytest.raises(DataError, match=rf"captions_train2017\.json: {problem}"):
        Coco({"captions": True}, data)


def test_captions_beside_files_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for split, i in (("train", 1), ("val", 2)):
        content = document([image(i)], [annotation(i, i, 5, 10, 10, 50, 50)], [category(5, "couch")])
        write(tmp_path / f"{split}.json", content)
        write(tmp_path / f"captions_{split}.json", {"annotations": [{"image_id": i, "caption": f"couch {i}"}]})
        (tmp_path / "images" / f"{i}.jpg").touch()
    benchmark = Lvis({"captions": True}, tmp_path)
    assert [benchmark.split(name)[0].captions for name in ("train", "val")] == [("couch 1",), ("couch 2",)]
    assert Lvis.problems({"captions": "yes"}) == ["lvis.captions: expected true or false, got 'yes'"]
    (tmp_path / "captions_val.json").unlink()
    with pytest.raises(DataError, match=r"captions_val\.json: expected a captions file: No such file"):
        Lvis({"captions": True}, tmp_path)
