"""Holds ground truth and K samples of many images as columns, from which matching and diversity are computed.

A cell's evaluation, `detmodes measure` and the simulated detectors of the tests all produce these values, so every
figure has one implementation. Images, categories and names are indices here, not ids.

Shape legend: I images, C categories, n instances, K samples per image, M mentions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.types import Box, Category, Example, Mention, Parsed

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class HasNames(Protocol):
    """Anything with names: a category of a benchmark or of a record."""

    @property
    def names(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Truth:
    """Ground truth of I images.

    image_ids       [I]     ids, in the order that all tables follow
    categories              C
    image, category [n]     indices of each instance; sorted by image, within one in the example's order
    boxes           [n, 4]  `x, y, w, h` in pixels
    ids             [n]     annotation ids
    negative        [*]     sorted keys image * C + category: verified to be absent from the image
    not_exhaustive  [*]     likewise: present, but not annotated exhaustively
    """

    image_ids: Integers
    categories: int
    image: Integers
    category: Integers
    boxes: Floats
    ids: Integers
    negative: Integers
    not_exhaustive: Integers


@dataclass(frozen=True, slots=True)
class Mentions:
    """M mentions, sorted by image and sample; within a sample in the order of the sequence.

    image     [M]     index
    sample    [M]     0 .. K - 1
    name      [M]     code of the name: equal names have equal codes, which mean nothing else
    category  [M]     index, or -1 where the vocabulary has no such name
    boxes     [M, 4]  `x, y, w, h` in pixels
    score     [M]     probability of the category in [0, 1]; nan where it is not known
    """

    image: Integers
    sample: Integers
    name: Integers
    category: Integers
    boxes: Floats
    score: Floats

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, slots=True)
class Answers:
    """The K samples of each of I images, including samples without a mention.

    malformed [I, K]  entries of each sample that could not be read
    truncated [I, K]  the sample had no end
    lenient   [I, K]  mentions of each sample that are not quite in the model's format
    """

    mentions: Mentions
    malformed: Integers
    truncated: Flags
    lenient: Integers

    @property
    def samples(self) -> int:
        """K."""
        return int(self.malformed.shape[1])


def box_array(boxes: Iterable[Box]) -> Floats:
    """Converts boxes to [n, 4] float64, `x, y, w, h`; [0, 4] for none."""
    return np.array([(box.x, box.y, box.w, box.h) for box in boxes], dtype=np.float64).reshape(-1, 4)


def name_counts(categories: Iterable[HasNames]) -> Integers:
    """Counts the different names of each category, S, [C]."""
    return np.array([len(set(category.names)) for category in categories], dtype=np.int64)


def truth_of(examples: Sequence[Example], categories: Sequence[Category]) -> Truth:
    """Converts examples to columns. Instances of categories that are not in `categories` raise KeyError."""
    index = {category.id: position for position, category in enumerate(categories)}
    instances = [(position, item) for position, example in enumerate(examples) for item in example.instances]

    def keys(chosen: Iterable[Iterable[int]]) -> Integers:
        pairs = (p * len(index) + index[c] for p, ids in enumerate(chosen) for c in ids if c in index)
        return np.array(sorted(pairs), dtype=np.int64)

    return Truth(
        image_ids=np.array([example.image_id for example in examples], dtype=np.int64),
        categories=len(index),
        image=np.array([position for position, _ in instances], dtype=np.int64),
        category=np.array([index[item.category_id] for _, item in instances], dtype=np.int64),
        boxes=box_array(item.box for _, item in instances),
        ids=np.array([item.id for _, item in instances], dtype=np.int64),
        negative=keys(example.negative for example in examples),
        not_exhaustive=keys(example.not_exhaustive for example in examples),
    )


def mentions_of(samples: Sequence[Sequence[Sequence[Mention]]], categories: Sequence[Category]) -> Mentions:
    """Converts the mentions of I images x K samples to columns; a category that is not in `categories` is unknown.

    Names are coded in alphabetical order; scores are nan.
    """
    index = {category.id: position for position, category in enumerate(categories)}
    rows = [(i, k, item) for i, of_image in enumerate(samples) for k, sample in enumerate(of_image) for item in sample]
    code = {name: position for position, name in enumerate(sorted({item.name for *_, item in rows}))}
    category = (-1 if item.category_id is None else index.get(item.category_id, -1) for *_, item in rows)
    return Mentions(
        image=np.array([image for image, _, _ in rows], dtype=np.int64),
        sample=np.array([sample for _, sample, _ in rows], dtype=np.int64),
        name=np.array([code[item.name] for *_, item in rows], dtype=np.int64),
        category=np.fromiter(category, dtype=np.int64, count=len(rows)),
        boxes=box_array(item.box for *_, item in rows),
        score=np.full(len(rows), np.nan),
    )


def answers_of(parsed: Sequence[Sequence[Parsed]], categories: Sequence[Category]) -> Answers:
    """Converts K >= 1 parsed samples of each of I images to columns; see `mentions_of`."""
    return Answers(
        mentions=mentions_of([[sample.mentions for sample in of_image] for of_image in parsed], categories),
        malformed=np.array([[sample.malformed for sample in of_image] for of_image in parsed], dtype=np.int64),
        truncated=np.array([[sample.truncated for sample in of_image] for of_image in parsed], dtype=np.bool_),
        lenient=np.array([[sample.lenient for sample in of_image] for of_image in parsed], dtype=np.int64),
    )


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    """Computes numerator / denominator (equal shapes), nan where the denominator is 0."""
    undefined = np.full(numerator.shape, np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=denominator > 0))
