"""The LVIS benchmark: settings, splits (plain and published), what identifies the data; and that its suite reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from benchmarks.lvis import Lvis
from benchmarks.on_disk import hash_order
from benchmarks.published import LAYOUTS, read_ids
from harness.errors import ConfigError, DataError
from harness.protocols import Benchmark
from harness.types import Example
from tests.benchmarks.documents import annotation, category, detection, document, image, write

BOX = (10.0, 10.0, 50.0, 50.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """10 training and 6 validation images with one object each, and a picture for each."""
    for split, ids in (("train", range(1, 11)), ("val", range(101, 107))):
        images = [image(i) for i in ids]
        objects = [annotation(i, i, 1 + i % 2, *BOX) for i in ids]
        write(tmp_path / f"{split}.json", document(images, objects, [category(1, "cat"), category(2, "dog")]))
    (tmp_path / "images").mkdir()
    for i in [*range(1, 11), *range(101, 107)]:
        (tmp_path / "images" / f"{i}.jpg").touch()
    return tmp_path


def ids(examples: tuple[Example, ...]) -> list[int]:
    return [example.image_id for example in examples]


def test_defaults_use_everything(data: Path) -> None:
    benchmark: Benchmark = Lvis({}, data)
    assert [c.name for c in benchmark.categories] == ["cat", "dog"]
    assert ids(benchmark.split("train")) == list(range(1, 11))
    assert ids(benchmark.split("val")) == list(range(101, 107))
    assert benchmark.split("calibration") == ()


def test_hash_order_is_that_of_sha256() -> None:
    # First hexadecimal digits of sha256sum: "1" 6b86, "2" d473, "3" 4e07, "4" 4b22, "5" ef2d.
    assert hash_order([1, 2, 3, 4, 5]) == [4, 3, 1, 2, 5]


def test_calibration_is_taken_out_of_train(data: Path) -> None:
    benchmark = Lvis({"calibration_images": 3, "train_images": 4}, data)
    order = hash_order(range(1, 11))
    assert ids(benchmark.split("calibration")) == sorted(order[:3])
    assert ids(benchmark.split("train")) == sorted(order[3:7])


def test_a_smaller_subset_is_part_of_a_larger_one(data: Path) -> None:
    subsets = [set(ids(Lvis({"val_images": n}, data).split("val"))) for n in range(1, 7)]
    assert [len(subset) for subset in subsets] == [1, 2, 3, 4, 5, 6]
    assert all(small < large for small, large in pairwise(subsets))


@pytest.mark.parametrize("engine", ["fast", "lvis"])
def test_unused_images_are_not_evaluated(data: Path, engine: str) -> None:
    benchmark = Lvis({"val_images": 2}, data)
    detections = [detection(e.image_id, i.category_id, 0.9, *BOX) for e in benchmark.split("val") for i in e.instances]
    # The other four images' objects would be missed: recall, and with it AP, below 1.
    assert benchmark.evaluate("val", detections, engine).metrics["AP"] == pytest.approx(1.0)
    assert (Lvis({}, data).evaluate("val", detections, engine).metrics["AP"] or 0) < 0.9


def test_describe_identifies_the_data(data: Path) -> None:
    described = Lvis({"calibration_images": 3, "val_images": 2}, data).describe()
    assert json.loads(json.dumps(described)) == described
    assert str(data) not in json.dumps(described)
    assert described["counts"] == {
        "train": {"images": 7, "instances": 7},
        "val": {"images": 2, "instances": 2},
        "calibration": {"images": 3, "instances": 3},
    }
    assert (described["val_images"], described["train_images"], described["categories"]) == (2, None, 2)
    (data / "val.json").write_text((data / "val.json").read_text() + " ")
    changed = Lvis({"calibration_images": 3, "val_images": 2}, data).describe()["digests"]
    assert isinstance(changed, dict)
    assert isinstance(described["digests"], dict)
    assert {key for key in changed if changed[key] != described["digests"][key]} == {"val"}


def test_files_may_have_other_names(data: Path) -> None:
    for old, new in (("train.json", "a.json"), ("val.json", "b.json"), ("images", "pictures")):
        (data / old).rename(data / new)
    benchmark = Lvis({"train": "a.json", "val": "b.json", "images": "pictures"}, data)
    assert benchmark.split("train")[0].path == data / "pictures" / "1.jpg"


def test_every_wrong_setting_is_reported_at_once(data: Path) -> None:
    wrong = {"val_image": 3, "train_images": 0, "calibration_images": -1, "val_images": True, "images": 5}
    with pytest.raises(ConfigError) as caught:
        Lvis(wrong, data)
    assert caught.value.problems == (
        "lvis: unknown setting 'val_image', did you mean 'val_images'? available: "
        "calibration_images, captions, images, split, synonyms, train, train_images, val, val_images",
        "lvis.train_images: expected an integer of at least 1, got 0",
        "lvis.calibration_images: expected an integer of at least 0, got -1",
        "lvis.val_images: expected an integer of at least 1, got True",
        "lvis.images: expected a name relative to the data folder, got 5",
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_images": 7}, "val_images: expected at most the 6 images available, got 7"),
        (
            {"calibration_images": 8, "train_images": 3},
            "train_images: expected at most the 2 images available, got 3",
        ),
        (
            {"calibration_images": 10},
            "calibration_images: expected fewer than the 10 images of train.json, got 10",
        ),
        (
            {"calibration_images": 11},
            "calibration_images: expected fewer than the 10 images of train.json, got 11",
        ),
    ],
)
def test_more_images_than_there_are(data: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Lvis(settings, data)


def test_without_data_it_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETMODES_DATA", raising=False)
    with pytest.raises(ConfigError, match=r"--data DIR or set DETMODES_DATA: .*train\.json.*val\.json.*images/"):
        Lvis({})
    with pytest.raises(DataError, match=r"nowhere: no such folder.*train\.json"):
        Lvis({}, tmp_path / "nowhere")


def test_a_missing_picture_is_named_unless_it_is_not_used(data: Path) -> None:
    last = hash_order(range(101, 107))[-1]
    (data / "images" / f"{last}.jpg").unlink()
    Lvis({"val_images": 5}, data).require_pictures()
    with pytest.raises(DataError, match=rf"image not found: .*{last}\.jpg"):
        Lvis({}, data).require_pictures()


def test_train_and_val_must_have_the_same_categories(data: Path) -> None:
    write(data / "val.json", document([image(101)], [], [category(1, "cat"), category(2, "wolf")]))
    with pytest.raises(DataError, match=r"val\.json: expected the categories of train\.json"):
        Lvis({}, data)


def test_a_file_without_images_is_refused(data: Path) -> None:
    write(data / "val.json", document([], [], [category(1, "cat"), category(2, "dog")]))
    with pytest.raises(DataError, match=r"val\.json: expected at least one image"):
        Lvis({}, data)


def test_unknown_split(data: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        Lvis({}, data).split("trian")


def test_the_environment_names_the_folder_unless_one_is_given(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETMODES_DATA", str(data))
    assert len(Lvis({}).split("val")) == 6
    with pytest.raises(DataError, match="nowhere: no such folder"):
        Lvis({}, data / "nowhere")


# ---- published splits ----------------------------------------------------------------------------------------------

V1_VAL = {"lvis-v1-val": "lvis_v1_val.json", "lvis-v1-minival": "lvis_v1_minival_inserted_image_name.json"}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """LVIS v1 in the usual layout: three training images; val has two of train2017 (4, 5) and two of val2017."""
    folder_of = {**dict.fromkeys((1, 2, 3, 4, 5), "train2017"), 6: "val2017", 7: "val2017"}
    for name, ids in (("lvis_v1_train", (1, 2, 3)), ("lvis_v1_val", (4, 5, 6, 7))):
        images = [image(i, file_name=None, coco_url=f"http://host/{folder_of[i]}/{i:012d}.jpg") for i in ids]
        objects = [annotation(i, i, 1 + i % 2, *BOX) for i in ids]
        (tmp_path / "annotations").mkdir(exist_ok=True)
        content = document(images, objects, [category(1, "cat"), category(2, "dog")])
        write(tmp_path / "annotations" / f"{name}.json", content)
    for i, folder in folder_of.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{i:012d}.jpg").touch()
    return tmp_path


def test_a_published_split_is_found_in_the_usual_layout(published: Path) -> None:
    benchmark = Lvis({"split": "lvis-v1-val"}, published)
    assert ids(benchmark.split("train")) == [1, 2, 3]
    pictures = [str(example.path.relative_to(published)) for example in benchmark.split("val")]
    assert pictures == [f"{'train' if i < 6 else 'val'}2017/{i:012d}.jpg" for i in (4, 5, 6, 7)]
    described = benchmark.describe()
    assert described["split"] == "lvis-v1-val"
    assert (described["train"], described["val"]) == ("annotations/lvis_v1_train.json", "annotations/lvis_v1_val.json")


def test_v05_has_its_own_files(published: Path) -> None:
    for part in ("train", "val"):
        (published / f"annotations/lvis_v1_{part}.json").rename(published / f"annotations/lvis_v0.5_{part}.json")
    assert ids(Lvis({"split": "lvis-v0.5-val"}, published).split("val")) == [4, 5, 6, 7]


@pytest.mark.parametrize(("name", "content"), [("txt", "7\n6\n"), ("json", "[6, 7]")])
def test_minival_from_a_list_of_ids(published: Path, name: str, content: str) -> None:
    (published / f"annotations/lvis_v1_minival_ids.{name}").write_text(content)
    minival = Lvis({"split": "lvis-v1-minival"}, published)
    assert ids(minival.split("val")) == [6, 7]
    digests = [Lvis({"split": split}, published).describe()["digests"] for split in V1_VAL]
    assert digests[0] != digests[1]


def test_minival_from_the_published_file(published: Path) -> None:
    content = json.loads((published / "annotations/lvis_v1_val.json").read_text())
    content["images"] = content["images"][3:]
    content["annotations"] = content["annotations"][3:]
    write(published / "annotations/lvis_v1_minival_inserted_image_name.json", content)
    (published / "annotations/lvis_v1_minival_ids.txt").write_text("4 5")  # the published file comes first
    (published / "annotations/lvis_v1_val.json").unlink()
    assert ids(Lvis({"split": "lvis-v1-minival"}, published).split("val")) == [7]


@pytest.mark.parametrize("split", V1_VAL)
def test_a_missing_file_comes_with_where_to_get_it(published: Path, split: str) -> None:
    (published / "annotations/lvis_v1_val.json").unlink()
    with pytest.raises(DataError) as caught:
        Lvis({"split": split}, published)
    message = str(caught.value)
    assert message.startswith(f"{published / 'annotations' / V1_VAL[split]}: no such file; download {split_url(split)}")
    assert "into annotations/ (all files: https://www.lvisdataset.org/dataset)" in message
    assert ("lvis_v1_minival_ids.txt" in message) == (split == "lvis-v1-minival")
    assert "\n" not in message


def split_url(split: str) -> str:
    return LAYOUTS[split].val.url


def test_every_published_file_says_where_it_is() -> None:
    # Files and addresses as lvisdataset.org and cocodataset.org give them.
    urls = {file.url for layout in LAYOUTS.values() for file in (layout.train, layout.val) if file.url}
    assert urls == {
        *(f"https://dl.fbaipublicfiles.com/LVIS/lvis_{v}_{part}.json.zip" for v in ("v1", "v0.5") for part in PARTS),
        "https://huggingface.co/GLIPModel/GLIP/resolve/main/lvis_v1_minival_inserted_image_name.json",
        "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
    }


PARTS = ("train", "val")


def test_missing_pictures_come_with_where_to_get_them(published: Path) -> None:
    (published / "val2017" / f"{7:012d}.jpg").unlink()
    with pytest.raises(
        DataError, match=r"image not found: .*7\.jpg \(1 of 4 missing\).*zips/train2017\.zip.*val2017\.zip"
    ):
        Lvis({"split": "lvis-v1-val"}, published).require_pictures()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("6 99", r"expected ids of images of lvis_v1_val\.json, got 99"),
        ("6 seven", r"entry 1: expected an image id, got 'seven'"),
        ("-6", r"entry 0: expected an image id, got '-6'"),
        ("", "at least one"),
    ],
)
def test_a_wrong_list_of_ids(published: Path, content: str, message: str) -> None:
    (published / "annotations/lvis_v1_minival_ids.txt").write_text(content)
    with pytest.raises(DataError, match=rf"lvis_v1_minival_ids\.txt.*{message}"):
        Lvis({"split": "lvis-v1-minival"}, published)


@pytest.mark.parametrize("content", ['{"ids": [1]}', "[1, 2", "[1.5]", "[true]", "[]", "7"])
def test_a_wrong_json_list_of_ids(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ids.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"ids\.json.*expected a"):
        read_ids(path)


def test_a_published_split_has_no_other_files() -> None:
    (problem,) = Lvis.problems({"split": "lvis-v1-val", "val": "mine.json"})
    assert problem == "lvis: expected either split or names of files (train, val, images), got both"
    (problem,) = Lvis.problems({"split": "lvis-v1-vall"})
    assert problem.startswith("unknown lvis.split 'lvis-v1-vall', did you mean 'lvis-v1-val'?")
    assert "coco" not in problem


def test_the_photos_suite_reads_real_photographs(shared: Callable[[str], Path]) -> None:
    suite = yaml.safe_load((Path(__file__).parents[2] / "benchmarks" / "suites" / "photos.yaml").read_text())
    settings = {key: value for key, value in suite["benchmark"].items() if key != "name"}
    benchmark = Lvis(settings, shared("data/coco128-lvis"))
    sizes = {name: len(benchmark.split(name)) for name in ("train", "val", "calibration")}
    assert sizes == {"train": 72, "val": 32, "calibration": 24}
    truth = [
        detection(e.image_id, i.category_id, 1.0, i.box.x, i.box.y, i.box.w, i.box.h)
        for e in benchmark.split("val")
        for i in e.instances
    ]
    assert benchmark.evaluate("val", truth).metrics["AP"] == pytest.approx(1.0)
