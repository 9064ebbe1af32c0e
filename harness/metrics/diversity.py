"""How many of an image's valid answers its K samples give: rows per image and category, and per image.

Only verified mentions count towards diversity, so noise cannot pass for it. A figure that is undefined is
None, never 0. `harness.metrics.aggregate` turns these rows into the published figures.

Shape legend: K samples of an image, n instances.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics.matching import MatchedMention, box_array, iou_matrix
from harness.types import Box, Example, Mention, Parsed


@dataclass(frozen=True, slots=True)
class CategoryRow:
    """One category that has ground truth in one image.

    instances       number of its instances in the image
    verified        per instance (in the example's order): how many of the K samples verify it
    name_diversity  mean over instances of `gini_simpson` of the verifying names; None where no instance has
                    two verifying samples
    distinct_names  number of different names among the verified mentions; None where none is verified
    box_spread      mean over instances of `box_spread`; None where no instance has two verifying samples
    """

    image_id: int
    category_id: int
    instances: int
    verified: tuple[int, ...]
    name_diversity: float | None
    distinct_names: int | None
    box_spread: float | None


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image; counts are totals over its K samples.

    duplicates             leaves out the neutral ones, which are neither right nor wrong
    unique_name_sequences  number of different tuples of names, in order, over K
    unique_sequences       the same for names with their boxes
    order_distance         see `order_distance`
    """

    image_id: int
    samples: int
    mentions: int
    duplicates: int
    hallucinations: int
    unknown_names: int
    malformed: int
    truncated: int
    unique_name_sequences: float
    unique_sequences: float
    order_distance: float | None


def category_rows(
    example: Example, samples: Sequence[tuple[Sequence[Mention], Sequence[MatchedMention]]]
) -> list[CategoryRow]:
    """One row per category with ground truth in the image, in order of category id.

    samples: the K samples, each as its mentions and what `match_sample` says about them.
    """
    verifying: dict[int, list[Mention]] = defaultdict(list)  # at most one mention per instance and sample
    for mentions, matched in samples:
        for mention, match in zip(mentions, matched, strict=True):
            if match.instance_id is not None:
                verifying[match.instance_id].append(mention)
    by_category: dict[int, list[list[Mention]]] = defaultdict(list)
    for instance in example.instances:
        by_category[instance.category_id].append(verifying.get(instance.id, []))
    return [_category_row(example.image_id, *item) for item in sorted(by_category.items())]


def _category_row(image_id: int, category_id: int, verifying: list[list[Mention]]) -> CategoryRow:
    names = [[mention.name for mention in mentions] for mentions in verifying]
    return CategoryRow(
        image_id=image_id,
        category_id=category_id,
        instances=len(verifying),
        verified=tuple(len(mentions) for mentions in verifying),
        name_diversity=_mean(gini_simpson(chosen) for chosen in names),
        distinct_names=len({name for chosen in names for name in chosen}) or None,
        box_spread=_mean(box_spread([mention.box for mention in mentions]) for mentions in verifying),
    )


def image_row(example: Example, samples: Sequence[tuple[Parsed, Sequence[MatchedMention]]]) -> ImageRow:
    """Counts and sequence-level figures of one image from its K >= 1 samples."""
    parsed = [sample for sample, _ in samples]
    matched = [match for _, matches in samples for match in matches]
    contents = [tuple((mention.name, mention.box) for mention in sample.mentions) for sample in parsed]
    names = [tuple(name for name, _ in content) for content in contents]
    return ImageRow(
        image_id=example.image_id,
        samples=len(samples),
        mentions=len(matched),
        duplicates=sum(match.duplicate and not match.neutral for match in matched),
        hallucinations=sum(match.hallucination for match in matched),
        unknown_names=sum(match.unknown for match in matched),
        malformed=sum(sample.malformed for sample in parsed),
        truncated=sum(sample.truncated for sample in parsed),
        unique_name_sequences=len(set(names)) / len(samples),
        unique_sequences=len(set(contents)) / len(samples),
        order_distance=order_distance([_verified_order(matches) for _, matches in samples]),
    )


def gini_simpson(names: Sequence[str]) -> float | None:
    """Share of pairs of different samples that differ in name: 1 - sum_a n_a (n_a - 1) / (n (n - 1)).

    names: the name that each verifying sample gives one instance. The unbiased estimate of the probability
    that two fresh samples differ; None for fewer than two names.
    """
    pairs = math.comb(len(names), 2)
    if pairs == 0:
        return None
    return 1 - sum(math.comb(count, 2) for count in Counter(names).values()) / pairs


def box_spread(boxes: Sequence[Box]) -> float | None:
    """Mean of 1 - IoU over the pairs of boxes that different samples give one instance; None below two."""
    if len(boxes) < 2:
        return None
    array = box_array(boxes)
    upper = np.triu_indices(len(boxes), k=1)
    return float(np.mean(1.0 - iou_matrix(array, array)[upper]))


def order_distance(orders: Sequence[Sequence[int]]) -> float | None:
    """Mean Kendall tau distance over pairs of samples: the share of shared object pairs in opposite order.

    orders: per sample the ids of the instances that it verifies, in the order of its mentions. A pair of
    samples that shares fewer than two instances has no distance; None where no pair has one. 0 is always the
    same order, 1/2 what random orders give on average.
    """
    ids = {instance: column for column, instance in enumerate(sorted({i for order in orders for i in order}))}
    if len(ids) < 2:
        return None
    # signs [K, n(n-1)/2]: +1 or -1 by which of two instances a sample names first, 0 if it lacks one of them
    position = np.full((len(orders), len(ids)), np.nan)
    for sample, order in enumerate(orders):
        position[sample, [ids[instance] for instance in order]] = np.arange(len(order))
    first, second = np.triu_indices(len(ids), k=1)
    signs = np.nan_to_num(np.sign(position[:, second] - position[:, first]))
    agreement, shared = signs @ signs.T, np.abs(signs) @ np.abs(signs).T  # [K, K]
    defined = np.triu(shared, k=1) > 0
    if not defined.any():
        return None
    return float(np.mean((shared - agreement)[defined] / (2 * shared[defined])))


def coverage(verified: NDArray[np.int64], samples: int, k: int) -> NDArray[np.float64]:
    """Probability that k of the K samples, drawn without replacement, verify an instance at least once.

    1 - C(K - v, k) / C(K, k) for each count v in `verified` (any shape, 0 <= v <= K), with K = samples and
    1 <= k <= K: the unbiased estimate of coverage@k (Chen et al., 2021).
    """
    if not 1 <= k <= samples:
        raise ValueError(f"coverage@k needs 1 <= k <= {samples} samples, got k = {k}")
    missed = np.array([math.comb(samples - v, k) / math.comb(samples, k) for v in range(samples + 1)])
    return np.asarray(1.0 - missed[verified])


def _verified_order(matches: Sequence[MatchedMention]) -> list[int]:
    return [match.instance_id for match in matches if match.instance_id is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the defined values; None where there are none."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
