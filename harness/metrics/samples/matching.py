"""Decides which mention of a sampled sequence verifies which instance.

Shape legend: n instances, M mentions, K samples per image, p candidate pairs (mention, instance); all boxes are
`x, y, w, h` in pixels. A slot is an instance as one sample can verify it: at most once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics.samples.mentions import Flags, Floats, Integers, Mentions, Truth, mentions_of, truth_of
from harness.types import Category, Example, Mention, Parsed

VERIFIED_IOU = 0.5
"""IoU from which a mention can verify an instance (docs/explain/design.md, vocabulary)."""

CHUNK = 250_000
"""Pairs of boxes that are compared at a time: about 60 MB."""

TIE = 1e-9
"""Total IoUs that differ by less count as equal; then the earlier mentions verify."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of matching each of M mentions to the ground truth.

    instance       [M] int64  row of Truth that the mention verifies, or -1
    iou            [M]        IoU with that instance; where there is none, the best IoU with any instance of the
                              mention's category (0 where the image has none)
    duplicate      [M] bool   unmatched, though it overlaps an instance of its category that another mention has taken
    hallucination  [M] bool   its category is verified to be absent from the image
    neutral        [M] bool   unmatched, and its category is not annotated exhaustively: neither right nor wrong
    unknown        [M] bool   its name belongs to no category
    """

    instance: Integers
    iou: Floats
    duplicate: Flags
    hallucination: Flags
    neutral: Flags
    unknown: Flags


@dataclass(frozen=True, slots=True)
class MatchedMention:
    """One row of a Verification; `instance_id` is the annotation id of the instance, or None."""

    instance_id: int | None
    iou: float
    duplicate: bool
    hallucination: bool
    neutral: bool
    unknown: bool

    @property
    def verified(self) -> bool:
        return self.instance_id is not None


def iou_matrix(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Computes the intersection over union of boxes a [n, 4] and b [m, 4] as [n, m]; see `box_iou`."""
    return box_iou(a[:, None], b[None])


