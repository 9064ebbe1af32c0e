"""In how many ways an image's K samples answer: the order in which they list objects, how finely they list them, and by
which names.

A sample's way is a key of three parts, of its verified mentions alone, so that noise cannot pass for diversity:

    order        the rule that the order of its mentions keeps best: reading order (upper edge, then left edge), left to
                 right, or largest first; none where more than a quarter of its successive pairs break each of them.
                 Of equally good rules the first; of a single mention there is no order
    granularity  whether it lists all instances of the image, at least half of them, or fewer
    names        which names it uses, however often

Orders as such would be too fine a key: n objects have n! of them, and no two samples of a random order agree. Rules are
what people answer by. A sample without a verified mention has no way.

Shape legend: I images, K samples per image, V verified mentions, S = I * K slots, one for each sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.metrics.samples.matching import Verification
from harness.metrics.samples.mentions import Floats, Integers, Mentions, Truth, ratio

BREAKS = 0.25
"""Share of successive pairs that may break a rule which still counts as kept."""
RULES = 3


@dataclass(frozen=True, slots=True)
class Ways:
    """distinct [I]: number of different ways among the samples that have one, nan where none has; diversity [I]: share
    of pairs of different samples whose ways differ (unbiased in K), nan where fewer than two have one."""

    distinct: Floats
    diversity: Floats


def ways_of_answering(truth: Truth, mentions: Mentions, verification: Verification, samples: int) -> Ways:
    """Computes the ways of K samples of each of I images."""
    images = len(truth.image_ids)
    rows = np.flatnonzero(verification.instance >= 0)  # sorted by image and sample, in the order of the sequence
    slot, instance = mentions.image[rows] * samples + mentions.sample[rows], verification.instance[rows]
    parts = (
        orders(truth, slot, instance, images * samples),
        granularities(truth, slot, images * samples, samples),
        _name_sets(slot, mentions.name[rows], images * samples),
    )
    answering = np.unique(slot)
    keys = np.stack([answering // samples, *(part[answering] for part in parts)])
    different, times = np.unique(keys, axis=1, return_counts=True)
    image = different[0] if keys.size else np.zeros(0, dtype=np.int64)
    distinct = np.bincount(image, minlength=images).astype(np.float64)
    answers = np.bincount(image, weights=times, minlength=images)
    agreeing = np.bincount(image, weights=times * (times - 1) / 2, minlength=images)
    return Ways(
        np.where(answers > 0, distinct, np.nan),
        1.0 - ratio(agreeing, answers * (answers - 1) / 2),
    )


def orders(truth: Truth, slot: Integers, instance: Integers, slots: int) -> Integers:
    """Finds the rule that each sample keeps best, [S]: 0 .. RULES - 1, RULES where it keeps none, and -1 where it has
    fewer than two verified mentions. slot, instance [V], by slot in the order of the sequence."""
    neighbours = np.flatnonzero(slot[1:] == slot[:-1])
    pairs = np.bincount(slot[neighbours], minlength=slots)
    breaks = np.stack(
        [
            np.bincount(slot[neighbours[rank[instance[neighbours]] > rank[instance[neighbours + 1]]]], minlength=slots)
            for rank in _ranks(truth)
        ]
    )
    best = np.where(breaks.min(axis=0) <= BREAKS * pairs, breaks.argmin(axis=0), RULES)
    return np.where(pairs > 0, best, -1)


def _ranks(truth: Truth) -> tuple[Integers, ...]:
    """The rank of each instance by each rule; of equal ones that of the annotations' order."""
    x, y, width, height = truth.boxes.T
    sorted_by = ((x, y), (y, x), (-width * height,))  # the last key counts first
    ranks = []
    for keys in sorted_by:
        rank = np.empty(len(x), dtype=np.int64)
        rank[np.lexsort(keys)] = np.arange(len(x))
        ranks.append(rank)
    return tuple(ranks)


def granularities(truth: Truth, slot: Integers, slots: int, samples: int) -> Integers:
    """Says how finely each sample lists its image, [S]: 2 all instances, 1 at least half of them, 0 fewer."""
    there = np.repeat(np.bincount(truth.image, minlength=slots // max(samples, 1)), samples)
    listed = np.bincount(slot, minlength=slots)
    return (2 * listed >= there).astype(np.int64) + (listed >= there)


def _name_sets(slot: Integers, name: Integers, slots: int) -> Integers:
    """A code of the set of names that each sample uses, [S]: equal where the sets are."""
    different, code = np.unique(name, return_inverse=True)
    names = max(1, len(different))
    pairs = np.unique(slot * names + code)
    starts = np.searchsorted(pairs // names, np.arange(slots + 1))
    codes: dict[bytes, int] = {}
    used = pairs % names
    set_codes = np.zeros(slots, dtype=np.int64)
    for index in np.flatnonzero(np.diff(starts)).tolist():
        content = used[starts[index] : starts[index + 1]].tobytes()
        set_codes[index] = codes.setdefault(content, len(codes))
    return set_codes
