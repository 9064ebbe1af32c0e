"""Class-wise non-maximum suppression by hand, against the rule as a loop, and its invariants."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics.detection.rules import ground_truth
from harness.metrics.diagnosis.duplicates import best_overlap, non_maximum_suppression
from harness.metrics.samples.matching import iou_matrix
from harness.types import Box, Detection, Detections, Example, Instance

# A long box, shifted along its length L = 100 by d, has IoU (100 - d) / (100 + d) with itself:
# d = 5: 0.905 (above 0.9), d = 6: 0.887, d = 10: 0.818.
LENGTH = 100.0


def shifted(d: float, score: float, image_id: int = 1, category_id: int = 1) -> Detection:
    return Detection(image_id, category_id, Box(d, 0, LENGTH, 10), score)


def rows_left(*detections: Detection, threshold: float = 0.9) -> list[int]:
    return list(map(int, non_maximum_suppression(Detections.of(detections), threshold)))


def test_the_better_of_two_close_boxes_stays() -> None:
    assert rows_left(shifted(0, 0.5), shifted(5, 0.6), shifted(20, 0.1)) == [1, 2]
    assert rows_left(shifted(0, 0.5), shifted(6, 0.6)) == [0, 1]


def test_a_suppressed_box_suppresses_none() -> None:
    # 5 is close to 0 and 10 is close to 5, but 10 is not close to 0.
    assert rows_left(shifted(0, 0.9), shifted(5, 0.8), shifted(10, 0.7)) == [0, 2]


def test_of_equal_scores_the_earlier_stays() -> None:
    assert rows_left(shifted(0, 0.5), shifted(1, 0.5)) == [0]


def test_other_images_and_categories_are_apart() -> None:
    assert rows_left(shifted(0, 0.5), shifted(0, 0.6, image_id=2), shifted(0, 0.7, category_id=2)) == [0, 1, 2]


def test_at_the_threshold_both_stay() -> None:
    wide, half = Detection(1, 1, Box(0, 0, 10, 10), 0.9), Detection(1, 1, Box(0, 0, 5, 10), 0.8)
    assert rows_left(wide, half, threshold=0.5) == [0, 1]
    assert rows_left(wide, half, threshold=0.4999) == [0]


def test_no_detections_and_boxes_without_area() -> None:
    assert rows_left() == []
    empty = Detection(1, 1, Box(3, 3, 0, 5), 0.5)
    assert rows_left(empty, empty) == [0, 1]


rows = st.builds(
    Detection,
    st.integers(1, 2),
    st.integers(1, 2),
    st.builds(Box, *[st.integers(0, 3).map(float)] * 2, *[st.integers(0, 8).map(float)] * 2),
    st.integers(0, 4).map(lambda n: n / 4),
)
sets = st.lists(rows, max_size=25)
thresholds = st.sampled_from([0.3, 0.5, 0.9])


def brute_force(detections: list[Detection], threshold: float) -> list[int]:
    """The rule as it is told: row after row, best first, against everything that is kept."""
    rows: list[int] = []
    for index in sorted(range(len(detections)), key=lambda i: -detections[i].score):
        a = detections[index]
        same = (detections[i] for i in rows)
        if not any((a.image_id, a.category_id) == (b.image_id, b.category_id) and iou(a, b) > threshold for b in same):
            rows.append(index)
    return sorted(rows)


def iou(a: Detection, b: Detection) -> float:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.box.corners, b.box.corners
    shared = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
    return shared / (a.box.w * a.box.h + b.box.w * b.box.h - shared) if shared else 0.0


@settings(max_examples=60)
@given(sets, thresholds)
def test_equals_the_rule_as_a_loop(detections: list[Detection], threshold: float) -> None:
    assert rows_left(*detections, threshold=threshold) == brute_force(detections, threshold)


@settings(max_examples=30)
@given(sets, thresholds)
def test_idempotent_and_nothing_close_is_left(detections: list[Detection], threshold: float) -> None:
    left = [detections[row] for row in rows_left(*detections, threshold=threshold)]
    assert rows_left(*left, threshold=threshold) == list(range(len(left)))
    for a in left:
        same = [b for b in left if (a.image_id, a.category_id) == (b.image_id, b.category_id) and a is not b]
        boxes = Detections.of([a, *same]).boxes
        assert (iou_matrix(boxes[:1], boxes[1:]) <= threshold).all()


def test_best_overlap_is_with_an_object_of_the_own_category_and_image() -> None:
    # IoU of the boxes shifted by 50 is 50 / 150. The crowd region lies exactly on the last detection.
    image = Example(1, Path(), 640, 480, tuple(Instance(k, 1, Box(50 * k, 0, LENGTH, 10)) for k in (0, 1)))
    other = Example(2, Path(), 640, 480, ())
    crowds = {2: (Instance(2, 1, Box(0, 0, LENGTH, 10)),)}
    truth = ground_truth([image, other], "coco", crowds=crowds)
    detections = [shifted(0, 0.9), shifted(100, 0.8), shifted(0, 0.7, category_id=2), shifted(0, 0.7, image_id=2)]
    assert best_overlap(Detections.of(detections), truth) == pytest.approx([1, 1 / 3, 0, 0])
    assert best_overlap(Detections.of([]), truth).shape == (0,)
    assert best_overlap(Detections.of(detections), ground_truth([], "coco")).tolist() == [0] * 4
