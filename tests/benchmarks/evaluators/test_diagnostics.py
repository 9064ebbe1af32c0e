"""The diagnostics of generative detectors, by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.evaluators import diagnostics
from benchmarks.evaluators.diagnostics import Counted
from benchmarks.evaluators.evaluator import evaluate
from benchmarks.readers.annotations import Annotations
from harness.metrics.detection.ap import match
from harness.metrics.detection.rules import Protocol
from harness.types import Detections
from tests.benchmarks.documents import (
    annotation,
    category,
    coco_category,
    coco_image,
    detection,
    document,
    image,
    loaded,
)

CAT, FAR, DOG = (10, 10, 100, 100), (300, 10, 100, 100), (10, 300, 100, 100)
NEAR_CAT = (15, 10, 100, 100)
"""IoU with CAT: 95 / 105 = 0.905."""

BOTH: tuple[Protocol, ...] = ("lvis", "coco")


def animals(folder: Path, protocol: Protocol = "lvis", **federated: list[int]) -> Annotations:
    """One image with a cat, two dogs, and nothing of the third category."""
    objects = [annotation(1, 1, 1, *CAT), annotation(2, 1, 2, *DOG), annotation(3, 1, 2, *FAR)]
    names = ("cat", "dog", "cow")
    if protocol == "coco":
        categories = [coco_category(k, name) for k, name in enumerate(names, start=1)]
        return loaded(folder, document([coco_image(1)], objects, categories), "coco")
    categories = [category(k, name) for k, name in enumerate(names, start=1)]
    return loaded(folder, document([image(1, **federated)], objects, categories))


def rows(*entries: tuple[int, float, tuple[float, ...]]) -> Detections:
    return Detections.of(detection(1, category_id, score, *box) for category_id, score, box in entries)


def counted(annotations: Annotations, detections: Detections, protocol: Protocol) -> Counted:
    examples, areas, crowds = annotations.examples, annotations.areas, annotations.crowds
    return Counted.of(match(examples, detections, annotations.categories, protocol, areas, crowds))


def duplicates(annotations: Annotations, detections: Detections, protocol: Protocol) -> dict[str, Any]:
    truth = diagnostics.collect_objects(annotations, protocol)
    return diagnostics.count_duplicates(detections, truth, counted(annotations, detections, protocol))


# ---- counts ------------------------------------------------------------------------------------------------------


def test_objects_and_images_by_category(tmp_path: Path) -> None:
    objects = [annotation(1, 1, 1, *CAT), annotation(2, 1, 1, *FAR), annotation(3, 2, 1, *CAT)]
    empty = annotation(4, 2, 2, 5, 5, 0, 9)
    annotations = loaded(
        tmp_path, document([image(1), image(2)], [*objects, empty], [category(1, "a"), category(2, "b")])
    )
    assert diagnostics.count_annotated(annotations, "lvis") == (Counter({1: 3}), Counter({1: 2}))


def test_a_crowd_is_no_object(tmp_path: Path) -> None:
    objects = [annotation(1, 1, 1, *CAT), annotation(2, 1, 2, *FAR, iscrowd=1)]
    content = document([coco_image(1)], objects, [coco_category(1, "a"), coco_category(2, "b")])
    assert diagnostics.count_annotated(loaded(tmp_path, content, "coco"), "coco") == (Counter({1: 1}), Counter({1: 1}))


def test_detections_are_counted_after_cap_and_area(tmp_path: Path) -> None:
    many = rows(*[(1, 0.9, CAT)] * 299, (2, 0.9, (0, 0, 0, 9)), (2, 0.1, DOG))
    annotations = animals(tmp_path)
    assert diagnostics.count_predicted(annotations, many, "lvis") == Counter({1: 299})
    assert diagnostics.count_predicted(annotations, many, "lvis-fixed") == Counter({1: 299, 2: 1})


@pytest.mark.parametrize("protocol", BOTH)
def test_never_predicted_is_among_what_is_annotated(tmp_path: Path, protocol: Protocol) -> None:
    """Cats are named; dogs are not; cows are not either, but there are none."""
    annotations, detections = animals(tmp_path, protocol), rows((1, 0.9, FAR))
    evaluation = evaluate(annotations, detections, protocol)
    predicted = diagnostics.count_predicted(annotations, detections, protocol)
    assert diagnostics.count_never_predicted(evaluation, predicted) == {"share": 0.5, "count": 1, "categories": 2}
    nothing = replace(evaluation, per_category={1: None})
    assert diagnostics.count_never_predicted(nothing, predicted) == {"share": None, "count": 0, "categories": 0}


# ---- ties --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", BOTH)
def test_tie_order_moves_ap_between_the_best_and_the_worst_ranking(tmp_path: Path, protocol: Protocol) -> None:
    # Of two detections of the cat one is right: AP is 1 if it ranks first, else 1/2. Dogs have 0: the mean halves it.
    annotations = animals(tmp_path, protocol)
    spread = diagnostics.evaluate_random_rankings(annotations, rows((1, 0.9, CAT), (1, 0.9, FAR)), protocol)
    assert (spread["min"], spread["max"], spread["orders"]) == (pytest.approx(0.25), pytest.approx(0.5), 20)
    firsts = round((spread["mean"] - 0.25) / 0.25 * 20)  # how often the right one was first
    assert 4 <= firsts <= 16  # 99% of what 20 fair coins give
    assert spread["sd"] == pytest.approx(np.std([0.5] * firsts + [0.25] * (20 - firsts), ddof=1))


def test_tie_orders_do_not_see_the_scores_and_are_the_same_every_time(tmp_path: Path) -> None:
    annotations = animals(tmp_path)
    a, b = rows((1, 0.9, CAT), (1, 0.1, FAR)), rows((1, 0.2, CAT), (1, 0.3, FAR))
    assert diagnostics.evaluate_random_rankings(annotations, a, "lvis") == diagnostics.evaluate_random_rankings(
        annotations, b, "lvis"
    )


def test_tie_order_also_decides_what_the_cap_keeps(tmp_path: Path) -> None:
    """One right detection among 600 far ones of a category nobody looked for: half of the time it is cut off."""
    spread = diagnostics.evaluate_random_rankings(
        animals(tmp_path), rows((1, 0.9, CAT), *[(3, 0.5, FAR)] * 599), "lvis"
    )
    assert (spread["min"], spread["max"]) == (0.0, pytest.approx(0.5))


def test_without_objects_there_is_no_ap_under_ties(tmp_path: Path) -> None:
    annotations = loaded(tmp_path, document([image(1)], [], [category(1, "cat")]))
    spread = diagnostics.evaluate_random_rankings(annotations, rows((1, 0.5, CAT)), "lvis", orders=2)
    assert spread == {"mean": None, "sd": None, "min": None, "max": None, "orders": 2}


# ---- repeats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", BOTH)
def test_a_duplicate_overlaps_an_object_that_is_taken(tmp_path: Path, protocol: Protocol) -> None:
    # The second and third repeat the cat; the fourth is elsewhere, the fifth on the cat but a dog.
    detections = rows((1, 0.9, CAT), (1, 0.8, CAT), (1, 0.7, NEAR_CAT), (1, 0.6, FAR), (2, 0.5, CAT))
    annotations = animals(tmp_path, protocol)
    assert duplicates(annotations, detections, protocol) == {"share": 0.4, "count": 2, "detections": 5}


def test_repeats_that_are_neutral_do_not_count(tmp_path: Path) -> None:
    detections = rows((1, 0.9, CAT), (1, 0.8, CAT), (2, 0.5, DOG))
    annotations = animals(tmp_path, not_exhaustive_category_ids=[1])
    assert duplicates(annotations, detections, "lvis") == {"share": 0.0, "count": 0, "detections": 2}


def test_of_nothing_there_is_no_share(tmp_path: Path) -> None:
    assert duplicates(animals(tmp_path), rows(), "lvis") == {"share": None, "count": 0, "detections": 0}
    not_looked_for = rows((3, 0.9, CAT))
    assert duplicates(animals(tmp_path), not_looked_for, "lvis")["share"] is None


@pytest.mark.parametrize("protocol", BOTH)
def test_suppression_removes_what_costs_precision(tmp_path: Path, protocol: Protocol) -> None:
    # Dogs: right, repeated, right. Precision 1 up to recall 1/2 (51 of 101 thresholds), then 2/3; without the repeat 1.
    detections = rows((2, 0.9, DOG), (2, 0.8, DOG), (2, 0.7, FAR))
    annotations = animals(tmp_path, protocol)
    plain = evaluate(annotations, detections, protocol).metrics["AP"]
    assert plain == pytest.approx((51 + 50 * 2 / 3) / 101 / 2)  # cats have AP 0
    suppressed = diagnostics.evaluate_after_nms(annotations, detections, protocol)
    assert suppressed == {"AP": pytest.approx(0.5), "iou": 0.9, "removed": 1}


# ---- calibration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", BOTH)
def test_calibration_of_what_counts(tmp_path: Path, protocol: Protocol) -> None:
    # Right with 0.9, wrong with 0.5: gaps 0.1 and 0.5 of one detection each.
    detections = rows((1, 0.9, CAT), (1, 0.5, FAR))
    annotations = animals(tmp_path, protocol)
    made, figures = diagnostics.measure_calibration(detections, counted(annotations, detections, protocol))
    assert figures == {"ece": pytest.approx(0.3), "max_gap": pytest.approx(0.5), "bins": 15, "reason": None}
    assert made is not None
    assert made.count.sum() == 2


def test_neutral_detections_are_not_calibrated(tmp_path: Path) -> None:
    detections = rows((1, 0.9, CAT), (1, 0.5, FAR), (3, 0.2, FAR))
    annotations = animals(tmp_path, not_exhaustive_category_ids=[1])
    _, figures = diagnostics.measure_calibration(detections, counted(annotations, detections, "lvis"))
    assert figures["ece"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("score", "reason"), [(7.0, "scores from 7 to 7 are no probabilities"), (None, "no detection")]
)
def test_no_calibration_has_a_reason(tmp_path: Path, score: float | None, reason: str) -> None:
    detections = rows() if score is None else rows((1, score, CAT))
    made, figures = diagnostics.measure_calibration(detections, counted(animals(tmp_path), detections, "lvis"))
    assert (made, figures["ece"], figures["max_gap"]) == (None, None, None)
    assert reason in figures["reason"]


def test_a_detection_on_a_crowd_is_neutral(tmp_path: Path) -> None:
    objects = [annotation(1, 1, 1, *CAT), annotation(2, 1, 1, *FAR, iscrowd=1)]
    annotations = loaded(tmp_path, document([coco_image(1)], objects, [coco_category(1, "cat")]), "coco")
    detections = Detections.of([detection(1, 1, 0.9, *FAR), detection(1, 1, 0.8, *CAT), detection(1, 1, 0.7, *FAR)])
    assert counted(annotations, detections, "coco").rows.tolist() == [1]
    assert duplicates(annotations, detections, "coco") == {"share": 0.0, "count": 0, "detections": 1}


def test_the_diagnosis_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    annotations, detections = animals(tmp_path), rows((1, 0.9, CAT), (1, 0.8, CAT), (2, 0.5, NEAR_CAT))
    predicted = diagnostics.count_predicted(annotations, detections, "lvis")
    made = diagnostics.diagnose(annotations, detections, "lvis", evaluate(annotations, detections), predicted)
    assert made.generative["duplicates"]["count"] == 1
    assert made.generative["never_predicted"]["count"] == 0
    assert {name: row["count"] for name, row in made.errors.items() if row["count"]} == {
        "classification": 1,  # the dog on the cat
        "duplicate": 1,
        "missed": 2,  # dogs
    }
    assert made.reliability is not None


@pytest.mark.parametrize(("many", "orders"), [(10, 20), (1, 4)])
def test_a_large_set_has_fewer_tie_orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int, orders: int
) -> None:
    annotations = animals(tmp_path)
    detections = Detections.of([detection(1, 1, 0.9, 10, 10, 100, 100), detection(1, 1, 0.8, 10, 10, 100, 100)])
    monkeypatch.setattr(diagnostics, "MANY", many)
    evaluation = evaluate(annotations, detections)
    predicted = diagnostics.count_predicted(annotations, detections, "lvis")
    made = diagnostics.diagnose(annotations, detections, "lvis", evaluation, predicted)
    assert made.generative["constant_score_AP"]["orders"] == orders
