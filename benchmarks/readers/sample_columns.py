"""Defines the columns that every kind of samples file is read into, before they are checked against annotations.

Shape legend: s samples (all images and temperatures), M mentions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.errors import DataError
from harness.metrics.samples.mentions import Flags, Floats, Integers

NATURAL = "an integer of at least 0"
NONE, UNKNOWN = -1, -2
"""Values in place of a category id: not given (the name decides), or explicitly none (the name is unknown)."""

PROBABILITY = "a number from 0 to 1"
ROUNDING = 1e-6
"""A sum of float32 probabilities may exceed 1 by this much."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The content of a samples file.

    digests      file name -> SHA-256, hexadecimal
    step         the training step that was read; None where files have no steps
    image_id, sample, temperature, malformed, truncated, lenient  [s]
    owner        [M]     index of the mention's sample
    name         [M]     index into `names`, or NONE (category_id stands for the name)
    category_id  [M]     an id, NONE or UNKNOWN
    boxes        [M, 4]  `x, y, w, h` in pixels; not checked: the caller counts invalid boxes
    score        [M]     in [0, 1]; nan where it is not given
    sample_place, mention_place  the file and place of a row, for messages
    """

    digests: Mapping[str, str]
    step: int | None
    image_id: Integers
    sample: Integers
    temperature: Floats
    malformed: Integers
    truncated: Flags
    lenient: Integers
    owner: Integers
    name: Integers
    names: tuple[str, ...]
    category_id: Integers
    boxes: Floats
    score: Floats
    sample_place: Callable[[int], str]
    mention_place: Callable[[int], str]


def check_scores(score: Floats, given: Flags, field: str, place: Callable[[int], str]) -> None:
    """Raises DataError naming the first of the `given` scores [M] that is no probability, by its place and field."""
    wrong = given & ~((score >= 0) & (score <= 1 + ROUNDING))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{place(row)}: {field}: expected {PROBABILITY}, got {score[row]}")
