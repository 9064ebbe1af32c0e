"""Makes the rows of the CSV files that `detmodes measure` writes: one for each category, one for each image.

Shape legend: I images, C categories, K samples per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np

from harness.commands.score.documents import Json
from harness.metrics.samples import aggregate
from harness.metrics.samples.aggregate import REPORTABLE
from harness.metrics.samples.diversity import CategoryTable, ImageTable
from harness.metrics.samples.mentions import Floats, Integers
from harness.metrics.stats import nan_to_none
from harness.types import Category


def category_rows(categories: Sequence[Category], table: CategoryTable) -> list[Json]:
    """Makes rows for all C categories. Support: images with the category, and those of them that define its name
    diversity."""
    by_category = {name: values[0] for name, values in aggregate.category_figures(table).items()}
    support = aggregate.support(table)
    instances = np.bincount(table.category, weights=table.verified.sum(axis=1), minlength=len(categories))
    return [
        {
            "id": category.id,
            "name": category.name,
            "frequency": category.frequency,
            "names": int(table.names[index]),
            "instances": int(instances[index]),
            "support": int(support["recall"][index]),
            "name_diversity_support": int(support["name_diversity"][index]),
            "reportable": int(support["recall"][index] >= REPORTABLE),
            **{name: nan_to_none(values[index]) for name, values in by_category.items()},
        }
        for index, category in enumerate(categories)
    ]


def image_rows(image_ids: Integers, table: ImageTable, further: Mapping[str, Floats]) -> list[Json]:
    """Makes rows for all I images: counts over the K samples, and the figures of a single image; further: those of
    other packages, by name."""
    names = [field.name for field in fields(table)]
    columns = [[_cell(name, value) for value in getattr(table, name).tolist()] for name in names]
    columns += [[nan_to_none(value) for value in values.tolist()] for values in further.values()]
    names += further
    ids = image_ids.tolist()
    return [{"image_id": key, **dict(zip(names, row, strict=True))} for key, *row in zip(ids, *columns, strict=True)]


def _cell(name: str, value: float) -> float | None:
    return nan_to_none(value) if name in aggregate.MEANS else int(value)
