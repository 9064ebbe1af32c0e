"""Figures of one cell at one step, under any image weights: what tables, intervals and verdicts are made of.

Shape legend: I images, C categories, R weightings (1, or the bootstrap replicates), K samples per image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness import records
from harness.metrics import aggregate, ap
from harness.metrics.aggregate import CategoryTable, Weights
from harness.records import Record
from harness.types import Frequency

Floats = NDArray[np.float64]

AP_COLUMNS = ("AP", "AP50", "APr", "APc", "APf")
FAULT_COLUMNS = ("duplicate_rate", "unknown_name_rate", "malformed_rate", "truncation_rate")
FREQUENCIES = ("r", "c", "f")


def diversity_columns(samples: int) -> tuple[str, ...]:
    """Columns about what the K samples find and how they differ; `samples` is K."""
    return ("recall", f"coverage@{samples}", "distinct_names", "name_diversity", "unique_name_sequences")


def figure_names(samples: int) -> list[str]:
    """Every figure that a hypothesis may name, in the order of the tables; `samples` is K."""
    per_category = _per_category(samples)
    further = ["unique_sequences", "order_distance", "hallucination_rate"]
    columns = [*AP_COLUMNS, *diversity_columns(samples), *FAULT_COLUMNS]
    more = [name for name in per_category if name not in columns]
    return [*columns, *more, *further, *(f"{name}/{group}" for name in per_category for group in FREQUENCIES)]


def _per_category(samples: int) -> dict[str, str]:
    """Our name of a figure -> its name in `aggregate.category_figures`. In tables name diversity is the
    normalised one (1 for a uniform choice of the name)."""
    same = ("recall", *dict.fromkeys(("coverage@1", f"coverage@{samples}")), "distinct_names", "box_spread")
    return {name: name for name in same} | {
        "name_diversity": "normalised_name_diversity",
        "name_diversity_raw": "name_diversity",
    }


def estimate(
    record: Record, images: pd.DataFrame, detections: pd.DataFrame, step: int, weights: Weights | None = None
) -> dict[str, Floats]:
    """Every figure of `figure_names`, each [R], nan where undefined; weights [R, I] or None (all 1: R = 1).

    images, detections: the cell's tables of the same names.
    """
    frequency = [category.frequency for category in record.categories]
    matches = records.matches(images, detections, step, record)
    precision = ap.average_precision(matches, len(frequency), weights)
    per_category, per_image = records.tables(images, step, record)
    return {
        **ap.summarise(precision, frequency),
        **_category_means(per_category, frequency, weights),
        **aggregate.image_figures(per_image, weights),
    }


def _category_means(
    table: CategoryTable, frequency: Sequence[Frequency | None], weights: Weights | None
) -> dict[str, Floats]:
    by_category = aggregate.category_figures(table, weights)
    figures = {}
    for name, source in _per_category(table.verified.shape[1] - 1).items():
        means = aggregate.by_frequency(by_category[source], frequency)
        figures[name] = means["all"]
        figures |= {f"{name}/{group}": means[group] for group in FREQUENCIES}
    return figures
