"""AP against the official `lvis` 0.5.3, which needs two aliases that NumPy has dropped."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.metrics import ap as ap_module
from harness.metrics.aggregate import Weights
from harness.metrics.ap import APs, average_precision, match, match_detections, summarise
from harness.metrics.stats import bootstrap_weights
from harness.types import Box, Category, Detection, Example, Instance
from tests.metrics.builders import example

lvis: Any = importlib.import_module("lvis")  # it has no types

Floats = NDArray[np.float64]
Case = tuple[list[Example], list[Detection]]
CATEGORIES = tuple(Category(10 + c, (f"name {c}",), "rcf"[c % 3]) for c in range(7))  # type: ignore[arg-type]
FREQUENCY = [category.frequency for category in CATEGORIES]


def _annotations(examples: Sequence[Example]) -> dict[str, Any]:
    images = [
        {
            "id": item.image_id,
            "neg_category_ids": sorted(item.negative),
            "not_exhaustive_category_ids": sorted(item.not_exhaustive),
        }
        for item in examples
    ]
    instances = [(item.image_id, instance) for item in examples for instance in item.instances]
    annotations = [
        {
            "id": index,
            "image_id": image_id,
            "category_id": instance.category_id,
            "bbox": [instance.box.x, instance.box.y, instance.box.w, instance.box.h],
            "area": instance.box.w * instance.box.h,
        }
        for index, (image_id, instance) in enumerate(instances, start=1)
    ]
    categories = [{"id": item.id, "name": item.name, "frequency": item.frequency} for item in CATEGORIES]
    return {"images": images, "annotations": annotations, "categories": categories}


def _official(folder: Path, examples: Sequence[Example], detections: Sequence[Detection]) -> Any:
    path = folder / "annotations.json"
    path.write_text(json.dumps(_annotations(examples)))
    rows = [
        {
            "image_id": item.image_id,
            "category_id": item.category_id,
            "bbox": [item.box.x, item.box.y, item.box.w, item.box.h],
            "score": item.score,
        }
        for item in detections
    ]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(np, "float", float, raising=False)
        patch.setattr(np, "int", int, raising=False)
        truth = lvis.LVIS(str(path))
        evaluation = lvis.LVISEval(truth, lvis.LVISResults(truth, rows), "bbox")
        evaluation.run()
    return evaluation


def _official_per_category(evaluation: Any) -> APs:
    precision = evaluation.eval["precision"][:, :, :, 0]  # [T, 101, C], -1 where undefined
    defined = precision[0, 0] > -1
    ap, ap50 = precision.mean(axis=(0, 1)), precision[0].mean(axis=0)
    return APs(np.where(defined, ap, np.nan)[None], np.where(defined, ap50, np.nan)[None])


def _random_box(rng: np.random.Generator) -> Box:
    """On a coarse grid (so that equal IoUs occur), now and then without area."""
    x, y = rng.integers(0, 6, 2)
    w, h = rng.integers(1, 6, 2)
    return Box(float(x), float(y), float(w) * float(rng.random() > 0.05), float(h))


def _jittered(rng: np.random.Generator, box: Box) -> Box:
    return Box(box.x + float(rng.choice([0, 0, 0.5, 1])), box.y, box.w, box.h + float(rng.choice([0, 0.25])))


def _random_case(seed: int, images: int = 12, ties: bool = True) -> Case:
    """Federated images with duplicates, absent and unlisted categories, boxes without area, empty images."""
    rng = np.random.default_rng(seed)
    ids = [category.id for category in CATEGORIES]
    examples, detections = [], []
    for image_id in rng.permutation(images) + 1:
        objects = tuple(Instance(n, int(rng.choice(ids[:-1])), _random_box(rng)) for n in range(rng.integers(0, 7)))
        negative, not_exhaustive = (frozenset(map(int, rng.choice(ids, 2))) for _ in range(2))
        examples.append(Example(int(image_id), Path(), 9, 9, objects, negative, not_exhaustive))
        for _ in range(rng.integers(0, 12)):
            copy = objects and rng.random() < 0.7
            source = objects[rng.integers(len(objects))] if copy else Instance(0, int(rng.choice(ids)), Box(0, 0, 3, 3))
            score = float(rng.integers(1, 6)) / 5 if ties else float(rng.random())
            detections.append(Detection(int(image_id), source.category_id, _jittered(rng, source.box), score))
    return examples, [detections[i] for i in rng.permutation(len(detections))]


def _evaluate(case: Case, weights: Weights | None = None) -> APs:
    return average_precision(match(*case, CATEGORIES), len(CATEGORIES), weights)


@pytest.mark.parametrize("seed", range(25))
def test_random_federated_sets_equal_the_official_api(seed: int, tmp_path: Path) -> None:
    case = _random_case(seed)
    official = _official(tmp_path, *case)
    expected, found = _official_per_category(official), _evaluate(case)
    np.testing.assert_allclose(found.ap, expected.ap, atol=1e-12)
    np.testing.assert_allclose(found.ap50, expected.ap50, atol=1e-12)
    for name, value in summarise(found.ap, found.ap50, FREQUENCY).items():
        reference = official.results[name]
        np.testing.assert_allclose(value, [np.nan if reference == -1 else reference], atol=1e-12)


def test_cap_of_300_comes_before_boxes_without_area_are_dropped(tmp_path: Path) -> None:
    # 250 boxes without area and 100 others rank ahead of the true positive of category 10: dropping first
    # would leave 101 detections and keep it, as the last assertion does.
    image = example([(10, (0, 0, 4, 4)), (11, (1, 1, 4, 4))])
    flat = [Detection(1, 10, Box(0, 0, 0, 4), 0.9) for _ in range(250)]
    wrong = [Detection(1, 11, Box(1, 1, 4, 2.5), 0.8 - 0.001 * n) for n in range(100)]
    case = [image], [*flat, *wrong, Detection(1, 10, Box(0, 0, 4, 4), 0.5)]
    found = _evaluate(case)
    assert found.ap[0, 0] == 0.0
    np.testing.assert_allclose(found.ap, _official_per_category(_official(tmp_path, *case)).ap, atol=1e-12)
    assert _evaluate(([image], case[1][250:])).ap[0, 0] == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_integer_weights_equal_repeated_images(seed: int, tmp_path: Path) -> None:
    examples, detections = _random_case(seed, images=8, ties=False)
    weights = bootstrap_weights(len(examples), replicates=3, seed=seed)
    found = _evaluate((examples, detections), weights)
    for replicate, drawn in enumerate(weights):
        copies = [item for item, times in zip(examples, drawn, strict=True) for _ in range(int(times))]
        repeated = [replace(item, image_id=new) for new, item in enumerate(copies, start=1)]
        moved = [
            replace(item, image_id=new)
            for new, source in enumerate(copies, start=1)
            for item in detections
            if item.image_id == source.image_id
        ]
        expected = _official_per_category(_official(tmp_path, repeated, moved))
        np.testing.assert_allclose(found.ap[replicate], expected.ap[0], atol=1e-9)
        np.testing.assert_allclose(found.ap50[replicate], expected.ap50[0], atol=1e-9)


def test_chunks_do_not_change_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    case = _random_case(0)
    weights = bootstrap_weights(12, replicates=20, seed=0)
    whole = _evaluate(case, weights)
    monkeypatch.setattr(ap_module, "CHUNK", 40)
    np.testing.assert_array_equal(_evaluate(case, weights).ap, whole.ap)


def test_order_of_images_does_not_matter() -> None:
    examples, detections = _random_case(3)
    np.testing.assert_array_equal(_evaluate((examples[::-1], detections)).ap, _evaluate((examples, detections)).ap)


def test_golden_of_real_lvis(shared: Callable[[str], Path]) -> None:
    data = json.loads(shared("data/lvis_val_100.json").read_text())
    golden = shared("golden/lvis_val_100")
    expected = json.loads((golden / "expected.json").read_text())
    detections = [
        Detection(row["image_id"], row["category_id"], Box(*row["bbox"]), row["score"])
        for row in json.loads((golden / "detections.json").read_text())
    ]
    categories = [Category(row["id"], (row["name"],), row["frequency"]) for row in data["categories"]]
    objects: dict[int, list[Instance]] = {}
    for row in data["annotations"]:
        instance = Instance(row["id"], row["category_id"], Box(*row["bbox"]))
        objects.setdefault(row["image_id"], []).append(instance)
    examples = [
        Example(
            row["id"],
            Path(),
            row["width"],
            row["height"],
            tuple(objects.get(row["id"], ())),
            frozenset(row["neg_category_ids"]),
            frozenset(row["not_exhaustive_category_ids"]),
        )
        for row in data["images"]
    ]
    found = average_precision(match(examples, detections, categories), len(categories))
    per_category = {
        str(category.id): value
        for category, value in zip(categories, found.ap[0].tolist(), strict=True)
        if not np.isnan(value)
    }
    assert per_category == pytest.approx(expected["per_category_AP"], abs=1e-9)
    frequency = [category.frequency for category in categories]
    for name, value in summarise(found.ap, found.ap50, frequency).items():
        assert value[0] == pytest.approx(expected["metrics"][name], abs=1e-9)


def test_ap_of_a_hand_derived_ranking() -> None:
    # Two ground truths; ranked: hit, miss, hit. Precision 1 up to recall 1/2 (thresholds 0.00 to 0.50: 51),
    # then 2/3 (50): AP = (51 + 50 * 2/3) / 101, at every IoU threshold as the hits are exact.
    # Weighted 2 : 1 (the first image twice): three ground truths; two hits, miss, hit: precision 1 up to
    # recall 2/3 (67 thresholds), then 3/4 (34): the miss and the last hit come from the second image.
    images = [example([(10, (0, 0, 4, 4))], image_id=1), example([(10, (0, 0, 4, 4))], image_id=2)]
    detections = [
        Detection(1, 10, Box(0, 0, 4, 4), 0.9),
        Detection(2, 10, Box(8, 8, 4, 4), 0.8),
        Detection(2, 10, Box(0, 0, 4, 4), 0.7),
    ]
    found = _evaluate((images, detections), np.array([[1.0, 1.0], [2.0, 1.0], [0.0, 0.0]]))
    expected = [(51 + 50 * 2 / 3) / 101, (67 + 34 * 3 / 4) / 101, np.nan]
    np.testing.assert_allclose(found.ap[:, 0], expected)
    np.testing.assert_allclose(found.ap50[:, 0], expected)
    assert np.isnan(found.ap[:, 1:]).all()


def test_never_predicted_category_scores_zero_and_collapse_costs_ap() -> None:
    image = example([(10, (0, 0, 4, 4)), (11, (5, 5, 4, 4))])
    found = _evaluate(([image], []))
    assert found.ap[0, :2].tolist() == [0.0, 0.0]
    assert np.isnan(found.ap[0, 2:]).all()


def test_last_of_equal_ious_is_taken() -> None:
    # The first detection overlaps both ground truths by 8 of 12 columns (IoU 2/3) and takes the last, so the
    # second detection still finds the first one, its exact copy.
    gt = np.array([[0.0, 0, 10, 10], [4, 0, 10, 10]])
    dt = np.array([[2.0, 0, 10, 10], [0, 0, 10, 10]])
    assert match_detections(gt, dt, np.array([0.5, 0.7])).tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    "detection", [Detection(2, 10, Box(0, 0, 1, 1), 0.5), Detection(1, 10, Box(0, 0, 1, 1), np.nan)]
)
def test_bad_detections_are_refused(detection: Detection) -> None:
    with pytest.raises(ValueError, match="detection of image"):
        match([example([])], [detection], CATEGORIES)
