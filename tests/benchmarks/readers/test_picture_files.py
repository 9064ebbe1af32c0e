"""Where the picture of an image is looked for, and where it is never taken from."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.readers.annotations import check_images
from harness.errors import DataError
from tests.benchmarks.documents import (
    category,
    document,
    image,
    loaded,
)
from tests.benchmarks.readers.cases import small


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


@pytest.mark.parametrize("present", ["a.jpg", "images/a.jpg", "val2017/images/a.jpg"])
def test_a_picture_is_found_where_annotation_tools_put_it(tmp_path: Path, present: str) -> None:
    path = tmp_path / "images" / present
    path.parent.mkdir(parents=True)
    path.touch()
    content = document([image(1, file_name="images\\a.jpg")], [], [category(1, "cat")])
    assert loaded(tmp_path, content).examples[0].path == path
