"""Detection data sets of the package `datasets`, made by itself: stored folders, pictures in rows and beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.hf import Hf
from harness import registry
from harness.errors import ConfigError, DataError
from harness.types import Box

datasets = pytest.importorskip("datasets", reason="of the extra hf")


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    datasets.disable_progress_bars()


def picture(red: int) -> Any:
    return Image.new("RGB", (20, 10), (red, 0, 0))


def row(red: int, *objects: tuple[int, list[float]]) -> dict[str, Any]:
    categories, boxes = [category for category, _ in objects], [box for _, box in objects]
    return {"image": picture(red), "objects": {"bbox": boxes, "category": categories}}


def store(folder: Path, train: list[dict[str, Any]], val: list[dict[str, Any]], category: Any = None) -> None:
    """As the guide of `datasets` for object detection has it (cppe-5)."""
    label = datasets.ClassLabel(names=["couch", "lamp"]) if category is None else category
    box = datasets.List(datasets.Value("float32"), length=4)
    objects = {"bbox": datasets.List(box), "category": datasets.List(label)}
    features = datasets.Features({"image": datasets.Image(), "objects": objects})
    splits = {"train": train, "validation": val}
    made = {name: datasets.Dataset.from_list(rows, features=features) for name, rows in splits.items()}
    datasets.DatasetDict(made).save_to_disk(str(folder))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    store(tmp_path / "set", [row(1, (1, [1, 2, 3, 4])), row(2)], [row(3, (0, [5, 5, 10, 5]))])
    return tmp_path


def test_a_stored_folder(data: Path) -> None:
    benchmark = registry.benchmark("hf", {"dataset": "set"}, data)
    assert [(c.id, c.names) for c in benchmark.categories] == [(0, ("couch",)), (1, ("lamp",))]
    first, empty = benchmark.split("train")
    (third,) = benchmark.split("val")
    assert [(i.category_id, i.box) for i in first.instances] == [(1, Box(1, 2, 3, 4))]
    assert empty.instances == ()
    assert (third.width, third.height) == (20, 10)
    with Image.open(third.path) as stored:
        assert stored.getpixel((0, 0)) == (3, 0, 0)
    assert json.loads(json.dumps(benchmark.describe())) == Hf({"dataset": "set"}, data).describe()
    assert Hf({}, data / "set").split("val")[0].instances == third.instances  # the data folder itself


def test_two_corners(data: Path) -> None:
    (example,) = Hf({"dataset": "set", "boxes": "xyxy"}, data).split("val")
    assert [i.box for i in example.instances] == [Box(5, 5, 5, 0)]


def test_categories_as_texts(tmp_path: Path) -> None:
    rows = [row(1, ("sofa", [0, 0, 1, 1]))], [row(2, ("cat", [0, 0, 1, 1]))]  # type: ignore[arg-type]
    store(tmp_path / "set", *rows, category=datasets.Value("string"))
    (tmp_path / "names.yaml").write_text("sofa: couch\n")
    benchmark = Hf({"dataset": "set", "synonyms": "names.yaml"}, tmp_path)
    assert [(c.id, c.names) for c in benchmark.categories] == [(1, ("cat",)), (2, ("sofa", "couch"))]


def test_pictures_beside_their_metadata(tmp_path: Path) -> None:
    """An `imagefolder`: metadata.jsonl in each folder of a split."""
    for split, red in (("train", 1), ("validation", 2)):
        (tmp_path / "set" / split).mkdir(parents=True)
        picture(red).save(tmp_path / "set" / split / "a.png")
        line = {"file_name": "a.png", "objects": {"bbox": [[1, 2, 3, 4]], "category": ["couch"]}}
        (tmp_path / "set" / split / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    (example,) = registry.benchmark("hf", {"dataset": "set"}, tmp_path).split("val")
    assert example.path == tmp_path / "set" / "validation" / "a.png"
    assert [i.box for i in example.instances] == [Box(1, 2, 3, 4)]


def test_what_is_read_identifies_the_data(data: Path) -> None:
    before = Hf({"dataset": "set"}, data).describe()
    store(data / "other", [row(1, (1, [1, 2, 3, 4])), row(2)], [row(3, (0, [5, 5, 10, 4]))])
    digests: Any = Hf({"dataset": "other"}, data).describe()["digests"]
    assert digests["train"] == before["digests"]["train"]  # type: ignore[index]
    assert digests["val"] != before["digests"]["val"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (
            [(0, [1, 2, -3, 4])],
            r"set: validation: row 0: objects\[0\]: bbox: expected a width and height of at least 0",
        ),
        ([(0, [1, 2, float("nan"), 4])], r"objects\[0\]: bbox: expected four finite numbers"),
        ([(-1, [1, 2, 3, 4])], r"objects\[0\]: category: expected a class label, got -1"),
    ],
)
def test_a_mistake_is_named_with_its_row(tmp_path: Path, objects: Any, message: str) -> None:
    store(tmp_path / "set", [row(1)], [row(2, *objects)])
    with pytest.raises(DataError, match=message):
        Hf({"dataset": "set"}, tmp_path)


def test_pictures_lie_in_the_data_folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    picture(1).save(outside)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"), 4)),
                "category": datasets.List(datasets.ClassLabel(names=["a"])),
            },
        }
    )
    rows = [{"image": {"path": str(outside), "bytes": None}, "objects": {"bbox": [], "category": []}}]
    made = datasets.Dataset.from_list(rows, features=features)
    table = made.data.table
    assert table is not None
    (tmp_path / "set").mkdir()
    for split in ("train", "validation"):
        import pyarrow.parquet as pq

        pq.write_table(table, tmp_path / "set" / f"{split}.parquet")
    with pytest.raises(DataError, match=r"row 0: image: expected a file inside"):
        Hf({"dataset": "set"}, tmp_path)


def test_names_of_splits_columns_and_folders_are_checked(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown split of the data set 'val'.*available: train, validation"):
        Hf({"dataset": "set", "val": "val"}, data)
    with pytest.raises(DataError, match="no such folder; on the Hub it needs a revision"):
        Hf({"dataset": "gone"}, data)
    (data / "empty").mkdir()
    with pytest.raises(DataError, match="expected a data set that `datasets` reads"):
        Hf({"dataset": "empty"}, data)


def test_settings_are_checked_before_anything_is_read() -> None:
    assert Hf.problems({"dataset": "../x"}) == [
        "hf.dataset: expected a folder in the data folder, or OWNER/NAME, got '../x'"
    ]
    assert Hf.problems({"revision": "c0ffee"}) == ["hf.dataset: expected OWNER/NAME, as there is a revision"]
    assert Hf.problems({}) == []
    assert Hf.places({"dataset": "a/b", "revision": "c0ffee"}) == ["hub:a/b@c0ffee"]
    assert Hf.places({"dataset": "set"}) == []
