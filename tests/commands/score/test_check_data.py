"""`detmodes check-data`: each way in which a folder can be wrong is found, and a good one passes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.published import LAYOUTS
from harness.commands.app import main
from harness.commands.score.check_data import Check, checks, command
from harness.errors import ConfigError, DataError
from tests.benchmarks.documents import annotation, category, document, image, write

BOX = (10.0, 10.0, 20.0, 20.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five training and three validation pictures of 64 x 48 pixels with one object each, in the plain layout."""
    (tmp_path / "images").mkdir()
    for split, ids in (("train", range(1, 6)), ("val", range(6, 9))):
        images = [image(i, width=64, height=48) for i in ids]
        objects = [annotation(i, i, 1, *BOX) for i in ids]
        write(tmp_path / f"{split}.json", document(images, objects, [category(1, "cat")]))
        for i in ids:
            Image.new("RGB", (64, 48)).save(tmp_path / "images" / f"{i}.jpg")
    return tmp_path


def failed(data: Path, name: str = "lvis", images: int = 50) -> dict[tuple[str, str], Check]:
    return {(check.part, check.name): check for check in checks(name, data, images) if not check.passed}


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_good_folder_passes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [(check.part, check.name) for check in checks("lvis", data)] == [
        *((part, name) for part in ("train", "val") for name in NAMES),
        ("both", "categories"),
    ]
    assert failed(data) == {}
    assert command("lvis", data, 50) == 0
    assert "FAILED" not in capsys.readouterr().out


NAMES = ("file", "images", "annotations", "categories", "pictures", "picture sample", "boxes")


def test_what_failed_is_shown_and_changes_the_exit_code(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "images" / "7.jpg").unlink()
    assert command("lvis", data, 50) == 1
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if "FAILED" in line)
    assert "val" in row
    assert "pictures" in row
    assert lines[-1] == f"val: {data}/val.json: image not found: {data}/images/7.jpg (1 of 3 missing)"


def test_a_missing_picture(data: Path) -> None:
    (data / "images" / "7.jpg").unlink()
    (check,) = failed(data).values()
    assert (check.part, check.name) == ("val", "pictures")
    assert "7.jpg (1 of 3 missing)" in check.detail


def test_a_picture_of_another_size(data: Path) -> None:
    Image.new("RGB", (48, 64)).save(data / "images" / "2.jpg")
    (check,) = failed(data).values()
    assert (check.part, check.name) == ("train", "picture sample")
    assert check.value == "4 of 5 good"
    assert check.detail.endswith("2.jpg: expected 64 x 48 pixels, got 48 x 64")


@pytest.mark.parametrize("content", [b"", b"no picture", "half"])
def test_a_picture_that_does_not_decode(data: Path, content: bytes | str) -> None:
    path = data / "images" / "8.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    (check,) = failed(data).values()
    assert (check.part, check.name) == ("val", "picture sample")
    assert "8.jpg: expected a readable image, got: " in check.detail


def test_the_sample_is_as_large_as_asked_for(data: Path) -> None:
    values = {(c.part, c.name): c.value for c in checks("lvis", data, 2)}
    assert values["train", "picture sample"] == values["val", "picture sample"] == "2 of 2 good"


@pytest.mark.parametrize(
    ("bbox", "outside"),
    [
        ((0.0, 0.0, 64.0, 48.0), False),
        ((-1.0, -1.0, 66.0, 50.0), False),  # one pixel on each side is tolerated
        ((-1.1, 0.0, 5.0, 5.0), True),
        ((0.0, -1.1, 5.0, 5.0), True),
        ((60.0, 0.0, 5.1, 5.0), True),
        ((0.0, 44.0, 5.0, 5.1), True),
    ],
)
def test_a_box_outside_its_image(data: Path, bbox: tuple[float, ...], outside: bool) -> None:
    edit(data / "val.json", lambda content: content["annotations"][1].update(bbox=list(bbox)))
    failures = failed(data)
    assert bool(failures) == outside
    if outside:
        assert failures["val", "boxes"].value == "1 outside their image"
        assert failures["val", "boxes"].detail == f"{data}/val.json: box outside: annotation 7 of image 7"


def test_other_categories_in_val(data: Path) -> None:
    edit(data / "val.json", lambda content: content["categories"][0].update(name="dog"))
    assert failed(data).keys() == {("both", "categories")}


def test_no_annotations_at_all(data: Path) -> None:
    edit(data / "val.json", lambda content: content.update(annotations=[]))
    assert failed(data).keys() == {("val", "annotations")}


def test_a_broken_file_does_not_hide_what_is_wrong_elsewhere(data: Path) -> None:
    (data / "train.json").write_text("{")
    (data / "images" / "7.jpg").unlink()
    failures = failed(data)
    assert failures.keys() == {("train", "file"), ("val", "pictures")}
    assert str(data / "train.json") in failures["train", "file"].detail


