"""Ranked detections -> interpolated precision, under many image weightings at once.

Shape legend: I images, R weightings, T IoU thresholds, n detections, m (image, category) pairs with ground truth,
e events of a category, k those of them that are true positives at one threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from harness.metrics.detection.greedy_matching import BIT
from harness.metrics.detection.rules import RECALL_THRESHOLDS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

WIDE = 100
"""Weightings from which on whole rows are handled at a time."""


@dataclass(frozen=True, slots=True)
class Matches:
    """The detections that count, sorted by category and then as the official APIs rank them; ground truths.

    detection        [n] int64, row of the detections given to `match`
    image, category  [n] int64, indices into the examples and categories given to `match`
    score            [n] float64
    true_positive    [n] uint16: bit t is set where the detection is matched at IOU_THRESHOLDS[t]
    ignored          [n] bool: wherever it is unmatched it is left out instead of being a false positive, as its
                     category is not annotated exhaustively in its image or it is not of the size in question
    gt_image, gt_category, gt_count  [m] int64: number of ground truths that count per image and category
    left_out         [n] uint16: bit t is set where the detection is matched to a ground truth that does not
                     count (a crowd region, another size); it is then neither right nor wrong. None: nowhere
    """

    n_images: int
    detection: Integers
    image: Integers
    category: Integers
    score: Floats
    true_positive: NDArray[np.uint16]
    ignored: Booleans
    gt_image: Integers
    gt_category: Integers
    gt_count: Integers
    left_out: NDArray[np.uint16] | None = None


@dataclass(frozen=True, slots=True)
class Events:
    """The detections of one category that are matched at some threshold, by rank, and what lies between them.

    The precision envelope needs the counts at true positives only. All others are false positives at every
    threshold or at none, so that their running sums are the same for all thresholds.

    image          [e] int64, of the event
    true_positive  [e, T] bool
    counted        [e, T] bool: true or false positive, not left out
    others         [e, I] sparse: how many unmatched detections of an image rank after the event before this one
                   and before this one
    """

    image: Integers
    true_positive: Booleans
    counted: Booleans
    others: csr_array


def events_by_category(matches: Matches) -> Iterator[tuple[int, Events]]:
    """(category index, its events) for every category with events."""
    left_out = np.zeros_like(matches.true_positive) if matches.left_out is None else matches.left_out
    is_event = (matches.true_positive | left_out) > 0
    events = np.flatnonzero(is_event)
    true_positive = (matches.true_positive[events, None] & BIT) > 0  # [events, T]
    open_ended = (left_out[events, None] & BIT > 0) | matches.ignored[events, None]
    counted = true_positive | ~open_ended
    others = _between(matches, is_event)
    categories, starts = np.unique(matches.category[events], return_index=True)
    bounds = np.append(starts, len(events))
    for c, start, stop in zip(categories, bounds[:-1], bounds[1:], strict=True):
        own = slice(start, stop)
        yield int(c), Events(matches.image[events[own]], true_positive[own], counted[own], others[own])


def precision(events: Events, drawn: Floats, n_gt: Floats) -> Floats:
    """Average precision at each threshold, [T, R]: the mean over 101 recall thresholds; nan where n_gt is 0.

    drawn [I, R] and n_gt [R] are whole numbers: how often each image counts, and the weighted ground truths.
    """
    own = drawn[events.image]  # [e, R]
    others = running(np.add, events.others @ drawn)
    recall = _Recall.of(n_gt, most=int(own.sum(axis=0).max()))

    @cache  # by mask: neighbouring thresholds often agree
    def total(mask: bytes) -> Floats:
        return running(np.add, own[np.frombuffer(mask, dtype=np.bool_)])

    @cache
    def at_threshold(tp_mask: bytes, counted_mask: bytes) -> Floats:
        tp, counted = (np.frombuffer(mask, dtype=np.bool_) for mask in (tp_mask, counted_mask))
        detections = total(counted_mask)[tp[counted]] + others[tp]
        return _interpolated(total(tp_mask), detections, recall)

    masks = zip(events.true_positive.T, events.counted.T, strict=True)
    values = np.stack([at_threshold(tp.tobytes(), counted.tobytes()) for tp, counted in masks])
    return np.where(n_gt > 0, values, np.nan)


def _between(matches: Matches, is_event: Booleans) -> csr_array:
    """`Events.others` of all events of all categories, [events, I]."""
    events = np.flatnonzero(is_event)
    row = np.flatnonzero(~is_event & ~matches.ignored)
    follower = np.searchsorted(events, row)
    inside = follower < len(events)
    row, follower = row[inside], follower[inside]
    same = matches.category[row] == matches.category[events[follower]]
    row, follower = row[same], follower[same]
    shape = (len(events), matches.n_images)
    return csr_array((np.ones(len(row)), (follower, matches.image[row])), shape=shape)


def interpolate_precision(hits: Floats, detections: Floats, n_gt: Floats) -> Floats:
    """Average precision [R] from running counts [k, R] at the k true positives: of them, and of all detections.

    n_gt [R]: ground truths, more than 0. The mean over 101 recall thresholds, 0 beyond the recall that is reached.
    """
    return _interpolated(hits, detections, _Recall.of(n_gt, most=len(hits)))


@dataclass(frozen=True, slots=True)
class _Recall:
    """How many recall thresholds h hits reach: `passed[row[r] + h]` for the ground truths of weighting r.

    row [R] int64; passed [different numbers of ground truths x possible hits] float64. There are few, and searching
    for every true positive takes ten times as long.
    """

    row: Integers
    passed: Floats

    @classmethod
    def of(cls, n_gt: Floats, most: int) -> _Recall:
        n, which = np.unique(n_gt, return_inverse=True)
        recall = np.arange(most + 1) / np.maximum(n, 1)[:, None]
        return cls(which * (most + 1), np.searchsorted(RECALL_THRESHOLDS, recall.ravel(), side="right").astype(float))


def _interpolated(hits: Floats, detections: Floats, recall: _Recall) -> Floats:
    """101-point interpolated precision [R] from the running counts [k, R] at the true positives.

    Instead of looking up the precision at every recall threshold, give each true positive the thresholds that
    it is the first to reach. Other detections reach none, and precision only falls there, so they are left out of
    the envelope too.
    """
    if not len(hits):
        return np.zeros(hits.shape[1])
    passed = recall.passed[recall.row + hits.astype(np.int64)]
    envelope = running(np.maximum, (hits / (detections + np.spacing(1)))[::-1])[::-1]
    reached = np.diff(passed, axis=0, prepend=0.0)
    return column_sums(envelope * reached) / len(RECALL_THRESHOLDS)


def running(operation: np.ufunc, values: Floats) -> Floats:
    """`operation.accumulate(values, axis=0)` of values [k, R], which may be overwritten.

    NumPy goes column by column; row by row takes a quarter of the time where rows are long.
    """
    if values.shape[1] < WIDE:
        return np.asarray(operation.accumulate(values, axis=0))
    for before, row in pairwise(values):
        operation(before, row, out=row)
    return values


def column_sums(values: Floats) -> Floats:
    """[k, R] -> [R], adding row after row whatever R is (np.sum rounds differently for a single column)."""
    return values.sum(axis=0) if values.shape[1] >= WIDE else np.asarray(np.cumsum(values, axis=0)[-1])
