"""Computes average precision that can be accumulated again under image weights, for the three protocols.

With all weights 1 the figures are those of the official `lvis` 0.5.3 and `pycocotools`. Matching does not depend on
the weights and is done once; its result (`Matches`) is small, and each bootstrap replicate sums it with other
weights.

Shape legend: I images, C categories, R weightings, T IoU thresholds, n detections, m (image, category) pairs
with ground truth, e events of a category (see `accumulate.Events`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from harness.metrics.detection.accumulate import Matches, column_sums, events_by_category, precision
from harness.metrics.detection.evaluated_pairs import Pairs, select_evaluated
from harness.metrics.detection.greedy_matching import Truths, match_groups
from harness.metrics.detection.rules import (
    AREAS,
    IOU_THRESHOLDS,
    RULES,
    GroundTruth,
    Protocol,
    Size,
    compute_areas,
    ground_truth,
    in_range,
    make_regular,
)
from harness.metrics.samples.aggregate import Weights, by_frequency, mean_defined
from harness.types import Category, Detections, Example, Frequency, Instance

__all__ = ["APs", "Matches", "average_precision", "match", "match_sizes", "summarise"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

CHUNK = 1 << 22
"""Elements of an [e, R] block that are held at once: 32 MB per array."""

AP75 = int(np.flatnonzero(IOU_THRESHOLDS == 0.75)[0])


@dataclass(frozen=True, slots=True)
class APs:
    """AP (mean over the T thresholds) and AP at IoU 0.5 and 0.75, [R, C]; nan where there is no ground truth."""

    ap: Floats
    ap50: Floats
    ap75: Floats


def match(
    examples: Sequence[Example],
    detections: Detections,
    categories: Sequence[Category],
    protocol: Protocol = "lvis",
    areas: Mapping[int, float] | None = None,
    crowds: Mapping[int, tuple[Instance, ...]] | None = None,
) -> Matches:
    """Matches detections to objects of all sizes; see `match_sizes`."""
    return match_sizes(examples, detections, categories, protocol, areas, crowds, ("all",))["all"]


def match_sizes(
    examples: Sequence[Example],
    detections: Detections,
    categories: Sequence[Category],
    protocol: Protocol = "lvis",
    areas: Mapping[int, float] | None = None,
    crowds: Mapping[int, tuple[Instance, ...]] | None = None,
    sizes: Sequence[Size] = tuple(AREAS),
) -> dict[Size, Matches]:
    """Matches detections to ground truth under the protocol's rules, for each size of objects.

    Detections count as `rules.select_rows` says and, under LVIS, if their category is annotated in the image or
    verified to be absent from it. Equal scores rank by image id, then in the order given. For a size, objects
    outside its range of areas do not count, and detections outside of it only where they are matched.
    areas: annotation id -> annotated area (None: the area of the box); crowds: image id -> crowd regions.

    Raises ValueError for a detection of an unknown image or category or with a score that is not finite.
    """
    if not np.isfinite(detections.scores).all():
        raise ValueError("a detection has a score that is not finite")
    truth = ground_truth(examples, protocol, areas, crowds)
    pairs = Pairs.of(examples, categories)
    gt_pair = pairs.find(truth.image_id, truth.category_id)
    rows, pair = select_evaluated(detections, examples, truth, pairs, protocol)
    # Stable: equal scores of an image stay in the order given.
    order = np.lexsort((detections.image_id[rows], -detections.scores[rows], pairs.category(pair)))
    rows, pair = rows[order], pair[order]
    federated = RULES[protocol].federated
    not_exhaustive = np.isin(pair, pairs.flagged(examples, "not_exhaustive") if federated else [])
    boxes = make_regular(detections.boxes[rows])
    counts = np.column_stack([in_range(truth.areas, size) & ~truth.crowd for size in sizes])  # [g, S]
    true_positive, left_out = _match_pairs(pair, boxes, gt_pair, truth, ~counts)
    by_size: dict[Size, Matches] = {}
    for s, size in enumerate(sizes):
        with_truth, gt_count = np.unique(gt_pair[counts[:, s]], return_counts=True)
        by_size[size] = Matches(
            n_images=len(examples),
            detection=rows,
            image=pairs.image(pair),
            category=pairs.category(pair),
            score=detections.scores[rows],
            true_positive=true_positive[:, s],
            ignored=not_exhaustive | ~in_range(compute_areas(boxes), size),
            gt_image=pairs.image(with_truth),
            gt_category=pairs.category(with_truth),
            gt_count=gt_count,
            left_out=left_out[:, s],
        )
    return by_size


def average_precision(matches: Matches, n_categories: int, weights: Weights | None = None) -> APs:
    """Computes AP, AP50 and AP75 per category, [R, C], under image weights [R, I] (None: one weighting, all 1).

    AP is the mean over T IoU thresholds and 101 recall thresholds of the largest precision at that recall or
    beyond, 0 where the recall is not reached. An image of weight w, a whole number, counts as w copies of it
    would: true and false positives and ground truths are weighted sums. nan where the weighted ground truth sums
    to 0. Raises ValueError for weights that are not whole numbers of at least 0.
    """
    columns = np.ones((matches.n_images, 1)) if weights is None else weights.T  # [I, R]
    if columns.min(initial=0) < 0 or not (columns == np.rint(columns)).all():
        raise ValueError("expected image weights that are whole numbers of at least 0")
    drawn = np.ascontiguousarray(columns, dtype=np.float64)
    truth = csr_array(
        (matches.gt_count.astype(np.float64), (matches.gt_category, matches.gt_image)),
        shape=(n_categories, matches.n_images),
    )
    n_gt = np.asarray(truth @ drawn)  # [C, R]
    missed = np.where(n_gt > 0, 0.0, np.nan)
    ap, ap50, ap75 = missed, missed.copy(), missed.copy()
    for c, events in events_by_category(matches):
        for chunk in _chunks(drawn.shape[1], len(events.image)):
            values = precision(events, drawn[:, chunk], n_gt[c, chunk])  # [T, R]
            ap[c, chunk] = column_sums(values) / len(values)
            ap50[c, chunk], ap75[c, chunk] = values[0], values[AP75]
    return APs(ap.T, ap50.T, ap75.T)


def summarise(figures: APs, frequency: Sequence[Frequency | None]) -> dict[str, Floats]:
    """Computes the official means over categories, each [R]: AP, AP50, AP75, and AP of the frequencies r, c and f.

    frequency [C]. Unweighted over the categories with ground truth; nan where none has any.
    """
    means = by_frequency(figures.ap, frequency)
    overall = {"AP": means["all"], "AP50": mean_defined(figures.ap50), "AP75": mean_defined(figures.ap75)}
    return overall | {f"AP{f}": means[f] for f in "rcf"}


def _match_pairs(
    pair: Integers, boxes: Floats, gt_pair: Integers, truth: GroundTruth, ignored: Booleans
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Runs `match_groups` for detections in the order of `Matches` and ground truths in any order."""
    order, gt_order = np.argsort(pair, kind="stable"), np.argsort(gt_pair, kind="stable")
    truths = Truths(gt_pair[gt_order], truth.boxes[gt_order], truth.crowd[gt_order], ignored[gt_order])
    result = np.empty((2, len(pair), ignored.shape[1]), dtype=np.uint16)
    result[:, order] = match_groups(pair[order], boxes[order], truths)
    return result[0], result[1]


def _chunks(replicates: int, events: int) -> Iterator[slice]:
    size = max(1, CHUNK // max(1, events))
    return (slice(start, start + size) for start in range(0, replicates, size))
