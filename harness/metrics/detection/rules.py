"""Defines what the three protocols count: thresholds, sizes, caps, and which boxes take part at all.

The official rules are applied here and nowhere else, before any evaluator sees the data: engines and the
re-weightable AP of `harness.metrics.detection.ap` then only match and accumulate.

Shape legend: D detections, G ground truths, T IoU thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.metrics.samples.mentions import box_array
from harness.types import Detections, Example, Instance

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

Protocol = Literal["lvis", "lvis-fixed", "coco"]
Size = Literal["all", "s", "m", "l"]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
AREAS: dict[Size, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "s": (0.0, 32.0**2),
    "m": (32.0**2, 96.0**2),
    "l": (96.0**2, 1e10),
}
"""Ranges of areas in square pixels, both ends included: an object of exactly 32^2 is small and medium."""

LARGEST = 1e150
"""Largest coordinate in pixels: products of two such sides do not overflow."""

LARGEST_SPAN = 1 << 24
"""Largest range of ids for which counting them directly is cheaper than sorting them."""


@dataclass(frozen=True, slots=True)
class Rules:
    """cap        detections that count in each group; of equal scores the earlier ones
    by_image, by_category  what makes a group
    federated  only categories that are annotated in an image or verified to be absent from it are evaluated
               there, unmatched detections of one that is not annotated exhaustively are left out, and boxes
               without area take no part. Otherwise every category is evaluated in every image.
    """

    cap: int
    by_image: bool
    by_category: bool
    federated: bool


RULES: dict[Protocol, Rules] = {
    "lvis": Rules(cap=300, by_image=True, by_category=False, federated=True),
    "lvis-fixed": Rules(cap=10_000, by_image=False, by_category=True, federated=True),  # Dave et al., 2021
    "coco": Rules(cap=100, by_image=True, by_category=True, federated=False),
}


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """G annotated objects as columns, image by image, crowd regions after the instances of their image.

    id, image_id, category_id  [G] int64;  boxes [G, 4], areas [G] float64;  crowd [G] bool
    """

    id: Integers
    image_id: Integers
    category_id: Integers
    boxes: Floats
    areas: Floats
    crowd: Booleans


def select_rows(detections: Detections, protocol: Protocol) -> Integers:
    """Selects the rows that count after cap and area, ascending.

    lvis: the best 300 of each image, then those of them with an area; lvis-fixed: the best 10,000 of each
    category over the whole set, then those with an area; coco: the best 100 of each image and category, empty
    boxes included. The cap comes first, officially: under LVIS a box without area uses up the budget. "With an
    area" is an area strictly between 0 and infinity. Scores must be numbers.
    """
    rules = RULES[protocol]
    rows = np.flatnonzero(select_best(group_rows(detections, rules), detections.scores, rules.cap))
    if rules.federated:
        rows = rows[has_area(compute_areas(detections.boxes))[rows]]
    return rows


def ground_truth(
    examples: Sequence[Example],
    protocol: Protocol,
    areas: Mapping[int, float] | None = None,
    crowds: Mapping[int, tuple[Instance, ...]] | None = None,
) -> GroundTruth:
    """Returns the objects that take part: under LVIS those whose area is strictly between 0 and infinity, under COCO
    all.

    areas: annotation id -> annotated area, which decides about size (None: the area of the box); crowds: image
    id -> crowd regions, for COCO.
    """
    rows = [(e.image_id, item, False) for e in examples for item in e.instances]
    if not RULES[protocol].federated and crowds:
        rows = [row for e in examples for row in _with_crowds(e, crowds.get(e.image_id, ()))]
    boxes = box_array(item.box for _, item, _ in rows)
    measured = (
        compute_areas(boxes) if areas is None else np.array([areas[item.id] for _, item, _ in rows], dtype=np.float64)
    )
    columns = [
        np.array([item.id for _, item, _ in rows], dtype=np.int64),
        np.array([image_id for image_id, _, _ in rows], dtype=np.int64),
        np.array([item.category_id for _, item, _ in rows], dtype=np.int64),
    ]
    crowd = np.array([flag for _, _, flag in rows], dtype=np.bool_)
    taken = has_area(measured) if RULES[protocol].federated else slice(None)
    ids, image_ids, category_ids = (column[taken] for column in columns)
    return GroundTruth(ids, image_ids, category_ids, make_regular(boxes[taken]), measured[taken], crowd[taken])


def make_regular(boxes: Floats) -> Floats:
    """Returns boxes [n, 4] whose IoU is a number: coordinates are at most LARGEST, and sides are 0 where the area
    underflows to 0.

    Otherwise the IoU may be 0 / 0 or infinity / infinity, which pycocotools counts as a match.
    """
    empty = compute_areas(boxes) == 0
    if not empty.any() and -LARGEST <= boxes.min(initial=0.0) <= boxes.max(initial=0.0) <= LARGEST:
        return boxes
    clean = boxes.clip(-LARGEST, LARGEST)
    clean[empty, 2:] = 0.0
    return clean


def in_range(areas: Floats, size: Size) -> Booleans:
    """Flags the areas (square pixels) that belong to the size."""
    low, high = AREAS[size]
    inside: Booleans = (areas >= low) & (areas <= high)
    return inside


def _with_crowds(example: Example, crowds: Iterable[Instance]) -> list[tuple[int, Instance, bool]]:
    instances = [(example.image_id, item, False) for item in example.instances]
    return instances + [(example.image_id, item, True) for item in crowds]


def compute_areas(boxes: Floats) -> Floats:
    """Computes `w * h` of boxes [n, 4] in square pixels; infinite where it overflows."""
    with np.errstate(over="ignore", under="ignore"):
        area: Floats = boxes[:, 2] * boxes[:, 3]
    return area


def has_area(areas: Floats) -> Booleans:
    """Flags the areas that are strictly between 0 and infinity: others take no part under LVIS."""
    return np.asarray((areas > 0) & (areas < np.inf))


def group_rows(detections: Detections, rules: Rules) -> Integers:
    """Returns a small integer for the group of each detection, [D]."""
    image, category = _codes(detections.image_id), _codes(detections.category_id)
    if not rules.by_image:
        return category
    if not rules.by_category:
        return image
    return _codes(image * (category.max(initial=0) + 1) + category)


def _codes(ids: Integers) -> Integers:
    """Replaces ids by integers from 0, below LARGEST_SPAN or the number of ids; equal ids get equal integers."""
    low = ids.min(initial=0)
    if int(ids.max(initial=0)) - int(low) < LARGEST_SPAN:
        return np.asarray(ids - low)
    return np.asarray(np.unique(ids, return_inverse=True)[1], dtype=np.int64)


def select_best(groups: Integers, scores: Floats, cap: int) -> Booleans:
    """Flags the `cap` highest scores of each group (of equal ones the earlier), [D].

    groups [D]: small integers of at least 0. Most sets have few groups above the cap, so only those are examined, and
    none is sorted.
    """
    best = np.ones(len(groups), dtype=np.bool_)
    counts = np.bincount(groups)
    crowded = np.flatnonzero(counts > cap)
    if not len(crowded):
        return best
    rows = np.flatnonzero((counts > cap)[groups])
    rows = rows[np.argsort(groups[rows], kind="stable")]
    ends = np.cumsum(counts[crowded])
    for start, end in zip(ends - counts[crowded], ends, strict=True):
        of_group = rows[start:end]
        score = scores[of_group]
        limit = np.partition(score, len(score) - cap)[len(score) - cap]
        above = score > limit
        best[of_group] = above
        best[of_group[np.flatnonzero(score == limit)[: cap - np.count_nonzero(above)]]] = True
    return best
