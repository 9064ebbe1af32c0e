"""LVIS average precision that can be accumulated again under image weights.

The protocol is that of the official `lvis` 0.5.3 (area range "all"), and with all weights 1 the figures are
the same. Matching, which does not depend on the weights, is done once; what it leaves (`Matches`) is small,
and a bootstrap replicate only sums it differently.

Shape legend: I images, C categories, R weightings, T IoU thresholds, n detections; g ground truths and d
detections of one image and category.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from harness.metrics.aggregate import Weights, by_frequency, mean_defined
from harness.metrics.matching import box_array, iou_matrix
from harness.types import Box, Category, Detection, Example, Frequency

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
Indexed = tuple[int, Detection]
"""A detection and its place in the list that was given."""

RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 300
"""Detections kept per image, over all categories."""

CHUNK = 2_000_000
"""Elements of a [R, n] block that are held at once: 16 MB per float64 array."""


@dataclass(frozen=True, slots=True)
class Matches:
    """The detections that count, sorted by category and then as the official API ranks them; ground truths.

    detection        [n] int64, index into the detections given to `match`
    image, category  [n] int64, indices into the examples and categories given to `match`
    score            [n] float64
    true_positive    [n] uint16: bit t is set where the detection is matched at IOU_THRESHOLDS[t]
    ignored          [n] bool: its category is not annotated exhaustively in its image, so wherever it is
                     unmatched it is left out instead of being a false positive
    gt_image, gt_category, gt_count  [m] int64: number of ground truths per image and category
    """

    n_images: int
    detection: NDArray[np.int64]
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    score: Floats
    true_positive: NDArray[np.uint16]
    ignored: Booleans
    gt_image: NDArray[np.int64]
    gt_category: NDArray[np.int64]
    gt_count: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class APs:
    """AP (mean over the T thresholds) and AP at IoU 0.5, [R, C]; nan where there is no ground truth."""

    ap: Floats
    ap50: Floats


def match_detections(gt: Floats, dt: Floats, thresholds: Floats) -> Booleans:
    """The official greedy rule: bool [d, T], whether a detection is a true positive at each threshold.

    gt [g, 4], dt [d, 4] by descending score, thresholds [T]. Each detection in turn takes the free ground
    truth of highest IoU >= threshold, the last one of equals.
    """
    limits = np.minimum(thresholds, 1 - 1e-10)
    matched = np.zeros((len(dt), len(limits)), dtype=np.bool_)
    free = np.ones((len(limits), len(gt)), dtype=np.bool_)
    every = np.arange(len(limits))
    iou = iou_matrix(dt, gt)
    for index in np.flatnonzero(iou.max(axis=1, initial=0.0) >= limits.min()):
        candidates = np.where(free & (iou[index] >= limits[:, None]), iou[index], -1.0)  # [T, g]
        best = len(gt) - 1 - candidates[:, ::-1].argmax(axis=1)  # argmax finds the first, we want the last
        hit = candidates[every, best] >= 0
        matched[index] = hit
        free[every[hit], best[hit]] = False
    return matched


def match(examples: Sequence[Example], detections: Iterable[Detection], categories: Sequence[Category]) -> Matches:
    """Match detections to ground truth under the federated LVIS protocol.

    Of each image the 300 best detections are kept, over all categories; then boxes without area go, on both
    sides; then detections whose category is neither among the image's ground truth nor among its verified
    absences. Equal scores rank by image id, then in the order given. (The official API measures the area of a
    ground truth by its annotated `area`, here it is the box's; and boxes above 1e10 square pixels get no
    special treatment.)

    Raises ValueError for a detection of an unknown image or with a score that is not finite.
    """
    by_image = _by_image(examples, detections)
    category = {item.id: index for index, item in enumerate(categories)}
    found: list[tuple[int, int, int, float, bool]] = []
    masks: list[Booleans] = [np.zeros((0, len(IOU_THRESHOLDS)), dtype=np.bool_)]
    ground_truth: list[tuple[int, int, int]] = []
    for image, example in sorted(enumerate(examples), key=lambda item: item[1].image_id):
        gt = _instances(example)
        dt = _ranked(by_image[example.image_id], evaluated=gt.keys() | example.negative)
        ground_truth += [(image, category[c], len(boxes)) for c, boxes in gt.items()]
        for c, group in dt.items():
            ignored = c in example.not_exhaustive
            found += [(index, image, category[c], item.score, ignored) for index, item in group]
            boxes = box_array(item.box for _, item in group)
            masks.append(match_detections(box_array(gt.get(c, ())), boxes, IOU_THRESHOLDS))
    return _table(len(examples), found, np.concatenate(masks), ground_truth)


def average_precision(matches: Matches, n_categories: int, weights: Weights | None = None) -> APs:
    """AP and AP50 per category, [R, C], under image weights [R, I] (None: one weighting, all 1).

    AP is the mean over T IoU thresholds and 101 recall thresholds of the largest precision at that recall or
    beyond, 0 where the recall is not reached. An image of weight w counts as w copies of it would: true
    and false positives and ground truths are weighted sums. nan where the weighted ground truth sums to 0.
    """
    weights = np.ones((1, matches.n_images)) if weights is None else weights
    n_gt = _weighted_ground_truth(matches, n_categories, weights)
    ap, ap50 = np.where(n_gt > 0, 0.0, np.nan), np.where(n_gt > 0, 0.0, np.nan)
    bounds = np.searchsorted(matches.category, np.arange(n_categories + 1))
    bits = np.arange(len(IOU_THRESHOLDS), dtype=np.uint16)
    true_positive = (matches.true_positive[:, None] >> bits & 1).astype(np.bool_)  # [n, T]
    for c in np.unique(matches.category):
        rows = slice(bounds[c], bounds[c + 1])
        for chunk in _chunks(len(weights), bounds[c + 1] - bounds[c]):
            block = weights[chunk][:, matches.image[rows]].astype(np.float64)
            precision = _precision(block, true_positive[rows], matches.ignored[rows], n_gt[chunk, c])
            ap[chunk, c], ap50[chunk, c] = precision.mean(axis=1), precision[:, 0]
    return APs(ap, ap50)


def summarise(ap: Floats, ap50: Floats, frequency: Sequence[Frequency | None]) -> dict[str, Floats]:
    """The official means over categories, each [R]: AP, AP50, and AP of the frequencies r, c and f.

    ap, ap50 [R, C], frequency [C]. Unweighted over the categories with ground truth; nan where none has any.
    """
    means = by_frequency(ap, frequency)
    return {"AP": means["all"], "AP50": mean_defined(ap50)} | {f"AP{f}": means[f] for f in "rcf"}


def _by_image(examples: Sequence[Example], detections: Iterable[Detection]) -> dict[int, list[Indexed]]:
    by_image: dict[int, list[Indexed]] = {example.image_id: [] for example in examples}
    for index, item in enumerate(detections):
        if item.image_id not in by_image:
            raise ValueError(f"detection of image {item.image_id}, which is not among the examples")
        if not math.isfinite(item.score):
            raise ValueError(f"detection of image {item.image_id} has score {item.score}, expected a number")
        by_image[item.image_id].append((index, item))
    return by_image


def _instances(example: Example) -> dict[int, list[Box]]:
    """Boxes with area of each category."""
    boxes: dict[int, list[Box]] = defaultdict(list)
    for instance in example.instances:
        if _has_area(instance.box):
            boxes[instance.category_id].append(instance.box)
    return dict(boxes)


def _ranked(detections: list[Indexed], evaluated: Iterable[int]) -> dict[int, list[Indexed]]:
    """The detections of an image that count, by category, best first (the sort is stable)."""
    groups: dict[int, list[Indexed]] = {c: [] for c in evaluated}
    for index, item in sorted(detections, key=lambda pair: pair[1].score, reverse=True)[:MAX_DETECTIONS]:
        if _has_area(item.box) and item.category_id in groups:
            groups[item.category_id].append((index, item))
    return {c: group for c, group in groups.items() if group}


def _has_area(box: Box) -> bool:
    return box.w * box.h > 0


def _table(
    n_images: int,
    found: list[tuple[int, int, int, float, bool]],
    true_positive: Booleans,
    ground_truth: list[tuple[int, int, int]],
) -> Matches:
    detection, image, category, score, ignored = np.array(found, dtype=np.float64).reshape(-1, 5).T
    order = np.lexsort((-score, category))  # stable: equal scores stay in order of image id
    gt_image, gt_category, gt_count = np.array(ground_truth, dtype=np.int64).reshape(-1, 3).T
    bits = 1 << np.arange(len(IOU_THRESHOLDS))
    return Matches(
        n_images=n_images,
        detection=detection[order].astype(np.int64),
        image=image[order].astype(np.int64),
        category=category[order].astype(np.int64),
        score=score[order],
        true_positive=(true_positive @ bits)[order].astype(np.uint16),
        ignored=ignored[order].astype(np.bool_),
        gt_image=gt_image,
        gt_category=gt_category,
        gt_count=gt_count,
    )


def _weighted_ground_truth(matches: Matches, n_categories: int, weights: Weights) -> Floats:
    """Weighted number of ground truths, [R, C]."""
    index = (matches.gt_category, matches.gt_image)
    counts = csr_array((matches.gt_count.astype(np.float64), index), shape=(n_categories, matches.n_images))
    return np.asarray(counts @ weights.T.astype(np.float64)).T


def _chunks(replicates: int, detections: int) -> Iterator[slice]:
    size = max(1, CHUNK // max(1, detections))
    return (slice(start, start + size) for start in range(0, replicates, size))


def _precision(weights: Floats, true_positive: Booleans, ignored: Booleans, n_gt: Floats) -> Floats:
    """Average precision of one category at each IoU threshold, [R, T]; nan where n_gt is 0.

    weights [R, n], true_positive [n, T], ignored [n], n_gt [R].
    """
    result = np.zeros((len(weights), true_positive.shape[1]))
    for t, tp in enumerate(true_positive.T):
        counted = tp | ~ignored
        result[:, t] = _interpolated_precision(weights[:, counted], tp[counted], n_gt)
    return np.where(n_gt[:, None] > 0, result, np.nan)


def _interpolated_precision(weights: Floats, tp: Booleans, n_gt: Floats) -> Floats:
    """101-point interpolated precision of ranked detections, [R]; weights [R, n], tp [n], n_gt [R].

    Instead of looking up the precision at every recall threshold, give each true positive the thresholds that
    it is the first to reach. The others reach none, and precision only falls there, so they are left out of
    the envelope too.
    """
    true_positives = np.cumsum(weights[:, tp], axis=1)  # [R, true positives]
    detections = np.cumsum(weights, axis=1)[:, tp]
    precision = true_positives / (detections + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = true_positives / np.where(n_gt > 0, n_gt, 1.0)[:, None]
    passed = np.searchsorted(RECALL_THRESHOLDS, recall, side="right")
    reached = np.diff(passed, axis=1, prepend=0)
    return np.asarray((envelope * reached).sum(axis=1) / len(RECALL_THRESHOLDS))
