"""Finds detections that repeat others, by their overlap with annotated objects and by class-wise non-maximum
suppression.

Shape legend: n detections; boxes are `x, y, w, h` in pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.detection.rules import GroundTruth, compute_areas, make_regular
from harness.metrics.samples.matching import box_iou, iou_matrix
from harness.types import Detections

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NMS_IOU = 0.9
"""IoU between boxes of one category above which the lower score is suppressed: few different objects overlap so much.
"""


SLACK = 1e-3
"""Slack in the logarithm of a ratio of areas: rounding may let an IoU exceed the ratio."""
CHUNK = 50_000
"""Boxes that are compared with others at a time."""


def non_maximum_suppression(detections: Detections, threshold: float = NMS_IOU) -> Integers:
    """Returns the rows that greedy class-wise non-maximum suppression keeps, ascending.

    Within an image and category, by descending score (of equal scores the earlier row first), a detection is
    kept unless its IoU with one that is already kept is above `threshold`. A box without area overlaps
    nothing (see `box_iou`), so it is kept.
    """
    order = np.lexsort((-detections.scores, detections.category_id, detections.image_id))  # stable
    boxes = make_regular(detections.boxes[order])
    keys = np.stack([detections.image_id[order], detections.category_id[order]])
    group = np.concatenate([[0], np.cumsum((keys[:, 1:] != keys[:, :-1]).any(axis=0))])[: len(order)]
    suppressed = np.zeros(len(order), dtype=np.bool_)
    for better, worse in _close_pairs(group, boxes, threshold).tolist():
        if not suppressed[better]:
            suppressed[worse] = True
    return np.sort(order[~suppressed])


def best_overlap(detections: Detections, truth: GroundTruth) -> Floats:
    """Computes the largest IoU of each detection with an object of its category in its image, [n]; 0 where there is
    none.

    Crowd regions do not count as objects.
    """
    counting = np.flatnonzero(~truth.crowd)
    objects = _groups(truth.image_id[counting], truth.category_id[counting], truth.id[counting])
    detected = _groups(detections.image_id, detections.category_id, -detections.scores)
    best, boxes = np.zeros(len(detections)), make_regular(detections.boxes)
    for pair in detected.keys() & objects.keys():
        best[detected[pair]] = iou_matrix(boxes[detected[pair]], truth.boxes[counting[objects[pair]]]).max(axis=1)
    return best


def _groups(image_id: Integers, category_id: Integers, rank: NDArray[Any]) -> dict[tuple[int, int], Integers]:
    """Groups rows by image and category, each by ascending rank (of equals the earlier row first)."""
    order = np.lexsort((rank, category_id, image_id))
    keys = np.stack([image_id[order], category_id[order]])
    starts = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
    groups = (rows for rows in np.split(order, starts) if len(rows))
    return {(int(image_id[rows[0]]), int(category_id[rows[0]])): rows for rows in groups}


def _close_pairs(group: Integers, boxes: Floats, threshold: float) -> Integers:
    """Finds pairs [p, 2] of boxes of one group with an IoU above the threshold, the earlier box first, ascending.

    An IoU is at most the ratio of the two areas, so boxes are sorted by area and only those within that ratio are
    compared. group [n] ascending; boxes [n, 4].
    """
    area = compute_areas(boxes)
    rows = np.flatnonzero((area > 0) & (area < np.inf))
    size = np.log(area[rows])
    rows = rows[np.lexsort((size, group[rows]))]
    size = np.log(area[rows])
    stop = np.searchsorted(group[rows], group[rows], side="right")
    reach = _count_within(group[rows], size, -np.log(max(threshold, 1e-300)) + SLACK)
    count = np.minimum(np.arange(len(rows)) + reach, stop - 1) - np.arange(len(rows))
    pairs = []
    for part in np.array_split(np.arange(len(rows)), len(rows) // CHUNK + 1):
        first = np.repeat(part, count[part])
        second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(count[part]) - count[part], count[part])
        near = box_iou(boxes[rows[first]], boxes[rows[second]]) > threshold
        pairs.append(np.sort(np.stack([rows[first[near]], rows[second[near]]], axis=1), axis=1))
    close = np.concatenate(pairs)
    return close[np.lexsort((close[:, 1], close[:, 0]))]


def _count_within(group: Integers, size: Floats, span: float) -> Integers:
    """Counts for each box [n] the following ones of its group that are larger by at most `span`; sorted by group and
    size."""
    if not len(size):
        return np.zeros(0, dtype=np.int64)
    width = float(size.max() - size.min()) + span + 1.0
    place = group * width + (size - size.min())
    return np.asarray(np.searchsorted(place, place + span, side="right") - 1 - np.arange(len(size)))