def test_counts_are_those_published(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LAYOUTS["lvis"]
    for images, boxes, categories, wrong in (
        (3, 3, 1, set[str]()),
        (4, 3, 1, {"images"}),
        (3, 2, 1, {"annotations"}),
        (3, 3, 2, {"categories"}),
    ):
        val = replace(plain.val, images=images, annotations=boxes, categories=categories)
        monkeypatch.setitem(LAYOUTS, "lvis", replace(plain, val=val))
        assert {name for part, name in failed(data)} == wrong


@pytest.mark.parametrize("name", ["lvis-v1-val", "lvis-v1-minival", "lvis-v0.5-val", "coco-val2017", "coco"])
def test_an_empty_folder_says_what_to_download(tmp_path: Path, name: str) -> None:
    failures = failed(tmp_path, name)
    assert failures.keys() == {("train", "file"), ("val", "file")}
    assert all("no such file; download http" in check.detail for check in failures.values())


def test_a_crowd_region_counts_as_an_annotation(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for split, i in (("train2017", 1), ("val2017", 2)):
        (tmp_path / split).mkdir()
        Image.new("RGB", (64, 48)).save(tmp_path / split / f"{i}.jpg")
        record = {"id": i, "file_name": f"{i}.jpg", "coco_url": f"http://h/{split}/{i}.jpg", "width": 64, "height": 48}
        objects = [annotation(10 * i + crowd, i, 1, *BOX, iscrowd=crowd) for crowd in (0, 1)]
        content = document([record], objects, [{"id": 1, "name": "person"}])
        write(tmp_path / "annotations" / f"instances_{split}.json", content)
    by_name = {(check.part, check.name): check for check in checks("coco", tmp_path)}
    assert by_name["val", "annotations"].value == "2"
    # A tiny stand-in has neither the counts of the real one nor anything else that is wrong.
    assert {name for part, name in failed(tmp_path, "coco")} == {"images", "annotations", "categories"}


def test_bad_input_is_no_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETMODES_DATA", raising=False)
    with pytest.raises(ConfigError, match="unknown data set 'lvis-v1', did you mean 'lvis-v1-val'"):
        command("lvis-v1", tmp_path, 50)
    with pytest.raises(ConfigError, match="no data; give --data DIR or set DETMODES_DATA"):
        command("lvis", None, 50)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        command("lvis", tmp_path / "nowhere", 50)


@pytest.mark.parametrize(
    ("arguments", "code"), [(["lvis"], 0), (["lvis", "--images", "0"], 0), (["coco"], 1), (["coc"], 2)]
)
def test_the_verb(data: Path, arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["detmodes", "check-data", *arguments, "--data", str(data)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code


def test_real_photographs_pass(shared: Callable[[str], Path]) -> None:
    assert failed(shared("data/coco128-lvis")) == {}


def test_what_is_suspicious_is_named_with_its_count(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def confuse(content: dict[str, Any]) -> None:
        content["images"][0]["neg_category_ids"] = [1]
        content["annotations"][1]["bbox"] = [10, 10, 20, 0]
        content["images"][3]["file_name"] = content["images"][2]["file_name"]

    edit(data / "train.json", confuse)
    assert command("lvis", data, 0) == 1
    suspicions = {check.value: check.passed for check in checks("lvis", data, 0) if check.name == "suspicion"}
    assert suspicions == {
        "1 categories are annotated in an image and verified to be absent from it": False,
        "1 boxes have no area": True,
        "1 files are the picture of several images": True,
    }
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 of 5 boxes have no area (first: annotation 2 of image 2)" in shown


# ---- benchmarks over files of one's own ----------------------------------------------------------------------------


def yolo(data: Path) -> Path:
    """The pictures of `data` with labels as YOLO has them; classes in data.yaml."""
    for split, ids in (("train", range(1, 6)), ("val", range(6, 9))):
        for folder in ("images", "labels"):
            (data / "yolo" / folder / split).mkdir(parents=True)
        for i in ids:
            Image.new("RGB", (64, 48)).save(data / "yolo" / "images" / split / f"{i}.jpg")
            (data / "yolo" / "labels" / split / f"{i}.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (data / "yolo" / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    return data / "yolo"


def test_files_of_another_format_are_checked_like_published_ones(data: Path) -> None:
    folder = yolo(data)
    assert [(check.part, check.name, check.passed) for check in checks("yolo", folder)] == [
        *((part, name, True) for part in ("train", "val") for name in NAMES),
        ("both", "categories", True),
    ]
    Image.new("RGB", (32, 48)).save(folder / "images" / "val" / "7.jpg")
    (folder / "labels" / "train" / "2.txt").write_text("0 0.5 0.5 0.25\n")
    assert list(failed(folder, "yolo")) == [("both", "file")]
    (folder / "labels" / "train" / "2.txt").write_text("0 0.9 0.5 0.5 0.25\n")
    assert list(failed(folder, "yolo")) == [("train", "boxes")]


def test_files_of_ones_own_in_a_published_format(data: Path) -> None:
    names = {"train": "val.json", "val": "train.json"}
    values = {(check.part, check.name): check.value for check in checks("lvis", data, 50, names)}
    assert (values["train", "images"], values["val", "images"]) == ("3", "5")
    (data / "images" / "7.jpg").unlink()
    assert list(failed_with(data, names)) == [("train", "pictures")]
    with pytest.raises(ConfigError, match=r"lvis: unknown setting 'tarin', did you mean 'train'"):
        list(checks("lvis", data, 50, {"tarin": "x.json"}))


def failed_with(data: Path, settings: dict[str, Any]) -> dict[tuple[str, str], Check]:
    return {(check.part, check.name): check for check in checks("lvis", data, 50, settings) if not check.passed}


def test_a_benchmark_without_files_is_told_which_command_checks_it(data: Path) -> None:
    with pytest.raises(ConfigError, match="check-data shapes: expected a benchmark over files; run: detmodes check"):
        list(checks("shapes", data))


def test_settings_come_from_the_command_line(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["--set", "train=val.json", "--set", "val=train.json"]
    monkeypatch.setattr(sys, "argv", ["detmodes", "check-data", "lvis", "--data", str(data), *files])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "FAILED" not in capsys.readouterr().out
