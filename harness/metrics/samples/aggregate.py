"""Tables -> figures under image weights: every figure of a cell is a function of (tables, weights).

With all weights 1 a figure is its point estimate; with the rows of `stats.bootstrap_weights` it is a set of
bootstrap replicates. A figure that is undefined under some weights is nan there, and a nan category drops out
of that replicate's mean only.

Shape legend: I images, C categories, R weightings (1, or the bootstrap replicates), n (image, category) rows
with ground truth, K samples per image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from harness.metrics.samples.diversity import CategoryTable, ImageTable, coverage
from harness.metrics.samples.mentions import Floats, Integers, ratio
from harness.types import Frequency

Weights = NDArray[np.floating]

MEANS = (
    "unique_name_sequences",
    "unique_sequences",
    "order_distance",
    "self_bleu",
    "distinct_1",
    "distinct_2",
    "vendi",
)
"""Figures of one image whose mean over the images is the figure."""

REPORTABLE = 10
"""A category's figure is reportable if it rests on at least this many images."""


def category_figures(table: CategoryTable, weights: Weights | None = None) -> dict[str, Floats]:
    """Figures of DESIGN 6.4 per category, each [R, C], nan where undefined; weights [R, I] or None (all 1).

    recall                     sum of w * verified pairs / (K * sum of w * instances)
    coverage@k, k = 1..K       sum of w * sum over instances of coverage(v) / sum of w * instances
    distinct_names@k, k = 1..K sum of w * sum over names of coverage@k(samples that use the name) / sum of w *
                               coverage@k(samples with a verified mention): the names that k samples give where they
                               give any (rarefied). Numerator and denominator are unbiased in K
    cluster_coverage           sum of w * different (instance, name) pairs / sum of w * instances * S: the share of
                               the name choices that the K samples reach. Grows with K, so compare it at equal K
                               only; undefined for S = 1, where it would be coverage@K
    name_diversity, distinct_names, box_spread
                               sum of w * value / sum of w, over the images where the value is defined.
                               distinct_names is distinct_names@K
    normalised_name_diversity  name_diversity / (1 - 1/S): 1 for a uniform choice among the category's S
                               names; undefined for S = 1. Unbiased, so it may exceed 1; never clamped
    """
    columns = np.ones((table.n_images, 1)) if weights is None else np.ascontiguousarray(weights.T, np.float64)
    figures = {
        name: ratio(*(_by_category(part, table, columns) for part in parts))
        for name, parts in _fractions(table).items()
    }
    figures["normalised_name_diversity"] = normalise(figures["name_diversity"], table.names)
    return figures


def support(table: CategoryTable) -> dict[str, Integers]:
    """How many images each figure of each category rests on, [C] (by the names of `category_figures`)."""
    counts = {
        name: np.bincount(table.category[denominator > 0], minlength=len(table.names))
        for name, (_, denominator) in _fractions(table).items()
    }
    counts["normalised_name_diversity"] = np.where(table.names > 1, counts["name_diversity"], 0)
    return counts


def _fractions(table: CategoryTable) -> dict[str, tuple[Floats, Floats]]:
    """Numerator and denominator [n] of each figure, to be summed (weighted) over the images of a category."""
    samples = table.verified.shape[1] - 1
    counts = np.arange(samples + 1)
    instances = table.verified.sum(axis=1).astype(np.float64)
    known = ~np.isnan(table.present)
    present = np.where(known, table.present, 0).astype(np.int64)
    fractions = {"recall": ((table.verified @ counts).astype(np.float64), samples * instances)}
    for k in range(1, samples + 1):
        covered = coverage(counts, samples, k)
        fractions[f"coverage@{k}"] = (table.verified @ covered, instances)
        fractions[f"distinct_names@{k}"] = (np.nan_to_num(table.named @ covered), covered[present])
    choice = np.where(known & (table.names[table.category] > 1), table.names[table.category], 0)
    fractions["cluster_coverage"] = (np.where(choice > 0, table.choices, 0.0), instances * choice)
    for name in ("name_diversity", "distinct_names", "box_spread"):
        fractions[name] = _defined(getattr(table, name))
    return fractions


def normalise(name_diversity: Floats, names: Integers) -> Floats:
    """name_diversity [..., C] over its value for a uniform choice among `names` [C] names, 1 - 1/S.

    nan where S = 1: a category with one name leaves no choice to measure.
    """
    uniform = np.where(names > 1, 1.0 - 1.0 / np.maximum(names, 1), np.nan)
    return np.asarray(name_diversity / uniform)


def image_figures(table: ImageTable, weights: Weights | None = None) -> dict[str, Floats]:
    """Figures per image, each [R], nan where undefined; weights [R, I] or None (all 1).

    unique_name_sequences, unique_sequences, order_distance, self_bleu, distinct_1, distinct_2, vendi: weighted mean
    over the images that define them. All but order_distance depend on K: compare them at equal K only.
    Rates are pooled over images: duplicates, hallucinations and unknown names over mentions; malformed
    entries over mentions and malformed entries; truncated samples over samples. precision, likewise pooled: verified
    mentions over those that are right or wrong (not neutral).
    """
    weights = np.ones((1, len(table.samples))) if weights is None else weights
    fractions = {name: _defined(getattr(table, name)) for name in MEANS} | {
        "precision": (table.verified_mentions, table.mentions - table.neutral_mentions),
        "duplicate_rate": (table.duplicates, table.mentions),
        "hallucination_rate": (table.hallucinations, table.mentions),
        "unknown_name_rate": (table.unknown_names, table.mentions),
        "malformed_rate": (table.malformed, table.mentions + table.malformed),
        "truncation_rate": (table.truncated, table.samples),
    }
    return {name: ratio(weights @ top, weights @ bottom) for name, (top, bottom) in fractions.items()}


def mean_figures(
    table: CategoryTable,
    per_image: ImageTable,
    frequency: Sequence[Frequency | None],
    weights: Weights | None = None,
) -> dict[str, Floats]:
    """Every figure of `category_figures` as a mean over categories, and over those of each frequency ("recall/r"),
    and those of `image_figures`; each [R]."""
    found: dict[str, Floats] = {}
    for name, values in category_figures(table, weights).items():
        means = by_frequency(values, frequency)
        found |= {name if group == "all" else f"{name}/{group}": mean for group, mean in means.items()}
    return found | image_figures(per_image, weights)


def mean_defined(values: Floats) -> Floats:
    """Unweighted mean of the defined (not nan) entries over the last axis, [R, C] -> [R]; nan without any."""
    values = np.ascontiguousarray(values)  # the order of summation, and so the last digit, must not depend on R
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))


def by_frequency(values: Floats, frequency: Sequence[Frequency | None]) -> dict[str, Floats]:
    """`mean_defined` over all categories ("all") and over those of each LVIS frequency ("r", "c", "f").

    values [R, C], frequency [C] -> each [R].
    """
    group = np.array([item or "" for item in frequency])
    means = {name: mean_defined(values[:, group == name]) for name in ("r", "c", "f")}
    return {"all": mean_defined(values)} | means


def _by_category(values: Floats, table: CategoryTable, columns: Floats) -> Floats:
    """Weighted sum of values [n] over the images of each category: [R, C]; columns: weights as [I, R]."""
    shape = (len(table.names), table.n_images)
    return np.asarray(csr_array((values, (table.category, table.image)), shape=shape) @ columns).T


def _defined(values: Floats) -> tuple[Floats, Floats]:
    """Numerator and denominator of a mean over the defined entries."""
    return np.nan_to_num(values), (~np.isnan(values)).astype(np.float64)
