"""Makes one detection per object from K samples: what most samples mention scores higher than what one mentions.

Shape legend: M mentions, D detections, K samples per image, m mentions that are not yet assigned, G groups (an
image and a category each) that still have some.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.metrics.samples.matching import box_iou
from harness.metrics.samples.mentions import Flags, Floats, Integers, Mentions

JOIN_IOU = 0.5
"""IoU with the seed from which a mention of another sample can mean the same object."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """D detections, sorted by image and category; within these in the order in which their seeds were chosen.

    image, category  [D]     indices
    boxes            [D, 4]  `x, y, w, h` in pixels
    scores           [D]     in [0, 1]
    """

    image: Integers
    category: Integers
    boxes: Floats
    scores: Floats

    def __len__(self) -> int:
        return len(self.scores)


def consensus(mentions: Mentions, samples: int) -> Consensus:
    """Clusters the mentions of one category in an image, with at most one mention from each of the K = `samples`
    samples.

    For each image and category, repeat: the most probable mention that is not yet assigned becomes a seed; from every
    other sample the unassigned mention of highest IoU >= 0.5 with the seed joins it. Of equals the earlier mention is
    taken, both times. A box without area overlaps nothing. Each cluster is one detection:

        box = mean of its members' x, y, w, h
        score = members / K * mean score of the members = sum of their scores / K

    so a sample that does not see an object counts as probability 0. This is the score source `consensus` of a suite.

    Mentions of no known category and those without a probability (nan) are left out: they neither seed nor join, so
    answers without any probabilities have no consensus (D = 0).
    """
    usable = np.flatnonzero((mentions.category >= 0) & ~np.isnan(mentions.score))
    categories = 1 + int(mentions.category.max(initial=0))
    group = mentions.image[usable] * categories + mentions.category[usable]
    # Mentions are sorted by image and sample, so those of a group are now in order of sample, then of their rows.
    order = np.argsort(group, kind="stable")
    rows, group = usable[order], group[order]
    boxes, scores = mentions.boxes[rows], mentions.score[rows]
    cluster, seeds = _clusters(group, mentions.sample[rows], boxes, scores)

    members = np.bincount(cluster, minlength=len(seeds))
    sums = np.stack([np.bincount(cluster, weights=values, minlength=len(seeds)) for values in (*boxes.T, scores)])
    by_group = np.argsort(group[seeds], kind="stable")
    image, category = np.divmod(group[seeds][by_group], categories)
    return Consensus(image, category, (sums[:4] / members).T[by_group], sums[4][by_group] / samples)


def _clusters(group: Integers, sample: Integers, boxes: Floats, scores: Floats) -> tuple[Integers, Integers]:
    """Returns the number of each mention's cluster [m] and the row of each cluster's seed [D]; clusters are numbered
    in the order in which they are made.

    Rows are sorted by group, then sample. Groups are independent, so each makes its next cluster at the same time:
    there are as many rounds as clusters in the largest group.
    """
    cluster, seeds = np.full(len(group), -1, dtype=np.int64), np.empty(0, dtype=np.int64)
    rows = np.arange(len(group))
    while len(rows):
        changed = _changes(group[rows])
        group_number = np.cumsum(changed) - 1  # [m]: which of the G groups
        seed = _first_best(scores[rows], np.flatnonzero(changed))  # [G], positions among the m
        overlap = box_iou(boxes[rows[seed]][group_number], boxes[rows])
        value = np.where(overlap >= JOIN_IOU, overlap, -1.0)
        value[seed] = np.inf  # before any other mention of its own sample
        best = _first_best(value, np.flatnonzero(_changes(group[rows], sample[rows])))
        members = best[value[best] > 0]
        cluster[rows[members]] = len(seeds) + group_number[members]
        seeds = np.append(seeds, rows[seed])
        rows = rows[cluster[rows] < 0]
    return cluster, seeds


def _changes(*keys: Integers) -> Flags:
    """Flags the rows where at least one of the keys [m] differs from the row before, [m]; the first row is flagged."""
    changed = np.ones(len(keys[0]), dtype=np.bool_)
    changed[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return changed


def _first_best(values: Floats, starts: Integers) -> Integers:
    """Returns the position of the first maximum of each segment of values [m]; segments begin at `starts`."""
    best = np.maximum.reduceat(values, starts)
    is_best = np.flatnonzero(values == np.repeat(best, np.diff(starts, append=len(values))))
    return is_best[np.searchsorted(is_best, starts)]
