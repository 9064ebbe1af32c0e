"""Checks once what a benchmark provides: it may be of unknown origin, and mistakes in its examples would show as
figures of 0 or as errors deep in training."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from typing import Any

from harness.errors import ConfigError, DataError
from harness.types import Category, Example, Instance

SPLITS, NEEDED = ("train", "val", "calibration"), ("train", "val")
METHODS = ("split", "evaluate", "match", "describe")
SHOWN = 100


def require_valid(name: str, benchmark: Any) -> None:
    """Raises ConfigError or DataError, one line, for the first mistake: with split, image, object and expectation."""
    missing = [method for method in METHODS if not callable(getattr(benchmark, method, None))]
    if missing:
        raise ConfigError(
            f"benchmark {name}: expected the methods {', '.join(METHODS)}; it has no {', '.join(missing)}"
        )
    for problem in (*_category_problems(benchmark), *_description_problems(benchmark)):
        raise DataError(f"benchmark {name}: {problem}")
    category_ids = frozenset(category.id for category in benchmark.categories)
    for split in SPLITS:
        for problem in _split_problems(split, benchmark.split(split), category_ids):
            raise DataError(f"benchmark {name}: split {split}{problem}")


def _category_problems(benchmark: Any) -> Iterator[str]:
    categories: tuple[Category, ...] = getattr(benchmark, "categories", ())
    if not categories:
        yield "expected at least one category"
    ids: set[int] = set()
    for position, category in enumerate(categories):
        where = f"categories[{position}]"
        if category.id in ids:
            yield f"{where}: expected every id once, got {category.id} again"
        ids.add(category.id)
        if not category.names or not all(isinstance(name, str) and name.strip() for name in category.names):
            yield f"{where} (id {category.id}): expected at least one name, and no empty one; got {category.names!r}"


def _description_problems(benchmark: Any) -> Iterator[str]:
    try:
        valid = isinstance(described := benchmark.describe(), dict)
        json.dumps(described, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        yield f"expected describe() to give JSON values, got: {str(error)[:SHOWN]}"
        return
    if not valid:
        yield f"expected describe() to give a dict of JSON values, got {type(described).__name__}"


def _split_problems(split: str, examples: Collection[Example], category_ids: frozenset[int]) -> Iterator[str]:
    if split in NEEDED and not examples:
        yield ": expected at least one image, got none"
    image_ids: set[int] = set()
    for example in examples:
        where = f", image {example.image_id}"
        if example.image_id in image_ids:
            yield f"{where}: expected every image id once"
        image_ids.add(example.image_id)
        if example.width < 1 or example.height < 1:
            yield f"{where}: expected a width and height of at least 1, got {example.width} x {example.height}"
        for field in ("negative", "not_exhaustive"):
            if not getattr(example, field) <= category_ids:
                strange = min(getattr(example, field) - category_ids)
                yield f"{where}: {field}: expected ids of its categories, got {strange}"
        for instance in example.instances:
            if problem := _instance_problem(instance, example, category_ids):
                yield f"{where}, annotation {instance.id}: {problem}"


def _instance_problem(instance: Instance, example: Example, category_ids: frozenset[int]) -> str:
    box = instance.box
    sides = (box.x, box.y, box.w, box.h)
    if instance.category_id not in category_ids:
        return f"expected the id of one of its categories, got {instance.category_id}"
    if not all(math.isfinite(side) for side in sides) or box.w < 0 or box.h < 0:
        return f"expected a box x, y, w, h of finite numbers, w and h of at least 0; got {list(sides)}"
    if box.x >= example.width or box.y >= example.height or box.x + box.w < 0 or box.y + box.h < 0:
        return f"expected a box that meets its image of {example.width} x {example.height} pixels, got {list(sides)}"
    return ""
