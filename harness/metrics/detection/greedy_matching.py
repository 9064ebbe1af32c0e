"""Matches detections to ground truths one to one, greedily as LVIS and COCO do, for all images, categories, sizes and
thresholds at once.

Shape legend: n detections, g ground truths, p pairs of the two with enough overlap, S sizes, T IoU thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics.detection.rules import IOU_THRESHOLDS
from harness.metrics.samples.matching import box_iou

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Bits = NDArray[np.uint16]

LIMITS = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
"""[T]. The official evaluators lower a threshold of 1 so; ours end at 0.95."""

BIT = (1 << np.arange(len(LIMITS))).astype(np.uint16)

CHUNK = 250_000
"""Pairs that are processed at a time: with S = 4 about 80 MB."""


@dataclass(frozen=True, slots=True)
class Truths:
    """Ground truths sorted by group; within a group in the order of the file.

    group [g] int64, boxes [g, 4] float64, crowd [g] bool, ignored [g, S] bool
    """

    group: Integers
    boxes: Floats
    crowd: Booleans
    ignored: Booleans


def match_groups(group: Integers, boxes: Floats, truths: Truths) -> tuple[Bits, Bits]:
    """Returns which detections are matched to a ground truth that counts, and which to an ignored one, each [n, S]
    with bit t for threshold t.

    group [n] ascending, boxes [n, 4]; within a group by descending score. A group is an image and category. In
    each group the detections choose in turn: the free ground truth of highest IoU >= threshold, the last one of
    equals; one that counts before any ignored one. A crowd region is never used up, and its IoU is the
    intersection over the area of the detection.
    """
    result = np.zeros((2, len(group), truths.ignored.shape[1]), dtype=np.uint16)
    free = np.ones((*truths.ignored.shape, len(LIMITS)), dtype=np.bool_)  # [g, S, T]
    for detection, truth in _candidates(group, truths.group):
        iou = box_iou(boxes[detection], truths.boxes[truth], truths.crowd[truth])
        near = iou >= LIMITS[0]
        _match_pairs(iou[near], detection[near], truth[near], group, truths, free, result)
    return result[0], result[1]


def _candidates(group: Integers, truth_group: Integers) -> Iterator[tuple[Integers, Integers]]:
    """Yields all pairs (detection, ground truth) [p] of the same group, about CHUNK at a time, never splitting a
    group."""
    first = np.searchsorted(truth_group, group)
    count = np.searchsorted(truth_group, group, side="right") - first
    chunk = (np.cumsum(count) - count) // CHUNK
    chunk = chunk[np.searchsorted(group, group)]  # that of the group's first detection
    for rows in np.split(np.arange(len(group)), np.flatnonzero(np.diff(chunk)) + 1):
        detection = np.repeat(rows, count[rows])
        within = np.arange(len(detection)) - np.repeat(np.cumsum(count[rows]) - count[rows], count[rows])
        yield detection, first[detection] + within


def _match_pairs(
    iou: Floats,
    detection: Integers,
    truth: Integers,
    group: Integers,
    truths: Truths,
    free: Booleans,
    result: Bits,
) -> None:
    """Chooses greedily among pairs [p] sorted by detection; updates `free` [g, S, T] and `result` [2, n, S].

    Groups are independent, so the r-th detection of every group chooses at the same time.
    """
    by_rank = np.lexsort((truth, iou))
    preference = np.empty(len(iou), dtype=np.int64)
    preference[by_rank] = np.arange(len(iou))  # higher is better; of equal IoU the later ground truth
    turn = _turns(detection, group)
    order = np.argsort(turn, kind="stable")
    for pairs in np.split(order, np.flatnonzero(np.diff(turn[order])) + 1):
        chooser, start = np.unique(detection[pairs], return_index=True)
        if not len(chooser):
            continue
        objects = truth[pairs]
        counts = ~truths.ignored[objects]  # [p, S]
        allowed = free[objects] & (iou[pairs, None] >= LIMITS)[:, None, :]  # [p, S, T]
        value = np.where(allowed, (preference[pairs, None] + counts * len(iou))[:, :, None], -1)
        best = np.maximum.reduceat(value, start, axis=0)  # [choosers, S, T]
        result[0][chooser] = (best >= len(iou)) @ BIT
        result[1][chooser] = ((best >= 0) & (best < len(iou))) @ BIT
        row, size, threshold = np.nonzero(best >= 0)
        taken = truth[by_rank[best[row, size, threshold] % len(iou)]]
        used_up = ~truths.crowd[taken]
        free[taken[used_up], size[used_up], threshold[used_up]] = False


def _turns(detection: Integers, group: Integers) -> Integers:
    """Counts, for each pair [p], the detections of its group with a pair that come before its own detection."""
    chooser, pair_of = np.unique(detection, return_inverse=True)
    groups = group[chooser]
    turn = np.arange(len(chooser)) - np.searchsorted(groups, groups)
    return np.asarray(turn[pair_of], dtype=np.int64)
