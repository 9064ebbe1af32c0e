"""Which mention of a sampled sequence verifies which instance.

Shape legend: n, m boxes; all boxes are `x, y, w, h` in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from harness.types import Box, Example, Mention, Parsed

VERIFIED_IOU = 0.5
"""IoU from which a mention can verify an instance (DESIGN, vocabulary)."""


@dataclass(frozen=True, slots=True)
class MatchedMention:
    """What ground truth says about one mention.

    instance_id    the instance that the mention verifies, or None
    iou            IoU with that instance; if None, the best IoU with any instance of the mention's category
                   (0 where the image has none)
    duplicate      unmatched, though it overlaps an instance of its category that another mention has taken
    hallucination  its category is verified to be absent from the image
    neutral        unmatched, and its category is not annotated exhaustively: neither right nor wrong
    unknown        its name belongs to no category
    """

    instance_id: int | None
    iou: float
    duplicate: bool
    hallucination: bool
    neutral: bool
    unknown: bool

    @property
    def verified(self) -> bool:
        return self.instance_id is not None


def box_array(boxes: Iterable[Box]) -> NDArray[np.float64]:
    """Boxes as [n, 4] float64, `x, y, w, h`; [0, 4] for none."""
    return np.array([(box.x, box.y, box.w, box.h) for box in boxes], dtype=np.float64).reshape(-1, 4)


def iou_matrix(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of boxes a [n, 4] and b [m, 4] as [n, m]; see `box_iou`."""
    return box_iou(a[:, None], b[None])


def box_iou(
    a: NDArray[np.float64], b: NDArray[np.float64], crowd: NDArray[np.bool_] | bool = False
) -> NDArray[np.float64]:
    """Intersection over union of boxes a and b, [..., 4] each (they are broadcast); 0 where they do not overlap.

    Where `crowd`, b is a crowd region and the intersection is divided by the area of a alone. The operations and
    their order are those of pycocotools, so that a box exactly at a threshold falls on the same side. A box
    without area has IoU 0 with everything, itself included; where areas overflow the IoU is 0 or nan.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        upper = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
        sides = np.maximum(upper - np.maximum(a[..., :2], b[..., :2]), 0.0)
        intersection = sides[..., 0] * sides[..., 1]
        area = a[..., 2] * a[..., 3]
        union = np.where(crowd, area, area + b[..., 2] * b[..., 3] - intersection)
        iou: NDArray[np.float64] = np.zeros_like(union)
        np.divide(intersection, union, out=iou, where=intersection > 0)
    return iou


def match_sample(
    example: Example, mentions: Sequence[Mention], iou_threshold: float = VERIFIED_IOU
) -> list[MatchedMention]:
    """Match the mentions of one sample to the instances of its image, one to one within each category.

    Among all one-to-one assignments of pairs of the same category with IoU >= iou_threshold, take one with
    the most pairs, and among those the largest total IoU (Hungarian algorithm). Not greedy: sampled mentions
    carry no scores, so a greedy rule would have to follow their order in the sequence, and the order is one
    of the things that we measure. The result is the same under any permutation of the mentions (ties in total
    IoU apart). Returns one MatchedMention per mention, in their order.
    """
    iou = _same_category_iou(example, mentions)  # [mentions, instances]
    pairs = _assign(iou, iou_threshold)
    best = iou.max(axis=1, initial=0.0)
    matched = []
    for index, mention in enumerate(mentions):
        category, instance = mention.category_id, pairs.get(index)
        matched.append(
            MatchedMention(
                instance_id=None if instance is None else example.instances[instance].id,
                iou=float(best[index] if instance is None else iou[index, instance]),
                # A free instance at this IoU would have given one more pair, so the instance is taken.
                duplicate=instance is None and bool(best[index] >= iou_threshold),
                hallucination=category in example.negative,
                neutral=instance is None and category in example.not_exhaustive,
                unknown=category is None,
            )
        )
    return matched


def f_score(example: Example, parsed: Parsed) -> float:
    """F-score of a sequence's mentions in [0, 1]: 2 * verified / (mentions + malformed entries - neutral + instances).

    1 where there is nothing to find and nothing was said.
    """
    matched = match_sample(example, parsed.mentions)
    said = len(matched) + parsed.malformed - sum(mention.neutral for mention in matched)
    total = said + len(example.instances)
    return 2 * sum(mention.verified for mention in matched) / total if total else 1.0


def _same_category_iou(example: Example, mentions: Sequence[Mention]) -> NDArray[np.float64]:
    """IoU [mentions, instances], 0 where the categories differ (or the mention has none)."""
    iou = iou_matrix(box_array(mention.box for mention in mentions), box_array(item.box for item in example.instances))
    instance_category = np.array([item.category_id for item in example.instances], dtype=np.int64)
    for row, mention in zip(iou, mentions, strict=True):
        row[instance_category != mention.category_id] = 0.0
    return iou


def _assign(iou: NDArray[np.float64], threshold: float) -> dict[int, int]:
    """Mention index -> instance index of the best assignment.

    One assignment serves all categories at once: pairs that are not allowed gain nothing, so the optimum
    splits into the optima of the categories. An allowed pair gains more than all IoUs together can, which
    puts the number of pairs first and the total IoU second.
    """
    allowed = (iou >= threshold) & (iou > 0)
    if not allowed.any():
        return {}
    gain = np.where(allowed, min(iou.shape) + 1.0 + iou, 0.0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if allowed[i, j]}
