"""Names of one's own: what they add, what identifies them, and that diversity of names is defined with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.coco import Coco
from benchmarks.lvis import Lvis
from harness.errors import DataError
from tests.benchmarks.documents import (
    annotation,
    category,
    coco_category,
    coco_image,
    document,
    image,
    write,
)

BOX = (10, 10, 50, 50)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A couch and a widget in COCO's format, and the same two in that of LVIS, where the couch is a sofa too."""
    names = ["couch", "widget"]
    for split, ids in (("train", (1, 2)), ("val", (3,))):
        objects = [annotation(k, k, 1 + k % 2, *BOX) for k in ids]
        coco = document([coco_image(k) for k in ids], objects, [coco_category(k, n) for k, n in enumerate(names, 1)])
        write(tmp_path / f"coco_{split}.json", coco)
        categories = [category(1, "couch", "sofa"), category(2, "widget")]
        write(tmp_path / f"{split}.json", document([image(k) for k in ids], objects, categories))
    (tmp_path / "names.yaml").write_text("widget: [gadget, thingamajig]\ncouch: settee\n")
    (tmp_path / "names.csv").write_text("widget, gadget, thingamajig\n\ncouch,settee,\n")
    return tmp_path


FILES = {"train": "coco_train.json", "val": "coco_val.json"}


@pytest.mark.parametrize("file", ["names.yaml", "names.csv"])
def test_both_files_say_the_same(data: Path, file: str) -> None:
    benchmark = Coco({**FILES, "synonyms": file}, data)
    assert [c.names for c in benchmark.categories] == [("couch", "settee"), ("widget", "gadget", "thingamajig")]
    assert [c.names for c in benchmark._splits["val"].categories] == [c.names for c in benchmark.categories]


def test_names_of_the_annotations_stay_and_those_shipped_for_coco_do_not(data: Path) -> None:
    assert Coco(FILES, data).categories[0].names == ("couch", "sofa", "lounge")
    assert Lvis({"synonyms": "names.yaml"}, data).categories[0].names == ("couch", "sofa", "settee")


def test_they_are_a_part_of_what_identifies_a_cell_and_nothing_where_there_are_none(data: Path) -> None:
    plain = Coco(FILES, data).describe()
    assert "synonyms" not in json.dumps(plain)
    described = Coco({**FILES, "synonyms": "names.yaml"}, data).describe()
    (data / "names.yaml").write_text("widget: [gadget]\n")
    again = Coco({**FILES, "synonyms": "names.yaml"}, data).describe()
    assert plain != described != again


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("n.yaml", "cuoch: [sofa]", r"n\.yaml: unknown category 'cuoch', did you mean 'couch'\?"),
        ("n.yaml", "couch: [widget]", r"expected a name to mean one category, got 'widget' for 'couch' and 'widget'"),
        ("n.yaml", "couch: [3]", r"n\.yaml: couch: expected names, got \[3\]"),
        ("n.yaml", "[couch]", r"n\.yaml: expected category: \[name, name, \.\.\.\]"),
        ("n.yaml", "couch: [a]\ncouch: [b]", r"line 2: expected every key once"),
        ("n.yaml", "", r"n\.yaml: expected category"),
        ("n.csv", "couch,a\ncouch,b", r"n\.csv: line 2: expected every category once, got 'couch' again"),
        ("n.csv", 'couch,"a', r"n\.csv: line 1: expected CSV"),
        ("n.csv", "", r"n\.csv: expected at least one category"),
        ("n.json", "{}", r"n\.json: expected a \.yaml, \.yml or \.csv file"),
    ],
)
def test_a_mistake_is_named(data: Path, name: str, content: str, message: str) -> None:
    (data / name).write_text(content)
    with pytest.raises(DataError, match=message):
        Coco({**FILES, "synonyms": name}, data)


def test_the_file_lies_in_the_data_folder(data: Path) -> None:
    (problem,) = Coco.problems({**FILES, "synonyms": "../names.yaml"})
    assert problem == "coco.synonyms: expected a name relative to the data folder, got '../names.yaml'"
    with pytest.raises(DataError, match="a file of synonyms: No such file"):
        Coco({**FILES, "synonyms": "gone.yaml"}, data)
