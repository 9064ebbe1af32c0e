"""Tells in which images a category is evaluated, and which detections therefore count.

Shape legend: I images, C categories, n detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.metrics.detection.rules import RULES, GroundTruth, Protocol, select_rows
from harness.types import Category, Detections, Example

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Numbers (image, category) pairs by their indices: image * C + category.

    image_ids [I], category_ids [C]
    """

    image_ids: Integers
    category_ids: Integers

    @classmethod
    def of(cls, examples: Sequence[Example], categories: Sequence[Category]) -> Pairs:
        image_ids = np.array([example.image_id for example in examples], dtype=np.int64)
        return cls(image_ids, np.array([category.id for category in categories], dtype=np.int64))

    def find(self, image_id: Integers, category_id: Integers) -> Integers:
        """Returns the numbers of pairs given by their ids; ValueError for an unknown id."""
        pair = _positions(self.image_ids, image_id, "image")
        pair *= len(self.category_ids)
        pair += _positions(self.category_ids, category_id, "category")
        return pair

    def flagged(self, examples: Sequence[Example], field: Literal["negative", "not_exhaustive"]) -> Integers:
        """Returns the pairs of each example with the categories that its federated field lists."""
        rows = [(example.image_id, c) for example in examples for c in getattr(example, field)]
        image_id, category_id = np.array(rows, dtype=np.int64).reshape(-1, 2).T
        return self.find(image_id, category_id)

    def image(self, pair: Integers) -> Integers:
        return pair // max(1, len(self.category_ids))

    def category(self, pair: Integers) -> Integers:
        return pair % max(1, len(self.category_ids))


def select_evaluated(
    detections: Detections, examples: Sequence[Example], truth: GroundTruth, pairs: Pairs, protocol: Protocol
) -> tuple[Integers, Integers]:
    """Selects the rows of the detections that the protocol evaluates, ascending, and their pairs.

    Those that are `select_rows`, and under LVIS only where their category is annotated in the image or verified to be
    absent from it. ValueError for an unknown image or category.
    """
    rows = select_rows(detections, protocol)
    pair = pairs.find(detections.image_id[rows], detections.category_id[rows])
    if RULES[protocol].federated:
        evaluated = flag_evaluated(pair, examples, truth, pairs)
        rows, pair = rows[evaluated], pair[evaluated]
    return rows, pair


def flag_evaluated(pair: Integers, examples: Sequence[Example], truth: GroundTruth, pairs: Pairs) -> Booleans:
    """Flags the pairs [n] whose category is annotated in the image or verified to be absent from it."""
    present = pairs.find(truth.image_id, truth.category_id)
    return np.isin(pair, np.concatenate([present, pairs.flagged(examples, "negative")]))


def _positions(ids: Integers, values: Integers, what: str) -> Integers:
    """Returns the position in `ids` of each of the values."""
    order = np.append(np.argsort(ids), 0)
    positions = order[np.searchsorted(ids, values, sorter=order[:-1])]
    unknown = ids[positions] != values if len(ids) else np.ones(len(values), dtype=np.bool_)
    if unknown.any():
        raise ValueError(f"detection or object of unknown {what} {values[unknown.argmax()]}")
    return positions
