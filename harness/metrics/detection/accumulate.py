"""Turns ranked detections into interpolated precision, under many image weightings at once.

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

ROWS = 256
"""Rows of an envelope that are processed at a time: their intermediate results stay in the cache."""
WIDE = 100
"""Number of weightings from which on whole rows are processed at a time."""


@dataclass(frozen=True, slots=True)
class Matches:
    """The detections that count, sorted by category and then as the official APIs rank them, and the ground truths.

    detection        [n] int64, row of the detections given to `match`
    image, category  [n] int64, indices into the examples and categories given to `match`
    score            [n] float64
    true_positive    [n] uint16: bit t is set where the detection is matched at IOU_THRESHOLDS[t]
    ignored          [n] bool: where unmatched it is left out instead of being a false positive, because its
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
    """Yields (category index, its events) for every category with events."""
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
        rows = slice(start, stop)
        yield int(c), Events(matches.image[events[rows]], true_positive[rows], counted[rows], others[rows])


def precision(events: Events, drawn: Floats, n_gt: Floats) -> Floats:
    """Computes average precision at each threshold, [T, R]: the mean over 101 recall thresholds; nan where n_gt is 0.

    drawn [I, R] and n_gt [R] are whole numbers: how often each image counts, and the weighted ground truths.
    """
    weights = drawn[events.image]  # [e, R]
    others = running(np.add, events.others @ drawn)
    between = events.others.indptr[1:] > events.others.indptr[:-1]  # [e]: whether others rank between two events
    sweep = _Sweep(weights, n_gt)

    @cache  # by mask: neighbouring thresholds often agree
    def detections(mask: bytes) -> Floats:
        """Sums the detections that count up to each event, [e, R]; never 0, by the official guard against 0 / 0."""
        every = weights.copy()
        every[~np.frombuffer(mask, dtype=np.bool_)] = 0
        total = running(np.add, every)
        total += others
        total += np.spacing(1)
        return total

    @cache
    def at_threshold(tp_mask: bytes, counted_mask: bytes) -> Floats:
        tp, counted = (np.frombuffer(mask, dtype=np.bool_) for mask in (tp_mask, counted_mask))
        # It grows where a false positive may stand.
        false_before = np.cumsum(((counted & ~tp) | between).astype(np.int64))
        return sweep.average(np.flatnonzero(tp), false_before, detections(counted_mask))

    masks = zip(events.true_positive.T, events.counted.T, strict=True)
    values = np.stack([at_threshold(tp.tobytes(), counted.tobytes()) for tp, counted in masks])
    return np.where(n_gt > 0, values, np.nan)


def _between(matches: Matches, is_event: Booleans) -> csr_array:
    """Computes `Events.others` for all events of all categories, [events, I]."""
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
    """Interpolates average precision [R] from running counts [k, R] at the k true positives: of true positives, and
    of all detections.

    n_gt [R]: ground truths, more than 0. The mean over 101 recall thresholds, 0 beyond the recall that is reached.
    """
    envelope = np.maximum.accumulate((hits / (detections + np.spacing(1)))[::-1], axis=0)[::-1]
    reached = np.diff(_passed(hits / n_gt), axis=0, prepend=0)
    return column_sums(envelope * reached) / len(RECALL_THRESHOLDS) if len(hits) else np.zeros(hits.shape[1])


class _Sweep:
    """Computes the area under the precision envelope of one category at one threshold after another.

    A bootstrap processes thousands of rows of R numbers; row by row they stay in the cache, which takes a fifth of
    the time of whole arrays. The envelope changes at few true positives, so recall is looked up at those alone.
    """

    def __init__(self, weights: Floats, n_gt: Floats) -> None:
        self.weights, self.n_gt = weights, np.maximum(n_gt, 1)
        self.hits = np.empty_like(weights)
        self.envelope = np.empty((len(weights) + 1, weights.shape[1]))

    def average(self, true: Integers, false_before: Integers, detections: Floats) -> Floats:
        """Computes 101-point interpolated precision, [R].

        true [k]: which events are true positives. false_before [e] grows from one event to the next where a false
        positive may stand between them. Where none does, precision only rises, so the envelope has the value of the
        next event: of each run of true positives the last one is enough.
        """
        last = np.append(np.diff(false_before[true]) > 0, True)[: len(true)]
        ends = int(last.sum())
        if not ends:
            return np.zeros(self.weights.shape[1])
        hits, envelope = self.hits[:ends], self.envelope[: ends + 1]
        self._fill(hits, envelope, true, last, detections)
        area = np.zeros(hits.shape[1])
        for start in range(0, ends, ROWS):
            area += self._area(hits[start : start + ROWS], envelope[start : start + ROWS + 1])
        return area / len(RECALL_THRESHOLDS)

    def _area(self, hits: Floats, envelope: Floats) -> Floats:
        """Sums what each fall of the envelope [ends + 1, R] contributes, [R]: its height times the number of recall
        thresholds that are reached before it."""
        fall = np.flatnonzero(envelope[:-1] > envelope[1:])
        replicates = hits.shape[1]
        which = fall - fall // replicates * replicates  # `%` takes five times as long
        flat = envelope.ravel()
        height = flat[fall] - flat[fall + replicates]
        passed = _passed(hits.ravel()[fall] / self.n_gt[which])
        return np.bincount(which, weights=passed * height, minlength=replicates).astype(np.float64)

    def _fill(self, hits: Floats, envelope: Floats, true: Integers, last: Booleans, detections: Floats) -> None:
        """Fills hits [ends, R], the true positives up to the end of each run, and envelope [ends + 1, R], the largest
        precision from there on (0 after the last)."""
        ends = len(hits)
        envelope[ends] = 0
        if hits.shape[1] < WIDE:
            hits[:] = np.add.accumulate(self.weights[true], axis=0)[last]
            envelope[:ends] = np.maximum.accumulate((hits / detections[true[last]])[::-1], axis=0)[::-1]
            return
        rows, place = list(hits), 0
        before: Floats = np.zeros(hits.shape[1])
        for event, ends_run in zip(true.tolist(), last.tolist(), strict=True):
            before = np.add(before, self.weights[event], out=rows[place])
            if ends_run:
                np.divide(before, detections[event], out=envelope[place])
                place += 1
        after = envelope[ends]
        for row in envelope[ends - 1 :: -1]:
            after = np.maximum(row, after, out=row)


def _passed(recall: Floats) -> Integers:
    """Counts the recall thresholds (hundredths, as the official APIs round them) that are at most `recall`."""
    nearest = (recall * 100 + 1e-9).astype(np.int64)  # a twentieth of the time of a search
    return nearest + (recall >= RECALL_THRESHOLDS[nearest])


def running(operation: np.ufunc, values: Floats) -> Floats:
    """Computes `operation.accumulate(values, axis=0)` of values [k, R], which may be overwritten.

    NumPy goes column by column; row by row takes a quarter of the time where rows are long.
    """
    if values.shape[1] < WIDE:
        return np.asarray(operation.accumulate(values, axis=0))
    for before, row in pairwise(values):
        operation(before, row, out=row)
    return values


def column_sums(values: Floats) -> Floats:
    """Sums [k, R] to [R], adding row after row whatever R is (np.sum rounds differently for a single column)."""
    return values.sum(axis=0) if values.shape[1] >= WIDE else np.asarray(np.cumsum(values, axis=0)[-1])
