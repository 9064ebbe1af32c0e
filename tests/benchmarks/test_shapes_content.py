"""What the embedded set holds: tight boxes, names of their own, a long tail, and every field of real LVIS."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import shapes_pictures
from benchmarks.evaluators.engines import lvis_package
from benchmarks.evaluators.evaluator import list_engines, list_figures
from benchmarks.shapes import Shapes, render_set
from benchmarks.shapes_pictures import COLOURS, KINDS, SPLITS, ShapesSettings, looks, render, silhouette
from harness.types import Detection, Example

PLAIN = ShapesSettings(domain="plain", train_images=6, val_images=4, calibration_images=2)
both_domains = pytest.mark.parametrize("domain", ["plain", "cluttered"])


@pytest.fixture(scope="module")
def default() -> Shapes:
    """Default settings: 812 images."""
    return Shapes({})


def document(folder: Path, split: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{split}.json").read_text())
    return content


# ---- images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_silhouettes_touch_all_sides_of_their_box(kind: str) -> None:
    sizes = [*range(5, 41), 63, 64, 100, 127, 512]
    for w in sizes:
        for h in sizes:
            assert silhouette(kind, w, h).getbbox() == (0, 0, w, h), (w, h)


def test_silhouettes_of_different_kinds_differ() -> None:
    for size in range(10, 33):  # 10 pixels is the smallest side in an image of 64
        assert len({silhouette(kind, size, size).tobytes() for kind in KINDS}) == len(KINDS)


def test_boxes_are_tight_around_what_is_drawn() -> None:
    """One object on a plain background: the box of all pixels that differ from the most common colour."""
    settings = replace(PLAIN, max_objects=1)
    for index in range(200):
        pixels, ((_, (x, y, w, h)),) = render(settings, shapes_pictures.image_rng(settings, "train", index))
        flat = pixels.reshape(-1, 3)
        background = Counter(map(tuple, flat.tolist())).most_common(1)[0][0]
        drawn = Image.fromarray((pixels != np.array(background, dtype=np.uint8)).any(-1))
        assert drawn.getbbox() == (x, y, x + w, y + h)


@both_domains
def test_boxes_are_whole_pixels_inside_the_image(tmp_path: Path, domain: shapes_pictures.Domain) -> None:
    folder = render_set(replace(PLAIN, domain=domain, train_images=60, max_objects=8, size=50), tmp_path)
    boxes = [record["bbox"] for record in document(folder, "train")["annotations"]]
    assert all(type(value) is int for box in boxes for value in box)
    assert all(x >= 0 and y >= 0 and w >= 5 and h >= 5 and x + w <= 50 and y + h <= 50 for x, y, w, h in boxes)


def test_objects_per_image_keep_to_the_settings(default: Shapes) -> None:
    counts = Counter(len(example.instances) for split in SPLITS for example in default.split(split))
    assert counts.keys() == {1, 2, 3, 4}


def test_plain_is_flat_and_cluttered_is_not() -> None:
    for index in range(20):
        colours = {}
        for domain in ("plain", "cluttered"):
            settings = replace(PLAIN, domain=domain)
            pixels, objects = render(settings, shapes_pictures.image_rng(settings, "train", index))
            assert pixels.shape == (64, 64, 3)
            colours[domain] = len(np.unique(pixels.reshape(-1, 3), axis=0))
            if domain == "plain":
                assert colours["plain"] <= 1 + len(objects)
        assert colours["cluttered"] > 2000  # of 4,096 pixels


# ---- categories ----------------------------------------------------------------------------------------------


def test_every_category_has_two_to_four_names_of_its_own() -> None:
    every = looks(30)
    assert {len(look.names) for look in every} == {2, 3, 4}
    names = [name for look in every for name in look.names]
    assert len(names) == len(set(names))
    assert len({(look.kind, look.colour) for look in every}) == 30 == len(KINDS) * len(COLOURS)
    for look in every:
        words = {(c, k) for c in COLOURS[look.colour][0] for k in KINDS[look.kind]}
        assert {tuple(name.split("_")) for name in look.names} <= words


def test_neighbouring_ranks_differ_in_kind_and_in_colour() -> None:
    for a, b in pairwise(looks(30)):
        assert a.kind != b.kind
        assert a.colour != b.colour
    assert looks(10) == looks(30)[:10]


def test_all_frequencies_occur_under_thresholds_scaled_to_the_set(default: Shapes) -> None:
    train = default.split("train")
    shares = {
        category.id: sum(any(i.category_id == category.id for i in e.instances) for e in train) / len(train)
        for category in default.categories
    }
    for category in default.categories:
        share = shares[category.id]
        assert category.frequency == ("r" if share <= 0.05 else "c" if share <= 0.10 else "f")
    assert {category.frequency for category in default.categories} == {"r", "c", "f"}
    assert shares[1] > 3 * shares[30]  # long-tailed


# ---- as LVIS -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_federated_fields_agree_with_the_annotations(default: Shapes, split: str) -> None:
    content = document(default.folder, split)
    every = {category["id"] for category in content["categories"]}
    for image in content["images"]:
        present = {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        assert present | set(image["neg_category_ids"]) == every
        assert not present & set(image["neg_category_ids"])
        assert image["not_exhaustive_category_ids"] == []
        with Image.open(default.folder / split / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (64, 64)
    assert [a["id"] for a in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    for a in content["annotations"]:
        x, y, w, h = a["bbox"]
        assert a["area"] == w * h
        assert a["segmentation"] == [[x, y, x + w, y, x + w, y + h, x, y + h]]


def test_counts_are_those_of_the_training_images_in_every_split(default: Shapes) -> None:
    train = document(default.folder, "train")
    for category in train["categories"]:
        objects = [a for a in train["annotations"] if a["category_id"] == category["id"]]
        assert category["instance_count"] == len(objects)
        assert category["image_count"] == len({a["image_id"] for a in objects})
        assert category["synonyms"][0] == category["name"]
    for split in SPLITS:
        assert document(default.folder, split)["categories"] == train["categories"]


def test_the_official_class_loads_the_file(default: Shapes) -> None:
    with lvis_package() as lvis:
        official = lvis.LVIS(str(default.folder / "val.json"))
    examples = default.split("val")
    assert sorted(official.get_img_ids()) == [example.image_id for example in examples]
    assert sorted(official.get_ann_ids()) == sorted(i.id for example in examples for i in example.instances)
    assert sorted(official.get_cat_ids()) == [category.id for category in default.categories]


def ground_truth(examples: tuple[Example, ...]) -> list[Detection]:
    return [Detection(e.image_id, i.category_id, i.box, 1.0) for e in examples for i in e.instances]


@pytest.mark.parametrize("engine", list_engines("lvis"))
def test_the_ground_truth_has_ap_1(default: Shapes, engine: str) -> None:
    evaluation = default.evaluate("val", ground_truth(default.split("val")), engine)
    for name in ("AP", "AP50", "AP75", "APr", "APc", "APf", "APs", "AR@300"):
        assert evaluation.metrics[name] == pytest.approx(1.0, abs=1e-12)
    assert evaluation.metrics.keys() == set(list_figures("lvis"))
    annotated = {i.category_id for e in default.split("val") for i in e.instances}
    assert {c for c, ap in evaluation.per_category.items() if ap is not None} == annotated


def test_it_describes_what_identifies_it(default: Shapes) -> None:
    description = default.describe()
    assert description["name"] == "shapes"
    assert asdict(ShapesSettings()).items() <= description.items()
    digests = description["digests"]
    assert isinstance(digests, dict)
    assert digests.keys() == set(SPLITS)
    assert json.loads(json.dumps(description)) == description
