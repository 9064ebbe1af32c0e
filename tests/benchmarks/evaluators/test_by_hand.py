"""The rules of the three protocols, one by one, on sets small enough to be derived by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.evaluators.evaluator import list_figures, select_rows
from benchmarks.readers.annotations import Annotations
from harness.types import Box, Detections, Instance
from tests.benchmarks.documents import annotation, category, detection, document, image, loaded
from tests.benchmarks.evaluators.engines import BOX, FAR, both_coco_engines, both_engines, evaluate, two_cats

# ---- by hand -----------------------------------------------------------------------------------------------


@both_engines
def test_one_of_two_found_is_half_recall_at_full_precision(tmp_path: Path, engine: str) -> None:
    evaluation = evaluate(two_cats(tmp_path), [detection(1, 1, 0.9, *BOX)], engine)
    # Precision is 1 at the 51 recall thresholds 0, 0.01, ..., 0.50 and 0 at the other 50.
    assert evaluation.metrics["AP"] == pytest.approx(51 / 101, abs=1e-12)
    assert evaluation.metrics["AR@300"] == 0.5
    # 50 x 50 = 2,500 px: medium (32^2 to 96^2). The category is frequent; no other group is annotated.
    assert evaluation.metrics["APm"] == evaluation.metrics["APf"] == evaluation.metrics["AP"]
    undefined = {name for name, value in evaluation.metrics.items() if value is None}
    assert undefined == {"APs", "APl", "APr", "APc", "ARs@300", "ARl@300"}
    assert evaluation.per_category == {1: evaluation.metrics["AP"], 2: None, 3: None}


@both_engines
def test_sizes_are_those_of_the_mask(tmp_path: Path, engine: str) -> None:
    content = document([image(1)], [annotation(1, 1, 1, *BOX, area=1000)], [category(1, "cat")])
    metrics = evaluate(loaded(tmp_path, content), [detection(1, 1, 0.9, *BOX)], engine).metrics
    assert metrics["APs"] == pytest.approx(1.0)  # 1,000 < 32^2 < 2,500
    assert metrics["APm"] is None


@both_engines
def test_no_detections_is_ap_0_and_not_an_error(tmp_path: Path, engine: str) -> None:
    evaluation = evaluate(two_cats(tmp_path), [], engine)
    assert tuple(evaluation.metrics) == list_figures("lvis")
    assert {evaluation.metrics[name] for name in ("AP", "AP50", "AP75", "APm", "APf", "AR@300")} == {0.0}
    assert evaluation.per_category == {1: 0.0, 2: None, 3: None}


WRONG = (400.0, 10.0, 20.0, 20.0)


@both_engines
@pytest.mark.parametrize(
    ("federated", "wrong_category", "expected"),
    [
        # A wrong cat ranks first: precision at recall 1/2 and 1 is 1/2 and 2/3, interpolated 2/3 everywhere.
        ({}, 1, 2 / 3),
        # The cats are not annotated exhaustively: the unmatched one is neither right nor wrong.
        ({"not_exhaustive_category_ids": [1]}, 1, 1.0),
        # Nobody looked for dogs in this image, or did and found none: dogs have no ground truth either way.
        ({}, 2, 1.0),
        ({"neg_category_ids": [2]}, 2, 1.0),
    ],
)
def test_federated_rules(
    tmp_path: Path, engine: str, federated: dict[str, list[int]], wrong_category: int, expected: float
) -> None:
    detected = [detection(1, 1, 0.8, *BOX), detection(1, 1, 0.7, *FAR)]
    detections = [detection(1, wrong_category, 0.9, *WRONG), *detected]
    evaluation = evaluate(two_cats(tmp_path, **federated), detections, engine)
    assert evaluation.metrics["AP"] == pytest.approx(expected, abs=1e-12)


@both_engines
@pytest.mark.parametrize(("negative", "expected"), [([], 1.0), ([1], 0.5)])
def test_a_negative_category_counts_against_its_ap(
    tmp_path: Path, engine: str, negative: list[int], expected: float
) -> None:
    content = document(
        [image(1), image(2, neg_category_ids=negative)], [annotation(1, 1, 1, *BOX)], [category(1, "cat")]
    )
    detections = [detection(1, 1, 0.5, *BOX), detection(2, 1, 0.9, *BOX)]  # the second image has no cat
    evaluation = evaluate(loaded(tmp_path, content), detections, engine)
    assert evaluation.metrics["AP"] == pytest.approx(expected, abs=1e-12)


@both_engines
@pytest.mark.parametrize(("empty", "expected"), [(299, 1.0), (300, 0.0)])
def test_boxes_of_area_0_use_up_the_300(tmp_path: Path, engine: str, empty: int, expected: float) -> None:
    content = document([image(1)], [annotation(1, 1, 1, *BOX)], [category(1, "cat")])
    nothing = [detection(1, 1, 0.9, 5, 5, 0, 10)] * empty
    evaluation = evaluate(loaded(tmp_path, content), [*nothing, detection(1, 1, 0.5, *BOX)], engine)
    assert evaluation.metrics["AP"] == pytest.approx(expected, abs=1e-12)


@both_engines
@pytest.mark.parametrize(("before", "expected"), [(299, 1.0), (300, 0.0)])
def test_of_equal_scores_the_earlier_is_kept(tmp_path: Path, engine: str, before: int, expected: float) -> None:
    content = document([image(1)], [annotation(1, 1, 1, *BOX)], [category(1, "cat"), category(2, "dog")])
    dogs = [detection(1, 2, 0.5, *FAR)] * before  # dogs are not annotated: they only use up the budget
    detections = [*dogs, detection(1, 1, 0.5, *BOX), *dogs]
    evaluation = evaluate(loaded(tmp_path, content), detections, engine)
    assert evaluation.metrics["AP"] == pytest.approx(expected, abs=1e-12)


@both_engines
def test_annotated_objects_of_area_0_do_not_count(tmp_path: Path, engine: str) -> None:
    content = document(
        [image(1)],
        [annotation(1, 1, 1, *BOX), annotation(2, 1, 1, 9, 9, 0, 9), annotation(3, 1, 2, *FAR, area=0)],
        [category(1, "cat"), category(2, "dog")],
    )
    evaluation = evaluate(loaded(tmp_path, content), [detection(1, 1, 0.5, *BOX)], engine)
    assert evaluation.per_category == {1: pytest.approx(1.0, abs=1e-12), 2: None}


# ---- AP-fixed and COCO by hand -----------------------------------------------------------------------------------


@both_engines
def test_ap_fixed_has_no_cap_per_image(tmp_path: Path, engine: str) -> None:
    content = document([image(1)], [annotation(1, 1, 1, *BOX)], [category(1, "cat"), category(2, "dog")])
    detections = [*[detection(1, 2, 0.9, *FAR)] * 300, *[detection(1, 1, 0.9, *FAR)] * 300, detection(1, 1, 0.5, *BOX)]
    annotations = loaded(tmp_path, content)
    assert evaluate(annotations, detections, engine, "lvis").metrics["AP"] == 0.0
    # 300 wrong cats rank before the right one, whose precision is 1/301 at every recall threshold.
    fixed = evaluate(annotations, detections, engine, "lvis-fixed")
    assert fixed.metrics["AP"] == pytest.approx(1 / 301, abs=1e-12)
    assert fixed.metrics["AR"] == 1.0
    assert tuple(fixed.metrics) == list_figures("lvis-fixed")


def test_ap_fixed_keeps_10000_of_a_category_over_all_images(tmp_path: Path) -> None:
    annotations = loaded(tmp_path, document([image(1), image(2)], [], [category(1, "cat"), category(2, "dog")]))
    n = 10_001  # cats, in both images; one dog after them
    ids = np.arange(n + 1) % 2 + 1, np.array([1] * n + [2])
    scores = np.full(n + 1, 0.5)
    tied = Detections(*ids, np.ones((n + 1, 4)), scores)
    assert select_rows(annotations, tied, "lvis-fixed").tolist() == [*range(n - 1), n]  # the last cat goes
    scores[0] = 0.4
    assert select_rows(annotations, tied, "lvis-fixed").tolist() == list(range(1, n + 1))  # the worst cat goes


def coco(folder: Path, *objects: tuple[float, ...], crowd: tuple[float, ...] = ()) -> Annotations:
    """One image with cats at `objects` and, if given, one crowd of cats."""
    records = [annotation(k, 1, 1, *box) for k, box in enumerate(objects, start=1)]
    content = document([image(1)], records, [category(1, "cat"), category(2, "dog")])
    annotations = loaded(folder, content)
    if not crowd:
        return annotations
    return replace(
        annotations,
        areas={**annotations.areas, 99: crowd[2] * crowd[3]},
        crowds={1: (Instance(99, 1, Box(*crowd)),)},
    )


@both_coco_engines
def test_coco_counts_every_category_of_every_image(tmp_path: Path, engine: str) -> None:
    """Federated fields mean nothing here: a wrong dog costs, though nobody looked for dogs."""
    content = document(
        [image(1, not_exhaustive_category_ids=[1]), image(2)],
        [annotation(1, 1, 1, *BOX)],
        [category(1, "cat"), category(2, "dog")],
    )
    detections = [detection(2, 1, 0.9, *FAR), detection(1, 1, 0.8, *FAR), detection(1, 1, 0.7, *BOX)]
    evaluation = evaluate(loaded(tmp_path, content), detections, engine, "coco")
    assert tuple(evaluation.metrics) == list_figures("coco")
    assert evaluation.metrics["AP"] == pytest.approx(1 / 3, abs=1e-12)  # third of three
    assert evaluation.metrics["AR@1"] == 0.0  # in its image it is the second
    assert evaluation.metrics["AR@10"] == 1.0
    assert evaluation.per_category == {1: evaluation.metrics["AP"], 2: None}


@both_coco_engines
def test_detections_in_a_crowd_are_neither_right_nor_wrong(tmp_path: Path, engine: str) -> None:
    # The crowd covers 200 x 200 px. Two detections of 50 x 50 inside it: intersection over their own area is 1 (the
    # IoU is 1/16), and both are left out, as a crowd is never used up. One half outside is left out up to 0.5 only.
    crowd = (200.0, 200.0, 200.0, 200.0)
    detected = detection(1, 1, 0.5, *BOX)
    inside = [detection(1, 1, 0.9, 220, 220, 50, 50), detection(1, 1, 0.8, 220, 220, 50, 50)]
    halfway = detection(1, 1, 0.9, 375, 220, 50, 50)
    annotations = coco(tmp_path, BOX, crowd=crowd)
    assert evaluate(annotations, [*inside, detected], engine, "coco").metrics["AP"] == pytest.approx(1.0, abs=1e-12)
    metrics = evaluate(annotations, [halfway, detected], engine, "coco").metrics
    assert metrics["AP50"] == pytest.approx(1.0, abs=1e-12)
    assert metrics["AP75"] == pytest.approx(0.5, abs=1e-12)
    alone = evaluate(coco(tmp_path, BOX), [*inside, detected], engine, "coco")
    assert alone.metrics["AP"] == pytest.approx(1 / 3, abs=1e-12)


@both_coco_engines
def test_an_object_is_preferred_to_a_crowd(tmp_path: Path, engine: str) -> None:
    # IoU with the object is 0.5, with the crowd around both 1: the detection is right at 0.5, left out above.
    annotations = coco(tmp_path, (0.0, 0.0, 50.0, 100.0), crowd=(0.0, 0.0, 300.0, 300.0))
    metrics = evaluate(annotations, [detection(1, 1, 0.9, 0, 0, 100, 100)], engine, "coco").metrics
    assert metrics["AP50"] == pytest.approx(1.0, abs=1e-12)
    assert metrics["AP75"] == 0.0


@both_coco_engines
@pytest.mark.parametrize(("before", "expected"), [(99, 1 / 100), (100, 0.0)])
def test_coco_takes_100_of_an_image_and_category(tmp_path: Path, engine: str, before: int, expected: float) -> None:
    wrong = [detection(1, 1, 0.5, *FAR)] * before
    dogs = [detection(1, 2, 0.9, *FAR)] * 100  # use up nothing
    detections = [*dogs, *wrong, detection(1, 1, 0.5, *BOX), *wrong]
    evaluation = evaluate(coco(tmp_path, BOX), detections, engine, "coco")
    assert evaluation.metrics["AP"] == pytest.approx(expected, abs=1e-12)


@both_coco_engines
def test_coco_counts_boxes_without_area(tmp_path: Path, engine: str) -> None:
    # The empty object cannot be found: recall 1/2. The empty detection ranks first and is wrong: precision 1/2.
    annotations = coco(tmp_path, BOX, (5.0, 5.0, 0.0, 10.0))
    detections = [detection(1, 1, 0.9, 5, 5, 0, 10), detection(1, 1, 0.5, *BOX)]
    evaluation = evaluate(annotations, detections, engine, "coco")
    assert evaluation.metrics["AP"] == pytest.approx(51 / 101 / 2, abs=1e-12)
    assert evaluation.metrics["AR@100"] == 0.5


@both_coco_engines
def test_coco_without_detections(tmp_path: Path, engine: str) -> None:
    evaluation = evaluate(coco(tmp_path, BOX), [], engine, "coco")
    assert evaluation.per_category == {1: 0.0, 2: None}
    assert {evaluation.metrics[name] for name in ("AP", "AP50", "APm", "AR@1", "AR@100", "ARm@100")} == {0.0}
    assert evaluation.metrics["APs"] is evaluation.metrics["ARl@100"] is None
