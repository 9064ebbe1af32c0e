"""Chooses the questions about an image where prompts name categories (`detect sofa; lamp`). Pure functions.

A question is an example with `asked`: the image, with its annotations of these categories only. Categories are always
in the benchmark's order, so a prompt does not reveal which of them are present.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from harness.types import Category, Example


def about(example: Example, asked: Collection[int], categories: Sequence[Category], chunk: int) -> list[Example]:
    """Makes the questions of an image about the categories with these ids, `chunk` in each; no question without ids."""
    ordered = [category.id for category in categories if category.id in asked]
    return [_question(example, tuple(ordered[start : start + chunk])) for start in range(0, len(ordered), chunk)]


def _question(example: Example, asked: tuple[int, ...]) -> Example:
    return replace(
        example,
        instances=tuple(instance for instance in example.instances if instance.category_id in asked),
        negative=example.negative & set(asked),
        not_exhaustive=example.not_exhaustive & set(asked),
        asked=asked,
    )


def verified(example: Example) -> set[int]:
    """Returns the categories that the image's annotations cover: those with instances, those that are absent, and
    those that are not annotated exhaustively. All, where a benchmark annotates every object of its categories."""
    return present(example) | example.negative | example.not_exhaustive


def present(example: Example) -> set[int]:
    """Returns the categories with instances."""
    return {instance.category_id for instance in example.instances}


def taught(example: Example, negatives: int | None, seed: int) -> set[int]:
    """Returns the categories that training asks about: those with instances, and at most `negatives` of the absent
    ones (None: all), drawn depending on (seed, image) only."""
    absent = sorted(example.negative)
    if negatives is not None and len(absent) > negatives:
        rng = np.random.default_rng([seed, example.image_id])
        absent = rng.choice(absent, negatives, replace=False).tolist()
    return present(example) | set(absent)
