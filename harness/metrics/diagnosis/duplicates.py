"""Detections that repeat others: overlap with what is annotated, and class-wise non-maximum suppression.

Shape legend: n detections; boxes are `x, y, w, h` in pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.detection.rules import GroundTruth, make_regular
from harness.metrics.samples.matching import iou_matrix
from harness.types import Detections

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NMS_IOU = 0.9
"""Between boxes of one category: few different objects overlap so much."""


def non_maximum_suppression(detections: Detections, threshold: float = NMS_IOU) -> Integers:
    """Rows that greedy class-wise non-maximum suppression keeps, ascending.

    Within an image and category, by descending score (of equal scores the earlier row first), a detection is
    kept unless its IoU with one that is already kept is above `threshold`. A box without area overlaps
    nothing (see `box_iou`), so it is kept.
    """
    suppressed = np.zeros(len(detections), dtype=np.bool_)
    boxes = make_regular(detections.boxes)
    for rows in _groups(detections.image_id, detections.category_id, -detections.scores).values():
        if len(rows) > 1:
            suppressed[rows] = _suppressed(boxes[rows], threshold)
    return np.flatnonzero(~suppressed)


def best_overlap(detections: Detections, truth: GroundTruth) -> Floats:
    """Largest IoU of each detection with an object of its category in its image, [n]; 0 where there is none.

    Crowd regions are no objects.
    """
    own = np.flatnonzero(~truth.crowd)
    objects = _groups(truth.image_id[own], truth.category_id[own], truth.id[own])
    found = _groups(detections.image_id, detections.category_id, -detections.scores)
    best, boxes = np.zeros(len(detections)), make_regular(detections.boxes)
    for pair in found.keys() & objects.keys():
        best[found[pair]] = iou_matrix(boxes[found[pair]], truth.boxes[own[objects[pair]]]).max(axis=1)
    return best


def _groups(image_id: Integers, category_id: Integers, rank: NDArray[Any]) -> dict[tuple[int, int], Integers]:
    """The rows of each image and category, by ascending rank (of equals the earlier row first)."""
    order = np.lexsort((rank, category_id, image_id))
    keys = np.stack([image_id[order], category_id[order]])
    starts = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
    groups = (rows for rows in np.split(order, starts) if len(rows))
    return {(int(image_id[rows[0]]), int(category_id[rows[0]])): rows for rows in groups}


def _suppressed(boxes: Floats, threshold: float) -> NDArray[np.bool_]:
    """Which boxes [n, 4], best first, are too close to a better one that is kept; [n]."""
    close = np.triu(iou_matrix(boxes, boxes) > threshold, k=1)
    suppressed = np.zeros(len(boxes), dtype=np.bool_)
    for row in np.flatnonzero(close.any(axis=1)):
        if not suppressed[row]:
            suppressed |= close[row]
    return suppressed
