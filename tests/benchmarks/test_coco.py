"""The COCO benchmark: the usual layout, crowd regions, names from LVIS, and figures by the COCO protocol."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from benchmarks import coco
from benchmarks.coco import Coco, synonyms, with_synonyms
from harness import records
from harness.errors import ConfigError, DataError
from harness.metrics.detection.ap import average_precision
from harness.protocols import Benchmark
from harness.records import Record, tables
from harness.records.tables import detection_frame
from harness.types import Category
from tests.benchmarks.documents import annotation, detection, document, write

BOX = (10.0, 10.0, 50.0, 50.0)
CROWD = (200.0, 200.0, 200.0, 100.0)
IN_CROWD = (220.0, 210.0, 40.0, 40.0)


def coco_image(image_id: int, folder: str) -> dict[str, Any]:
    name = f"{image_id:012d}.jpg"
    url = f"http://images.cocodataset.org/{folder}/{name}"
    return {"id": image_id, "file_name": name, "coco_url": url, "width": 640, "height": 480}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three training and two validation images with one couch each; image 4 also has a crowd of people."""
    (tmp_path / "annotations").mkdir()
    categories = [{"id": 63, "name": "couch"}, {"id": 1, "name": "person"}, {"id": 21, "name": "cow"}]
    for split, ids in (("train2017", (1, 2, 3)), ("val2017", (4, 5))):
        objects = [annotation(i, i, 63, *BOX, iscrowd=0) for i in ids]
        if split == "val2017":
            objects.append(annotation(40, 4, 1, *CROWD, iscrowd=1))
        content = document([coco_image(i, split) for i in ids], objects, categories)
        write(tmp_path / "annotations" / f"instances_{split}.json", content)
        (tmp_path / split).mkdir()
        for i in ids:
            (tmp_path / split / f"{i:012d}.jpg").touch()
    return tmp_path


def test_the_usual_layout(data: Path) -> None:
    benchmark: Benchmark = Coco({"calibration_images": 1}, data)
    assert sorted(e.image_id for s in ("train", "calibration") for e in benchmark.split(s)) == [1, 2, 3]
    assert [e.path for e in benchmark.split("val")] == [data / "val2017" / f"{i:012d}.jpg" for i in (4, 5)]
    assert json.loads(json.dumps(benchmark.describe())) == benchmark.describe()
    assert benchmark.describe()["name"] == "coco"


def test_crowd_regions_are_no_targets(data: Path) -> None:
    with_crowd, without = Coco({}, data).split("val")
    assert [i.category_id for i in with_crowd.instances] == [63]
    assert (sorted(with_crowd.negative), sorted(with_crowd.not_exhaustive)) == ([21], [1])
    assert (sorted(without.negative), sorted(without.not_exhaustive)) == ([1, 21], [])


@pytest.mark.parametrize("engine", ["fast", "pycocotools"])
def test_figures_are_those_of_the_coco_protocol(data: Path, engine: str) -> None:
    benchmark = Coco({}, data)
    couches = [detection(i, 63, 0.9, *BOX) for i in (4, 5)]
    metrics = benchmark.evaluate("val", couches, engine).metrics
    assert "AR@100" in metrics
    assert metrics["AP"] == pytest.approx(1.0)
    # A person found in the crowd region is neither right nor wrong, and no person is annotated one by one.
    people = [detection(4, 1, 0.95, *IN_CROWD)]
    assert benchmark.evaluate("val", couches + people, engine).metrics["AP"] == pytest.approx(1.0)
    # On the two couches' category a higher wrong one costs: precision 1/2 and 2/3 -> 2/3 at every recall.
    wrong = [detection(5, 63, 0.95, *CROWD)]
    assert benchmark.evaluate("val", couches + wrong, engine).metrics["AP"] == pytest.approx(2 / 3)


def test_categories_have_the_names_of_lvis(data: Path) -> None:
    names = {c.id: c.names for c in Coco({}, data).categories}
    assert names == {
        63: ("couch", "sofa", "lounge"),
        1: ("person", "baby", "child", "boy", "girl", "man", "woman", "human"),
        21: ("cow",),
    }


