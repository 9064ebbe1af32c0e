"""Data sets of Pascal VOC: boxes that count pixels from 1, objects that do not count, lists and folders, and XML that
nobody should have written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.formats.voc_xml import read_voc
from benchmarks.voc import Voc
from harness import registry
from harness.errors import ConfigError, DataError
from harness.types import Box
from tests.benchmarks.documents import detection

# As the development kit writes it (VOC2007's documentation, section 3.3), shortened.
IMAGE = """<annotation>
  <folder>VOC2012</folder>
  <filename>{name}.png</filename>
  <source><database>The VOC2007 Database</database></source>
  <size><width>500</width><height>375</height><depth>3</depth></size>
  <segmented>0</segmented>
  {objects}
</annotation>
"""
OBJECT = """<object>
    <name>{name}</name><pose>Left</pose><truncated>1</truncated><difficult>{difficult}</difficult>
    <bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
  </object>"""


def object_of(name: str, *corners: object, difficult: int = 0) -> str:
    return OBJECT.format(*corners, name=name, difficult=difficult)


def image_of(name: str, *objects: str) -> str:
    return IMAGE.format(name=name, objects="\n  ".join(objects))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two training images and one to evaluate on, in the layout of the development kit."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    images = {
        "2008_000002": [object_of("tvmonitor", 1, 1, 500, 375)],
        "2008_000003": [object_of("train", 46, 11, 500, 333), object_of("person", 62, 190, 83, 243, difficult=1)],
        "2008_000007": [object_of("boat", 1, 230, 428, 293)],
    }
    for name, objects in images.items():
        (tmp_path / "Annotations" / f"{name}.xml").write_text(image_of(name, *objects))
        Image.new("RGB", (500, 375)).save(tmp_path / "JPEGImages" / f"{name}.png")
    (tmp_path / "ImageSets/Main/train.txt").write_text("2008_000002\n2008_000003\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("2008_000007\n")
    return tmp_path


def test_the_usual_layout(data: Path) -> None:
    benchmark = registry.benchmark("voc", {}, data)
    assert [(c.id, c.name) for c in benchmark.categories] == [
        (1, "boat"),
        (2, "person"),
        (3, "train"),
        (4, "tvmonitor"),
    ]
    first, second = benchmark.split("train")
    (third,) = benchmark.split("val")
    assert [e.image_id for e in (first, second, third)] == [1, 2, 3]
    assert [e.path for e in (first, third)] == [data / "JPEGImages" / f"2008_00000{k}.png" for k in (2, 7)]
    # xmin 1 to xmax 500: all 500 columns, from edge 0 to edge 500. 46 to 500: 455 columns. 1 to 428 and 230 to 293.
    assert [i.box for i in first.instances] == [Box(0, 0, 500, 375)]
    assert [i.box for i in second.instances] == [Box(45, 10, 455, 323)]
    assert [i.box for i in third.instances] == [Box(0, 229, 428, 64)]
    assert sorted(second.negative) == [1, 4]
    assert sorted(second.not_exhaustive) == [2]  # the difficult person is no object, nor absent
    assert sorted(third.negative) == [2, 3, 4]


def test_the_parser_of_torchvision_reads_the_same(data: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    from xml.etree import ElementTree

    for path in sorted((data / "Annotations").glob("*.xml")):
        reference = torchvision.datasets.VOCDetection.parse_voc_xml(ElementTree.parse(path).getroot())["annotation"]
        voc = read_voc(path)
        corners = [{key: int(value) for key, value in each["bndbox"].items()} for each in reference["object"]]
        boxes = [
            Box(c["xmin"] - 1, c["ymin"] - 1, c["xmax"] - c["xmin"] + 1, c["ymax"] - c["ymin"] + 1) for c in corners
        ]
        assert [each.box for each in voc.objects] == boxes
        assert [each.category for each in voc.objects] == [each["name"] for each in reference["object"]]
        assert [each.counts for each in voc.objects] == [each["difficult"] == "0" for each in reference["object"]]
        assert (voc.file_name, str(voc.width)) == (reference["filename"], reference["size"]["width"])


def test_a_detection_of_a_difficult_object_is_neither_right_nor_wrong(data: Path) -> None:
    """Ranked above the one that is right, it would halve AP if it counted."""
    person = object_of("person", 1, 1, 100, 100)
    hard = object_of("person", 201, 201, 300, 300, difficult=1)
    (data / "Annotations" / "2008_000007.xml").write_text(image_of("2008_000007", person, hard))
    benchmark = Voc({}, data)
    (person_id,) = (c.id for c in benchmark.categories if c.name == "person")
    detections = [detection(3, person_id, 0.9, 200, 200, 100, 100), detection(3, person_id, 0.8, 0, 0, 100, 100)]
    assert benchmark.evaluate("val", detections).metrics["AP"] == pytest.approx(1.0)
    elsewhere = [detection(3, person_id, 0.9, 300, 100, 50, 50), detections[1]]
    assert benchmark.evaluate("val", elsewhere).metrics["AP"] == pytest.approx(0.5)


def test_a_folder_of_pictures_and_xml_files_side_by_side(data: Path) -> None:
    for split, names in (("train", ("2008_000002", "2008_000003")), ("valid", ("2008_000007",))):
        (data / split).mkdir()
        for name in names:
            (data / "Annotations" / f"{name}.xml").rename(data / split / f"{name}.xml")
            (data / "JPEGImages" / f"{name}.png").rename(data / split / f"{name}.png")
    benchmark = registry.benchmark("voc", {"train": "train", "val": "valid"}, data)
    assert [e.path.parent.name for e in (*benchmark.split("train"), *benchmark.split("val"))] == ["train"] * 2 + [
        "valid"
    ]


def test_coordinates_that_count_from_0(data: Path) -> None:
    path = data / "Annotations" / "2008_000007.xml"
    path.write_text(image_of("2008_000007", object_of("boat", 0, 10, 428, 293.5)))
    with pytest.raises(DataError, match=r"object\[0\]/bndbox: expected coordinates of at least 1 \(first_pixel: 0"):
        Voc({}, data)
    (example,) = Voc({"first_pixel": 0}, data).split("val")
    assert [i.box for i in example.instances] == [Box(0, 10, 428, 283.5)]


def test_what_is_read_identifies_the_data(data: Path) -> None:
    before = Voc({}, data).describe()
    assert before == Voc({}, data).describe()
    path = data / "Annotations" / "2008_000007.xml"
    path.write_text(path.read_text().replace("<xmax>428", "<xmax>427"))
    after = Voc({}, data).describe()
    assert after["digests"] != before["digests"]
    assert "synonyms" not in before


def test_names_of_ones_own(data: Path) -> None:
    (data / "names.csv").write_text("boat,ship,vessel\ntvmonitor,television\n")
    benchmark = Voc({"synonyms": "names.csv"}, data)
    assert [c.names for c in benchmark.categories][::3] == [("boat", "ship", "vessel"), ("tvmonitor", "television")]
    assert {"train", "val", "synonyms"} == set(benchmark.describe()["digests"])  # type: ignore[call-overload]


Change = Callable[[str], str]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:200], r"7\.xml: expected XML: "),
        (lambda text: text.replace("annotation>", "labels>"), r"7\.xml: expected <annotation>, got <labels>"),
        (lambda text: text.replace(">500<", "><"), r"7\.xml: size/width: expected a number, got nothing"),
        (lambda text: text.replace(">500<", ">0<"), r"size/width: expected an integer of at least 1, got 0"),
        (lambda text: text.replace("boat", " "), r"object\[0\]/name: expected the name of a category, got nothing"),
        (lambda text: text.replace(">428<", ">nan<"), r"object\[0\]/bndbox/xmax: expected a number, got 'nan'"),
        (lambda text: text.replace(">293<", ">9<"), r"object\[0\]/bndbox: expected xmax >= xmin and ymax >= ymin"),
        (lambda text: text.replace("difficult>0", "difficult>2"), r"difficult: expected 0 or 1, got '2'"),
        (
            lambda text: text.replace("2008_000007.png", "../secret.png"),
            r"filename: expected the name of a file inside",
        ),
        (lambda text: f'<!DOCTYPE a [<!ENTITY x "y">]>{text}', r"line 1: expected XML without a document type"),
        (lambda text: f'<!DOCTYPE a SYSTEM "http://x/">{text}', r"line 1: expected XML without a document type"),
        (
            lambda text: text.replace("boat", "<a>" * 40 + "</a>" * 40),
            r"expected at most 32 elements inside each other",
        ),
        (lambda text: text.replace("<name>boat", "<name>&boat;"), r"expected XML: undefined entity"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_place(data: Path, change: Change, message: str) -> None:
    path = data / "Annotations" / "2008_000007.xml"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message) as caught:
        Voc({}, data)
    assert "2008_000007.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_document_type_hides_in_no_encoding(data: Path) -> None:
    path = data / "Annotations" / "2008_000007.xml"
    path.write_text('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a>' + path.read_text(), encoding="utf-16")
    with pytest.raises(DataError, match="expected XML without a document type"):
        Voc({}, data)


def test_a_large_file_is_not_read(data: Path) -> None:
    with (data / "Annotations" / "2008_000007.xml").open("ab") as stream:
        stream.truncate(10_000_001)
    with pytest.raises(DataError, match="of at most 10,000,000 bytes"):
        Voc({}, data)


@pytest.mark.parametrize(("line", "message"), [("../x", "a file inside"), ("gone", "No such file")])
def test_lists_name_files_of_the_folder(data: Path, line: str, message: str) -> None:
    (data / "ImageSets/Main/val.txt").write_text(f"{line}\n")
    with pytest.raises(DataError, match=message):
        Voc({}, data)


def test_links_do_not_lead_out_of_the_folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = data / "Annotations" / "2008_000007.xml"
    outside = tmp_path_factory.mktemp("outside") / "x.xml"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(DataError, match="got a link out of it"):
        Voc({}, data)


def test_settings_are_checked_before_anything_is_read() -> None:
    problems = Voc.problems({"train": "../x", "first_pixel": 2, "split": "voc2012"})
    assert len(problems) == 3
    with pytest.raises(ConfigError, match=r"voc\.first_pixel: expected an integer from 0 to 1, got 2"):
        Voc({"first_pixel": 2})


def test_a_missing_picture_is_named(data: Path) -> None:
    (data / "JPEGImages" / "2008_000007.png").unlink()
    with pytest.raises(DataError, match=r"image not found: .*2008_000007\.png \(1 of 1 missing\)"):
        registry.benchmark("voc", {}, data)
