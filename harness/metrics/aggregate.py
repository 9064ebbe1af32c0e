"""Rows -> figures under image weights: every figure of a cell is a function of (table, weights).

With all weights 1 a figure is its point estimate; with the rows of `stats.bootstrap_weights` it is a set of
bootstrap replicates. A figure that is undefined under some weights is nan there, and a nan category drops out
of that replicate's mean only.

Shape legend: I images, C categories, R weightings (1, or the bootstrap replicates), n (image, category) rows
with ground truth, K samples per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from harness.metrics.diversity import CategoryRow, ImageRow, coverage
from harness.types import Category, Frequency

Floats = NDArray[np.float64]
Weights = NDArray[np.floating]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CategoryTable:
    """All CategoryRows of a cell as arrays.

    n_images; names [C]: number of names S of each category; image [n], category [n]: indices;
    verified [n, K + 1]: how many of the row's instances were verified by exactly v of the K samples;
    name_diversity, distinct_names, box_spread [n]: nan where undefined.
    """

    n_images: int
    names: Integers
    image: Integers
    category: Integers
    verified: Integers
    name_diversity: Floats
    distinct_names: Floats
    box_spread: Floats


@dataclass(frozen=True, slots=True)
class ImageTable:
    """All ImageRows of a cell as arrays [I], in the order of the images; nan where undefined."""

    samples: Floats
    mentions: Floats
    duplicates: Floats
    hallucinations: Floats
    unknown_names: Floats
    malformed: Floats
    truncated: Floats
    unique_name_sequences: Floats
    unique_sequences: Floats
    order_distance: Floats


def category_table(
    rows: Sequence[CategoryRow], image_ids: Sequence[int], categories: Sequence[Category], samples: int
) -> CategoryTable:
    """Rows as arrays. `image_ids` fixes the order of the images (weights follow it), `samples` is K."""
    image = {image_id: index for index, image_id in enumerate(image_ids)}
    category = {item.id: index for index, item in enumerate(categories)}
    histograms = [np.bincount(row.verified, minlength=samples + 1) for row in rows]
    return CategoryTable(
        n_images=len(image_ids),
        names=np.array([len(set(item.names)) for item in categories], dtype=np.int64),
        image=np.array([image[row.image_id] for row in rows], dtype=np.int64),
        category=np.array([category[row.category_id] for row in rows], dtype=np.int64),
        verified=np.array(histograms, dtype=np.int64).reshape(-1, samples + 1),
        name_diversity=_column([row.name_diversity for row in rows]),
        distinct_names=_column([row.distinct_names for row in rows]),
        box_spread=_column([row.box_spread for row in rows]),
    )


def image_table(rows: Sequence[ImageRow], image_ids: Sequence[int]) -> ImageTable:
    """Rows as arrays in the order of `image_ids`; every image has exactly one row."""
    by_id = {row.image_id: row for row in rows}
    if len(rows) != len(image_ids) or by_id.keys() != set(image_ids):
        raise ValueError(f"expected one row for each of {len(image_ids)} images, got {len(rows)} rows")
    ordered = [by_id[image_id] for image_id in image_ids]
    fields = ImageTable.__dataclass_fields__
    return ImageTable(**{name: _column([getattr(row, name) for row in ordered]) for name in fields})


def _column(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def category_figures(table: CategoryTable, weights: Weights | None = None) -> dict[str, Floats]:
    """Figures of DESIGN 6.4 per category, each [R, C], nan where undefined; weights [R, I] or None (all 1).

    recall                     sum of w * verified pairs / (K * sum of w * instances)
    coverage@k, k = 1..K       sum of w * sum over instances of coverage(v) / sum of w * instances
    name_diversity, distinct_names, box_spread
                               sum of w * value / sum of w, over the images where the value is defined
    normalised_name_diversity  name_diversity / (1 - 1/S): 1 for a uniform choice among the category's S
                               names; undefined for S = 1. Unbiased, so it may exceed 1; never clamped
    """
    columns = np.ones((table.n_images, 1)) if weights is None else np.ascontiguousarray(weights.T, np.float64)
    figures = {
        name: _ratio(*(_by_category(part, table, columns) for part in parts))
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
    fractions = {"recall": ((table.verified @ counts).astype(np.float64), samples * instances)}
    for k in range(1, samples + 1):
        fractions[f"coverage@{k}"] = (table.verified @ coverage(counts, samples, k), instances)
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

    unique_name_sequences, unique_sequences, order_distance: weighted mean over the images that define them.
    Rates are pooled over images: duplicates, hallucinations and unknown names over mentions; malformed
    entries over mentions and malformed entries; truncated samples over samples.
    """
    weights = np.ones((1, len(table.samples))) if weights is None else weights
    fractions = {
        "unique_name_sequences": _defined(table.unique_name_sequences),
        "unique_sequences": _defined(table.unique_sequences),
        "order_distance": _defined(table.order_distance),
        "duplicate_rate": (table.duplicates, table.mentions),
        "hallucination_rate": (table.hallucinations, table.mentions),
        "unknown_name_rate": (table.unknown_names, table.mentions),
        "malformed_rate": (table.malformed, table.mentions + table.malformed),
        "truncation_rate": (table.truncated, table.samples),
    }
    return {name: _ratio(weights @ top, weights @ bottom) for name, (top, bottom) in fractions.items()}


def mean_defined(values: Floats) -> Floats:
    """Unweighted mean of the defined (not nan) entries over the last axis, [R, C] -> [R]; nan without any."""
    values = np.ascontiguousarray(values)  # the order of summation, and so the last digit, must not depend on R
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))


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


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """numerator / denominator, nan where the denominator is 0."""
    undefined = np.full_like(numerator, np.nan, dtype=np.float64)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)