def box_iou(
    a: NDArray[np.float64], b: NDArray[np.float64], crowd: NDArray[np.bool_] | bool = False
) -> NDArray[np.float64]:
    """Computes the intersection over union of boxes a and b, [..., 4] each (they are broadcast); 0 where they do not
    overlap.

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


def verify(truth: Truth, mentions: Mentions, iou_threshold: float = VERIFIED_IOU) -> Verification:
    """Matches the mentions of every sample to the instances of its image, one to one within each category.

    Among all one-to-one assignments of pairs of the same category with IoU >= iou_threshold (and > 0), take one
    with the most pairs, and among those the largest total IoU (Hungarian algorithm); of equal ones the earlier
    mentions verify. Not greedy: sampled mentions carry no scores, so a greedy rule would have to follow their order
    in the sequence, and the order is one of the things that we measure. The result is the same under any
    permutation of the mentions of a sample (ties in total IoU apart).
    """
    key = np.where(mentions.category < 0, -1, mentions.image * truth.categories + mentions.category)
    iou, mention, instance, pair_iou = _candidates(truth, mentions, key, iou_threshold)
    slot = instance * (mentions.sample.max(initial=0) + 1) + mentions.sample[mention]
    chosen = _assign(mention, slot, pair_iou)
    verified = np.full(len(mentions), -1, dtype=np.int64)
    verified[mention[chosen]] = instance[chosen]
    iou[mention[chosen]] = pair_iou[chosen]
    unmatched = verified < 0
    near = np.zeros(len(mentions), dtype=np.bool_)
    near[mention] = True
    return Verification(
        instance=verified,
        iou=iou,
        duplicate=unmatched & near,  # a free instance would have given one more pair, so the near one is taken
        hallucination=_among(key, truth.negative),
        neutral=unmatched & _among(key, truth.not_exhaustive),
        unknown=mentions.category < 0,
    )


def match_sample(
    example: Example, mentions: Sequence[Mention], iou_threshold: float = VERIFIED_IOU
) -> list[MatchedMention]:
    """Runs `verify` for one sample of one image and returns one MatchedMention per mention, in their order."""
    ids = {item.category_id for item in mentions} | {item.category_id for item in example.instances}
    categories = [Category(category_id, (), None) for category_id in ids if category_id is not None]
    verification = verify(truth_of([example], categories), mentions_of([[mentions]], categories), iou_threshold)
    return [
        MatchedMention(None if instance < 0 else example.instances[instance].id, *rest)
        for instance, *rest in zip(
            verification.instance.tolist(),
            verification.iou.tolist(),
            verification.duplicate.tolist(),
            verification.hallucination.tolist(),
            verification.neutral.tolist(),
            verification.unknown.tolist(),
            strict=True,
        )
    ]


def f_score(example: Example, parsed: Parsed) -> float:
    """Computes the F-score of a sequence's mentions in [0, 1]: 2 * verified / (mentions + malformed entries - neutral
    + instances).

    1 where there is nothing to find and the sequence claims nothing.
    """
    matched = match_sample(example, parsed.mentions)
    claims = len(matched) + parsed.malformed - sum(mention.neutral for mention in matched)
    total = claims + len(example.instances)
    return 2 * sum(mention.verified for mention in matched) / total if total else 1.0


def _candidates(
    truth: Truth, mentions: Mentions, key: Integers, threshold: float
) -> tuple[Floats, Integers, Integers, Floats]:
    """Returns the best IoU of each mention with an instance of its category [M], and mention, instance and IoU of the
    pairs [p] that may be assigned, sorted by mention and instance. `key` [M]: image and category of a mention, -1 for
    an unknown name.
    """
    truth_key = truth.image * truth.categories + truth.category
    order = np.argsort(truth_key, kind="stable")
    first = np.searchsorted(truth_key[order], key)
    count = np.searchsorted(truth_key[order], key, side="right") - first
    best = np.zeros(len(mentions))
    pairs = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for rows in _chunks(count):
        mention = np.repeat(rows, count[rows])
        start = np.cumsum(count[rows]) - count[rows]
        instance = order[np.repeat(first[rows] - start, count[rows]) + np.arange(len(mention))]
        iou = box_iou(mentions.boxes[mention], truth.boxes[instance])
        best[rows] = np.fmax(np.fmax.reduceat(iou, start), 0.0)
        near = (iou >= threshold) & (iou > 0)
        pairs.append((mention[near], instance[near], iou[near]))
    return best, *(np.concatenate(column) for column in zip(*pairs, strict=True))  # type: ignore[return-value]


def _chunks(count: Integers) -> Iterator[Integers]:
    """Yields the rows [M] with count > 0, ascending, in parts whose counts add up to about CHUNK."""
    rows = np.flatnonzero(count)
    ends = np.cumsum(count[rows])
    cuts = np.searchsorted(ends, np.arange(CHUNK, ends[-1] if len(ends) else 0, CHUNK))
    return (part for part in np.split(rows, cuts) if len(part))


def _assign(mention: Integers, slot: Integers, iou: Floats) -> Flags:
    """Flags the candidate pairs [p] that are assigned.

    Nearly all pairs are isolated or form a star (one slot that several mentions compete for, or one mention that may
    take several slots), where the best IoU wins; only the rest needs the Hungarian algorithm.
    """
    only_slot = np.bincount(mention)[mention] == 1  # [p]: the mention has no other candidate
    only_mention = np.bincount(slot)[slot] == 1
    chosen: Flags = only_slot & only_mention
    slot_star = ~chosen & (np.bincount(slot, weights=~only_slot)[slot] == 0)
    mention_star = ~chosen & (np.bincount(mention, weights=~only_mention)[mention] == 0)
    chosen[_best(np.flatnonzero(slot_star), slot, iou)] = True
    chosen[_best(np.flatnonzero(mention_star), mention, iou)] = True
    rest = np.flatnonzero(~(chosen | slot_star | mention_star))
    chosen[rest[_hungarian(mention[rest], slot[rest], iou[rest])]] = True
    return chosen


def _best(rows: Integers, centre: Integers, iou: Floats) -> Integers:
    """Returns, of the pairs `rows` (ascending), the one with the highest IoU at each centre; of equals the first."""
    order = rows[np.lexsort((-iou[rows], centre[rows]))]  # stable
    return np.asarray(order[np.diff(centre[order], prepend=-1) != 0])


def _hungarian(mention: Integers, slot: Integers, iou: Floats) -> Integers:
    """Returns the rows of the best assignment among candidate pairs [p], one connected component after the other.

    Each pair gains more than the sum of all IoUs of its component, so the number of pairs comes first and the total
    IoU second; earlier mentions gain slightly more. Where all IoUs are equal, the first verifies the first.
    """
    if not len(iou):
        return np.zeros(0, dtype=np.int64)
    from scipy.optimize import linear_sum_assignment  # late: suites name rewards, and are read without any matching
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    mentions, row = np.unique(mention, return_inverse=True)
    slots, column = np.unique(slot, return_inverse=True)
    nodes = len(mentions) + len(slots)
    graph = coo_array((np.ones(len(iou)), (row, column + len(mentions))), shape=(nodes, nodes))
    component = connected_components(graph, directed=False)[1]
    i, j = _rank_within(component[: len(mentions)])[row], _rank_within(component[len(mentions) :])[column]
    order = np.argsort(component[row], kind="stable")
    chosen = []
    for pairs in np.split(order, np.flatnonzero(np.diff(component[row][order])) + 1):
        shape = i[pairs].max() + 1, j[pairs].max() + 1
        if len(pairs) == shape[0] * shape[1] and np.ptp(iou[pairs]) == 0:  # any pairing is as good: in order
            chosen.append(pairs[i[pairs] == j[pairs]])
            continue
        gain = np.zeros(shape)
        gain[i[pairs], j[pairs]] = min(shape) + 1.0 + iou[pairs] + TIE * (1 - i[pairs] / shape[0])
        assigned = np.zeros(shape, dtype=np.bool_)
        assigned[linear_sum_assignment(gain, maximize=True)] = True
        chosen.append(pairs[assigned[i[pairs], j[pairs]]])
    return np.concatenate(chosen)


def _rank_within(group: NDArray[np.integer]) -> Integers:
    """Counts for each row [n] the earlier rows of the same group."""
    order = np.argsort(group, kind="stable")
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(group[order], group[order])
    return rank


def _among(key: Integers, keys: Integers) -> Flags:
    """Flags the entries of key [M] that occur in the sorted `keys`."""
    return np.asarray(np.searchsorted(keys, key, side="right") > np.searchsorted(keys, key))
