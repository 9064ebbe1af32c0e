"""Turns tables into figures under image weights: every figure of a cell is a function of (tables, weights).

With all weights 1 a figure is its point estimate; with the rows of `stats.bootstrap_weights` it is a set of
bootstrap replicates. A figure that is undefined under some weights is nan there, and a nan category drops out
of that replicate's mean only.

Shape legend: I images, C categories, R weightings (1, or the bootstrap replicates), n (image, category) rows
with ground truth, K samples per image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    "distinct_ways",
    "way_diversity",
)
"""Columns of ImageTable whose weighted mean over the images is the figure."""

AVERAGED = ("name_diversity", "distinct_names", "box_spread")
"""Columns of CategoryTable whose weighted mean over the images is the figure."""
CHUNK = 1 << 24
"""Numbers that are held in memory at once: 128 MB."""

REPORTABLE = 10
"""A category's figure is reportable if it rests on at least this many images."""


def category_figures(table: CategoryTable, weights: Weights | None = None) -> dict[str, Floats]:
    """Computes the figures of each category, each [R, C], nan where undefined; weights [R, I] or None (all 1).

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
    columns = np.ones((table.n_images, 1)) if weights is None else weights.T  # [I, R]
    blocks, replicates, categories = _blocks(table), columns.shape[1], len(table.names)
    figures = {name: np.empty((categories, replicates)) for name in _fractions(table)}
    for chunk in _chunks(replicates, categories * sum(len(block) for block in blocks.values())):
        sums = _by_category(blocks, table, columns[:, chunk])
        for name, (top, bottom) in _fractions(table).items():
            figures[name][:, chunk] = ratio(top.of(sums), bottom.of(sums))
    by_name = {name: values.T for name, values in figures.items()}
    by_name["normalised_name_diversity"] = normalise(by_name["name_diversity"], table.names)
    return by_name


def support(table: CategoryTable) -> dict[str, Integers]:
    """Counts the images that each figure of each category rests on, [C] (by the names of `category_figures`)."""
    blocks = {name: block[:, None] for name, block in _blocks(table).items()}  # [width, 1, n]
    counts = {
        name: np.bincount(table.category[bottom.of(blocks)[0] > 0], minlength=len(table.names))
        for name, (_, bottom) in _fractions(table).items()
    }
    counts["normalised_name_diversity"] = np.where(table.names > 1, counts["name_diversity"], 0)
    return counts


class _Linear(NamedTuple):
    """A weighted sum of the columns of a block of `_blocks`."""

    block: str
    coefficients: Floats

    def of(self, blocks: Mapping[str, Floats]) -> Floats:
        """blocks [width, ...] by name -> [...]."""
        values = blocks[self.block]
        return np.asarray(self.coefficients @ values.reshape(len(values), -1)).reshape(values.shape[1:])


def _blocks(table: CategoryTable) -> dict[str, Floats]:
    """Returns the columns whose weighted sums over the rows of a category make the figures, each [width, n]. All but
    the means of real numbers are whole numbers."""
    defined = ~np.isnan(table.present)
    present = np.where(defined, table.present, 0).astype(np.int64)
    width = table.verified.shape[1]
    if present.min(initial=0) < 0 or present.max(initial=0) >= width:
        raise ValueError(f"expected categories to be present in 0 to {width - 1} samples, got {present.max(initial=0)}")
    several = defined & (table.names[table.category] > 1)
    instances = table.verified.sum(axis=1)
    blocks = {
        "verified": table.verified.T.astype(np.float64),
        "named": np.nan_to_num(table.named.T),
        "present": (present == np.arange(width)[:, None]).astype(np.float64),
        "choices": np.where(several, table.choices, 0.0)[None],
        "choosable": np.where(several, instances * table.names[table.category], 0.0)[None],
    }
    for name in AVERAGED:
        values = getattr(table, name)
        blocks |= {name: np.nan_to_num(values)[None], f"{name} defined": (~np.isnan(values)).astype(np.float64)[None]}
    return blocks


def _fractions(table: CategoryTable) -> dict[str, tuple[_Linear, _Linear]]:
    """Returns numerator and denominator of each figure, before they are summed (weighted) over the images of a
    category."""
    width = table.verified.shape[1]
    samples, counts, one = width - 1, np.arange(width), np.ones(1)
    instances = _Linear("verified", np.ones(width))
    fractions = {
        "recall": (_Linear("verified", counts.astype(np.float64)), _Linear("verified", np.full(width, float(samples))))
    }
    for k in range(1, width):
        covered = coverage(counts, samples, k)
        fractions[f"coverage@{k}"] = (_Linear("verified", covered), instances)
        fractions[f"distinct_names@{k}"] = (_Linear("named", covered), _Linear("present", covered))
    fractions["cluster_coverage"] = (_Linear("choices", one), _Linear("choosable", one))
    return fractions | {name: (_Linear(name, one), _Linear(f"{name} defined", one)) for name in AVERAGED}


def normalise(name_diversity: Floats, names: Integers) -> Floats:
    """Divides name_diversity [..., C] by its value for a uniform choice among `names` [C] names, 1 - 1/S.

    nan where S = 1: a category with one name leaves no choice to measure.
    """
    uniform = np.where(names > 1, 1.0 - 1.0 / np.maximum(names, 1), np.nan)
    return np.asarray(name_diversity / uniform)


def image_figures(table: ImageTable, weights: Weights | None = None) -> dict[str, Floats]:
    """Computes figures from the columns of each image, each [R], nan where undefined; weights [R, I] or None (all 1).

    unique_name_sequences, unique_sequences, order_distance, self_bleu, distinct_1, distinct_2, vendi, distinct_ways,
    way_diversity: weighted mean over the images that define them. All but order_distance and way_diversity
    depend on K: compare them at equal K only.
    Rates are pooled over images: duplicates, hallucinations, unknown names and what was read leniently over mentions;
    malformed entries over mentions and malformed entries; truncated samples over samples. precision, likewise pooled:
    verified mentions over those that are right or wrong (not neutral).
    """
    weights = np.ones((1, len(table.samples))) if weights is None else weights
    fractions = {name: _defined(getattr(table, name)) for name in MEANS} | {
        "precision": (table.verified_mentions, table.mentions - table.neutral_mentions),
        "duplicate_rate": (table.duplicates, table.mentions),
        "hallucination_rate": (table.hallucinations, table.mentions),
        "unknown_name_rate": (table.unknown_names, table.mentions),
        "malformed_rate": (table.malformed, table.mentions + table.malformed),
        "truncation_rate": (table.truncated, table.samples),
        "lenient_rate": (table.lenient, table.mentions),
    }
    return _ratios(fractions, weights)


def mean_over_images(columns: Mapping[str, Floats], weights: Weights | None = None) -> dict[str, Floats]:
    """Computes the weighted mean of columns [I] over the images that define them (not nan), by name, each [R]; nan
    where no image does. weights [R, I] or None (all 1)."""
    if not columns:
        return {}
    images = len(next(iter(columns.values())))
    return _ratios(
        {name: _defined(values) for name, values in columns.items()},
        np.ones((1, images)) if weights is None else weights,
    )


def _ratios(fractions: Mapping[str, tuple[Floats, Floats]], weights: Weights) -> dict[str, Floats]:
    """Divides the weighted sums of numerators by those of denominators, columns [I] each, by name, each [R]."""
    sums = iter((weights @ np.column_stack([part for parts in fractions.values() for part in parts])).T)
    return {name: ratio(next(sums), next(sums)) for name in fractions}


def mean_figures(
    table: CategoryTable,
    per_image: ImageTable,
    frequency: Sequence[Frequency | None],
    weights: Weights | None = None,
) -> dict[str, Floats]:
    """Computes every figure of `category_figures` as a mean over categories and over those of each frequency
    ("recall/r"), and the figures of `image_figures`; each [R]."""
    by_name: dict[str, Floats] = {}
    for name, values in category_figures(table, weights).items():
        means = by_frequency(values, frequency)
        by_name |= {name if group == "all" else f"{name}/{group}": mean for group, mean in means.items()}
    return by_name | image_figures(per_image, weights)


def mean_defined(values: Floats) -> Floats:
    """Averages the defined (not nan) entries over the last axis, unweighted, [R, C] -> [R]; nan without any."""
    values = np.ascontiguousarray(values)  # the order of summation, and so the last digit, must not depend on R
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))


def by_frequency(values: Floats, frequency: Sequence[Frequency | None]) -> dict[str, Floats]:
    """Computes `mean_defined` over all categories ("all") and over those of each LVIS frequency ("r", "c", "f").

    values [R, C], frequency [C] -> each [R].
    """
    group = np.array([item or "" for item in frequency])
    members = np.column_stack([np.ones(len(group)), *((group == name).astype(np.float64) for name in "rcf")])  # [C, 4]
    undefined = np.isnan(values)
    sums = np.where(undefined, 0.0, values) @ members
    means = ratio(sums, members.sum(axis=0) - undefined.astype(np.float64) @ members)
    return dict(zip(("all", *"rcf"), means.T, strict=True))


def _by_category(blocks: Mapping[str, Floats], table: CategoryTable, columns: Weights) -> dict[str, Floats]:
    """Sums blocks [width, n], weighted, over the images of each category, [width, C, R] each; columns: [I, R].

    Whole numbers are summed in single precision where that is exact: the sums stay below 2**24.
    """
    most = float(columns.max(initial=0))
    exact = [
        name
        for name, block in blocks.items()
        if block.sum(axis=1).max(initial=0) * most < 2**24 and (block == np.rint(block)).all()
    ]
    sums: dict[str, Floats] = {}
    for kind, names in ((np.float32, exact), (np.float64, [name for name in blocks if name not in exact])):
        values = np.concatenate([blocks[name] for name in names] or [np.zeros((0, len(table.image)))]).astype(kind)
        summed = _sums(values, table, np.ascontiguousarray(columns, dtype=kind))
        widths = np.cumsum([len(blocks[name]) for name in names])[:-1]
        sums |= dict(zip(names, np.split(summed, widths), strict=True)) if names else {}
    return sums


def _sums(values: NDArray[Any], table: CategoryTable, drawn: NDArray[Any]) -> Floats:
    """Multiplies values [P, n] by drawn [I, R], both of one dtype, to [P, C, R]: one matrix product for each
    category."""
    order = np.argsort(table.category, kind="stable")
    bounds = np.searchsorted(table.category[order], np.arange(len(table.names) + 1))
    values, images = np.ascontiguousarray(values[:, order]), table.image[order]
    sums = np.zeros((len(values), len(table.names), drawn.shape[1]))
    for category in np.flatnonzero(np.diff(bounds)).tolist():
        rows = slice(bounds[category], bounds[category + 1])
        sums[:, category] = values[:, rows] @ drawn[images[rows]]
    return sums


def _chunks(replicates: int, size: int) -> Iterator[slice]:
    """Yields slices of replicates to process at a time, where one replicate takes `size` numbers."""
    step = max(1, CHUNK // max(1, size))
    return (slice(start, start + step) for start in range(0, replicates, step))


def _defined(values: Floats) -> tuple[Floats, Floats]:
    """Returns numerator and denominator of a mean over the defined entries."""
    return np.nan_to_num(values), (~np.isnan(values)).astype(np.float64)
