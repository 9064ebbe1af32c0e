"""Measures how many of an image's valid answers its K samples give: one row per image and category, and one per
image.

Only verified mentions count towards diversity, so noise does not raise it. An undefined figure is nan, never 0.
`harness.metrics.samples.aggregate` turns these tables into the published figures.

Shape legend: I images, C categories, K samples per image, M mentions, V verified mentions, N instances, n rows: the
(image, category) pairs with ground truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.metrics.samples import text as texts
from harness.metrics.samples.matching import CHUNK, Verification, box_iou
from harness.metrics.samples.mentions import Answers, Flags, Floats, Integers, Mentions, Truth, ratio
from harness.metrics.samples.ways import ways_of_answering

SIGNS = 4_000_000
"""Entries of the arrays from which order distances are computed: up to 32 MB each."""


@dataclass(frozen=True, slots=True)
class CategoryTable:
    """One row for each image and category with ground truth, sorted by image and category.

    n_images        I
    names           [C]         number of names S of each category
    image, category [n]         indices
    verified        [n, K + 1]  how many of the row's instances were verified by exactly v of the K samples
    named           [n, K + 1]  how many names were used, for a verified mention, in exactly v of the samples, v >= 1
                                (column 0 is 0); nan where it is not known
    present         [n]         in how many samples the category has a verified mention; nan where it is not known
    choices         [n]         number of different (instance, name) pairs among the verified mentions; nan likewise
    name_diversity  [n]         mean over instances of the share of pairs of different verifying samples that differ
                                in name, 1 - sum over names a of v_a (v_a - 1) / (v (v - 1)); nan where no instance
                                has two verifying samples
    distinct_names  [n]         number of different names among the verified mentions; nan where none is verified
    box_spread      [n]         mean over instances of the mean of 1 - IoU over pairs of verifying boxes; nan where no
                                instance has two verifying samples
    """

    n_images: int
    names: Integers
    image: Integers
    category: Integers
    verified: Integers
    named: Floats
    present: Floats
    choices: Floats
    name_diversity: Floats
    distinct_names: Floats
    box_spread: Floats


@dataclass(frozen=True, slots=True)
class ImageTable:
    """Columns [I]; counts are totals over the K samples of an image; nan where undefined or not known.

    neutral_mentions       unmatched, and neither right nor wrong
    duplicates             leaves out the neutral ones
    lenient                mentions that are not quite in the model's format
    unique_name_sequences  number of different sequences of names over K
    unique_sequences       the same for names with their boxes
    order_distance         see `order_distance`; undefined where no two samples share two verified instances
    self_bleu, distinct_1, distinct_2, vendi  see harness.metrics.samples.text
    distinct_ways, way_diversity  see harness.metrics.samples.ways
    """

    samples: Floats
    mentions: Floats
    verified_mentions: Floats
    neutral_mentions: Floats
    duplicates: Floats
    hallucinations: Floats
    unknown_names: Floats
    malformed: Floats
    truncated: Floats
    lenient: Floats
    unique_name_sequences: Floats
    unique_sequences: Floats
    order_distance: Floats
    self_bleu: Floats
    distinct_1: Floats
    distinct_2: Floats
    vendi: Floats
    distinct_ways: Floats
    way_diversity: Floats


@dataclass(frozen=True, slots=True)
class _Verified:
    """V verified mentions, sorted by instance and sample: row, instance, sample, name [V]; boxes [V, 4]."""

    row: Integers
    instance: Integers
    sample: Integers
    name: Integers
    boxes: Floats


def category_table(truth: Truth, answers: Answers, verification: Verification, names: Integers) -> CategoryTable:
    """Computes the diversity of the K samples per image and category; names [C]: number of names S of each category."""
    key, row = np.unique(truth.image * truth.categories + truth.category, return_inverse=True)
    n, samples, instances = len(key), answers.samples, len(row)
    verified = _verified(answers.mentions, verification, row)
    times = np.bincount(verified.instance, minlength=instances)  # v of each instance, [N]
    histogram = np.bincount(row * (samples + 1) + times, minlength=n * (samples + 1)).reshape(n, samples + 1)
    named = _named(verified, n, samples)
    used = named.sum(axis=1)
    return CategoryTable(
        n_images=len(truth.image_ids),
        names=names,
        image=key // max(1, truth.categories),
        category=key % max(1, truth.categories),
        verified=histogram,
        named=named,
        present=_counted(np.unique(verified.row * samples + verified.sample) // samples, n),
        choices=_counted(row[_names_of_instances(verified)[0]], n),
        name_diversity=_mean_by_row(row, _name_diversity(verified, times), n),
        distinct_names=np.where(used > 0, used, np.nan),
        box_spread=_mean_by_row(row, _box_spread(verified, times), n),
    )


def _verified(mentions: Mentions, verification: Verification, row: Integers) -> _Verified:
    matched = np.flatnonzero(verification.instance >= 0)
    rows = matched[np.argsort(verification.instance[matched], kind="stable")]
    instance = verification.instance[rows]
    _, name = np.unique(mentions.name[rows], return_inverse=True)
    return _Verified(row[instance], instance, mentions.sample[rows], name, mentions.boxes[rows])


def _named(verified: _Verified, n: int, samples: int) -> Floats:
    """Counts, for each row and v, the names that were used in exactly v samples, [n, K + 1]."""
    names = verified.name.max(initial=0) + 1
    uses = np.unique((verified.row * names + verified.name) * samples + verified.sample) // samples  # one per sample
    name_of_row, times = np.unique(uses, return_counts=True)
    shape = n, samples + 1
    return _counted(name_of_row // names * shape[1] + times, n * shape[1]).reshape(shape)


def _names_of_instances(verified: _Verified) -> tuple[Integers, Integers]:
    """Returns the instance of each different (instance, name) pair, and in how many samples the pair occurs."""
    names = verified.name.max(initial=0) + 1
    pair, times = np.unique(verified.instance * names + verified.name, return_counts=True)
    return pair // names, times


def _name_diversity(verified: _Verified, times: Integers) -> Floats:
    """Estimates the probability that two new samples name an instance differently, without bias, [N]."""
    instance, uses = _names_of_instances(verified)
    agreeing = np.bincount(instance, weights=uses * (uses - 1) / 2, minlength=len(times))
    return 1.0 - ratio(agreeing, times * (times - 1) / 2)


def _box_spread(verified: _Verified, times: Integers) -> Floats:
    """Averages 1 - IoU over the pairs of boxes that different samples give for one instance, [N]."""
    total = np.zeros(len(times))
    for apart in range(1, int(times.max(initial=0))):  # an instance's boxes are neighbours
        first = np.flatnonzero(verified.instance[apart:] == verified.instance[:-apart])
        for rows in np.split(first, np.arange(CHUNK, len(first), CHUNK)):
            spread = 1.0 - box_iou(verified.boxes[rows], verified.boxes[rows + apart])
            total += np.bincount(verified.instance[rows], weights=spread, minlength=len(times))
    return ratio(total, times * (times - 1) / 2)


def image_table(truth: Truth, answers: Answers, verification: Verification, text: bool = True) -> ImageTable:
    """Computes counts and sequence-level figures of every image; the text figures are nan where `text` is false."""
    mentions, images, samples = answers.mentions, len(truth.image_ids), answers.samples
    _, name = np.unique(mentions.name, return_inverse=True)
    sequences = texts.NameSequences(mentions.image, mentions.sample, name, images, samples)

    def count(flags: Flags) -> Floats:
        return _counted(mentions.image[flags], images)

    def figure(function: Callable[[texts.NameSequences], Floats]) -> Floats:
        return function(sequences) if text else np.full(images, np.nan)

    ways = ways_of_answering(truth, mentions, verification, samples)
    return ImageTable(
        samples=np.full(images, float(samples)),
        mentions=_counted(mentions.image, images),
        verified_mentions=count(verification.instance >= 0),
        neutral_mentions=count(verification.neutral),
        duplicates=count(verification.duplicate & ~verification.neutral),
        hallucinations=count(verification.hallucination),
        unknown_names=count(verification.unknown),
        malformed=answers.malformed.sum(axis=1).astype(np.float64),
        truncated=answers.truncated.sum(axis=1).astype(np.float64),
        lenient=answers.lenient.sum(axis=1).astype(np.float64),
        unique_name_sequences=_different_sequences(mentions, name, images, samples) / samples,
        unique_sequences=_different_sequences(mentions, _contents(name, mentions.boxes), images, samples) / samples,
        order_distance=_order_distances(truth, answers, verification),
        self_bleu=figure(texts.self_bleu),
        distinct_1=figure(lambda names: texts.distinct(names, 1)),
        distinct_2=figure(lambda names: texts.distinct(names, 2)),
        vendi=figure(texts.vendi),
        distinct_ways=ways.distinct,
        way_diversity=ways.diversity,
    )


def _contents(name: Integers, boxes: Floats) -> Integers:
    """Codes name and box of each mention as 0, 1, ..., [M]: equal codes mean equal name and box."""
    code = name
    for column in boxes.T:
        _, value = np.unique(column, return_inverse=True)
        _, code = np.unique(code * len(value) + value, return_inverse=True)
    return code


def _different_sequences(mentions: Mentions, symbol: Integers, images: int, samples: int) -> Integers:
    """Counts the different sequences of symbols [M] among the K samples of each image, [I].

    The count is exact, without hashing: all samples of an image descend a tree from its root, one mention at a time,
    and two samples end at the same node if they are equal. Symbols are 0, 1, ...
    """
    slot = mentions.image * samples + mentions.sample  # ascending
    position = np.arange(len(slot)) - np.searchsorted(slot, slot)
    order = np.argsort(position, kind="stable")
    node, nodes = np.repeat(np.arange(images), samples), images
    for rows in np.split(order, np.flatnonzero(np.diff(position[order])) + 1):
        children, child = np.unique(node[slot[rows]] * len(symbol) + symbol[rows], return_inverse=True)
        node[slot[rows]] = nodes + child
        nodes += len(children)
    _, first = np.unique(node, return_index=True)
    return np.bincount(first // samples, minlength=images)


def _order_distances(truth: Truth, answers: Answers, verification: Verification) -> Floats:
    """Computes `order_distance` of each image, [I]; images with equally many verified instances form one batch."""
    rows = np.flatnonzero(verification.instance >= 0)
    instances = np.unique(verification.instance[rows])
    count = np.bincount(truth.image[instances], minlength=len(truth.image_ids))
    rank = np.zeros(len(truth.image), dtype=np.int64)  # of each verified instance among those of its image
    rank[instances] = np.arange(len(instances)) - (np.cumsum(count) - count)[truth.image[instances]]
    start = np.searchsorted(answers.mentions.image[rows], np.arange(len(count) + 1))
    distance = np.full(len(count), np.nan)
    for size in np.unique(count[count > 1]).tolist():
        chosen = np.flatnonzero(count == size)
        step = max(1, SIGNS // (answers.samples * math.comb(size, 2)))
        for images in np.split(chosen, np.arange(step, len(chosen), step)):
            mentions = np.concatenate([rows[start[image] : start[image + 1]] for image in images])
            position = np.full((len(images), answers.samples, size), np.nan)
            at = np.searchsorted(images, answers.mentions.image[mentions]), answers.mentions.sample[mentions]
            position[*at, rank[verification.instance[mentions]]] = mentions
            distance[images] = order_distance(position)
    return distance


def order_distance(position: Floats) -> Floats:
    """Computes the mean Kendall tau distance over pairs of samples: the share of shared object pairs in opposite
    order.

    position [..., K, n]: the place at which a sample mentions each of n instances (any increasing numbers), nan where
    it does not verify the instance. A pair of samples that shares fewer than two instances has no distance; [...],
    nan where no pair has one. 0 means always the same order; random orders give 1/2 on average.
    """
    first, second = np.triu_indices(position.shape[-1], k=1)
    # +1 or -1 by which of two instances a sample names first, 0 if it lacks one of them: [..., K, n (n - 1) / 2]
    signs = np.nan_to_num(np.sign(position[..., second] - position[..., first])).astype(np.float32)
    agreement, shared = (part @ np.swapaxes(part, -1, -2) for part in (signs, np.abs(signs)))  # [..., K, K], exact
    one, other = np.triu_indices(position.shape[-2], k=1)
    shared, agreement = shared[..., one, other].astype(np.float64), agreement[..., one, other]
    distances = ratio(shared - agreement, 2 * shared)
    return ratio(np.nansum(distances, axis=-1), (shared > 0).sum(axis=-1))


def coverage(verified: Integers, samples: int, k: int) -> Floats:
    """Computes the probability that k of the K samples, drawn without replacement, verify an instance at least once.

    1 - C(K - v, k) / C(K, k) for each count v in `verified` (any shape, 0 <= v <= K), with K = samples and
    1 <= k <= K: the unbiased estimate of coverage@k (Chen et al., 2021).
    """
    if not 1 <= k <= samples:
        raise ValueError(f"coverage@k needs 1 <= k <= {samples} samples, got k = {k}")
    missed = np.array([math.comb(samples - v, k) / math.comb(samples, k) for v in range(samples + 1)])
    return np.asarray(1.0 - missed[verified])


def _counted(index: Integers, length: int) -> Floats:
    """Counts how often each of 0 .. length - 1 occurs in `index`."""
    return np.bincount(index, minlength=length).astype(np.float64)


def _mean_by_row(row: Integers, values: Floats, n: int) -> Floats:
    """Averages the defined values [N] of the instances of each row, [n]; nan where there is none."""
    defined = ~np.isnan(values)
    total = np.bincount(row[defined], weights=values[defined], minlength=n)
    return ratio(total, _counted(row[defined], n))
