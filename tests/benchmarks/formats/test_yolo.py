"""Data sets of YOLO: where labels lie, what their shares mean, and what data.yaml may not do."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.yolo import Yolo
from harness import registry
from harness.errors import DataError
from harness.types import Box

# As in Ultralytics' documentation of detection data sets.
YAML = """path: ../datasets/coco8
train: images/train
val: images/val
names:
  0: person
  27: tie
download: "import os; os.remove('data.yaml')"
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two training images, one without labels, and one to evaluate on."""
    (tmp_path / "data.yaml").write_text(YAML)
    for split, names in (("train", "ab"), ("val", "c")):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (200, 100)).save(tmp_path / "images" / split / f"{name}.jpg")
    (tmp_path / "labels/train/a.txt").write_text("0 0.5 0.5 1 1\n27 0.25 0.5 0.5 0.2\n")
    (tmp_path / "labels/val/c.txt").write_text("0 0.1 0.2 0.1 0.2")
    return tmp_path


def test_the_usual_layout(data: Path) -> None:
    benchmark = registry.benchmark("yolo", {}, data)
    assert [(c.id, c.names) for c in benchmark.categories] == [(0, ("person",)), (27, ("tie",))]
    first, empty = benchmark.split("train")
    (third,) = benchmark.split("val")
    assert (first.width, first.height, first.path) == (200, 100, data / "images/train/a.jpg")
    # Centre (0.25, 0.5), size (0.5, 0.2) of 200 x 100: from (0, 40), 100 wide and 20 high.
    assert [(i.category_id, i.box) for i in first.instances] == [(0, Box(0, 0, 200, 100)), (27, Box(0, 40, 100, 20))]
    assert empty.instances == ()
    assert sorted(empty.negative) == [0, 27]
    (instance,) = third.instances
    assert instance.box.corners == pytest.approx((10, 10, 30, 30))
    assert (data / "data.yaml").exists()


def test_a_turned_picture_is_as_large_as_it_is_shown(data: Path) -> None:
    picture = Image.new("RGB", (200, 100))
    exif = picture.getexif()
    exif[0x0112] = 6  # a quarter to the right
    picture.save(data / "images/val/c.jpg", exif=exif)
    (example,) = Yolo({}, data).split("val")
    assert (example.width, example.height) == (100, 200)


def test_lists_of_images_and_labels_beside_them(data: Path) -> None:
    """Names that begin with ./ are relative to the list, others to the data folder."""
    (data / "lists").mkdir()
    (data / "lists" / "p.txt").write_text("0 0.5 0.5 0.5 0.5")
    Image.new("RGB", (10, 10)).save(data / "lists" / "p.png")
    (data / "lists" / "train.txt").write_text("./p.png\nimages/train/a.jpg\n")
    (data / "data.yaml").write_text("train: [lists/train.txt, ../images/val]\nval: images/val\nnc: 28\nnames:\n")
    names = ["person", *(f"n{k}" for k in range(27))]
    (data / "data.yaml").write_text((data / "data.yaml").read_text() + "".join(f"  - {name}\n" for name in names))
    benchmark = registry.benchmark("yolo", {}, data)
    assert [(e.path.name, len(e.instances)) for e in benchmark.split("train")] == [
        ("p.png", 1),
        ("a.jpg", 2),
        ("c.jpg", 1),
    ]


def test_what_is_read_identifies_the_data(data: Path) -> None:
    before = Yolo({}, data).describe()
    assert before == Yolo({"file": "data.yaml"}, data).describe()
    (data / "labels/val/c.txt").write_text("27 0.1 0.2 0.1 0.2")
    changed = Yolo({}, data).describe()
    assert changed["digests"] != before["digests"]
    (data / "data.yaml").write_text(YAML.replace("tie", "bow tie"))
    assert Yolo({}, data).describe()["digests"] != changed["digests"]


def test_a_row_that_is_there_twice_is_one_object(data: Path) -> None:
    (data / "labels/val/c.txt").write_text("0 0.1 0.2 0.1 0.2\n\n0  0.1 0.2 0.1 0.2\n")
    (example,) = Yolo({}, data).split("val")
    assert len(example.instances) == 1


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("0 0.5 0.5 1", r"c\.txt: line 1: expected class x_center y_center width height, got 4 values"),
        ("0 0 0 1 0 1 1 0 1", r"line 1: .*polygons of segmentation are not read\), got 9 values"),
        ("0 0.5 0.5 1 1\n1 0.5 0.5 1 1", r"line 2: class: expected one of those with a name, got 1"),
        ("0 0.5 0.5 1 1\n0 0.5 1.2 1 1", r"line 2: y_center: expected a share of the image, from 0 to 1, got 1\.2"),
        ("0 nan 0.5 1 1", r"line 1: x_center: expected a share"),
        ("person 0.5 0.5 1 1", r"line 1: expected five numbers, got 'person 0\.5"),
    ],
)
def test_a_mistake_in_labels_is_named_with_its_line(data: Path, label: str, message: str) -> None:
    (data / "labels/val/c.txt").write_text(label)
    with pytest.raises(DataError, match=message):
        Yolo({}, data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1", r"data\.yaml: expected the keys names, train and val"),
        ("names: [", r"data\.yaml: expected YAML"),
        ("names: 3\n", r"names: expected a list of names, or class: name"),
        ("names: {a: b}\n", r"names: expected classes of at least 0, got 'a'"),
        ("names: [a, a]\n", r"names: expected every name once, got 'a' again"),
        ("names: [a, ' ']\n", r"names: class 1: expected a name"),
        ("names: [a]\nnc: 2\n", r"nc: expected 1, as many as names, got 2"),
        ("names: [a]\n", r"data\.yaml: train: expected a folder of images, a list"),
        ("names: [a]\ntrain: gone\n", r"train: no such folder or list: .*gone"),
        ("names: [a]\ntrain: ../../x\n", r"train: expected the name of a file inside"),
        ("names: [a]\ntrain: /etc\n", r"train: expected the name of a file inside"),
        ("names: !!python/object/apply:os.getcwd []\n", r"data\.yaml: expected YAML"),
        ("names: [a]\ntrain: labels\n", r"train: expected at least one image in labels"),
    ],
)
def test_a_mistake_in_the_yaml_file_is_named(data: Path, content: str, message: str) -> None:
    (data / "data.yaml").write_text(content)
    with pytest.raises(DataError, match=message):
        Yolo({}, data)


@pytest.mark.parametrize("place", ["images/val/c.jpg", "labels/val/c.txt"])
def test_links_do_not_lead_out_of_the_folder(data: Path, place: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "file"
    (data / place).rename(outside)
    (data / place).symlink_to(outside)
    with pytest.raises(DataError, match="got a link out of it"):
        Yolo({}, data)


def test_a_picture_that_is_none_is_named(data: Path) -> None:
    (data / "images/val/c.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"c\.jpg: expected a readable image"):
        Yolo({}, data)