def test_files_of_ones_own(data: Path) -> None:
    (data / "annotations" / "instances_val2017.json").rename(data / "mine.json")
    assert len(Coco({"val": "mine.json"}, data).split("val")) == 2


def test_what_is_missing_comes_with_where_to_get_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "annotations" / "instances_train2017.json").unlink()
    with pytest.raises(
        DataError, match=r"train2017\.json: no such file; download .*annotations_trainval2017\.zip .*into"
    ):
        Coco({}, data)
    monkeypatch.delenv("DETMODES_DATA", raising=False)
    with pytest.raises(ConfigError, match=r"instances_train2017\.json, .*instances_val2017\.json, train2017/ and val"):
        Coco({})


def test_a_split_of_lvis_is_not_one_of_coco() -> None:
    (problem,) = Coco.problems({"split": "lvis-v1-val"})
    assert problem == "unknown coco.split 'lvis-v1-val'; available: coco-val2017"


# ---- names -----------------------------------------------------------------------------------------------------


def test_a_name_means_one_category() -> None:
    categories = [Category(1, ("person",), None), Category(2, ("man",), None), Category(3, ("bus",), None)]
    table = {"person": ["man", "human"], "bus": ["coach", "bus"], "man": ["coach"]}
    # "man" is a category here; "coach" is offered to two.
    assert [c.names for c in with_synonyms(categories, table)] == [("person", "human"), ("man",), ("bus",)]


def shipped() -> dict[str, Any]:
    path = Path(coco.__file__).parent / "data" / "coco_synonyms.json"
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_the_shipped_names_follow_the_rule_they_state(shared: Callable[[str], Path]) -> None:
    lvis = {c["synset"]: c for c in json.loads(shared("data/lvis_v1_categories.json").read_text())}
    synsets = shipped()["synsets"]
    assert len(synsets) == 78  # of COCO's 80, without hot dog and potted plant

    def plain(name: str) -> str:
        return re.sub(r"_?\(.*\)", "", name).replace("_", " ")

    offered = {
        name: [other for other in map(plain, dict.fromkeys([lvis[s]["name"], *lvis[s]["synonyms"]])) if other != name]
        for name, s in synsets.items()
    }
    owners = Counter(other for names in offered.values() for other in set(names))
    owners.update({*synsets, "hot dog", "potted plant"})
    derived = {name: [n for n in dict.fromkeys(names) if owners[n] == 1] for name, names in offered.items()}
    assert synonyms() == {name: names for name, names in derived.items() if names}


def test_every_shipped_name_is_new_and_means_one_category() -> None:
    names = [*shipped()["synsets"], *(name for others in synonyms().values() for name in others)]
    assert len(names) == len(set(names)) == 78 + 52
    assert not any("_" in name or "(" in name for name in names)


def test_a_records_tables_give_the_figures_of_the_coco_protocol(data: Path) -> None:
    """A person in the crowd region ranks above the one that is annotated: left out, or AP would be 1/2."""
    path = data / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"].append(annotation(41, 4, 1, *BOX, iscrowd=0))
    path.write_text(json.dumps(content))
    benchmark = Coco({}, data)
    people = [detection(4, 1, 0.95, *IN_CROWD), detection(4, 1, 0.9, *BOX)]
    assert benchmark.evaluate("val", people).per_category[1] == pytest.approx(1.0)
    frame = detection_frame(0, records.GREEDY, people, benchmark.match("val", people))
    assert frame["left_out"].tolist() == [1023, 0]
    truth = pd.DataFrame({"step": 0, "image_id": [4, 4, 5], "category_id": [63, 1, 63], "instances": 1})
    record = SimpleNamespace(image_ids=(4, 5), categories=benchmark.categories)
    matches = tables.matches(truth, frame, 0, cast(Record, record))
    ap = average_precision(matches, 3).ap[0]
    by_category = dict(zip((c.id for c in benchmark.categories), ap, strict=True))
    assert by_category == pytest.approx({63: 0.0, 1: 1.0, 21: math.nan}, nan_ok=True)
    without = tables.matches(truth, frame.drop(columns="left_out"), 0, cast(Record, record))
    assert average_precision(without, 3).ap[0, 1] == pytest.approx(0.5)
