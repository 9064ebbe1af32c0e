"""Every protocol under every engine, sets of two cats, and the comparison of what engines say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from benchmarks.evaluators import evaluator
from benchmarks.evaluators.evaluator import list_engines
from benchmarks.readers.annotations import Annotations
from harness.metrics.detection.rules import Protocol
from harness.types import Detection, Detections, Evaluation
from tests.benchmarks.documents import annotation, category, document, image, loaded

PROTOCOLS: tuple[Protocol, ...] = ("lvis", "lvis-fixed", "coco")
both_engines = pytest.mark.parametrize("engine", list_engines("lvis"))
both_coco_engines = pytest.mark.parametrize("engine", list_engines("coco"))
every_engine = pytest.mark.parametrize(("protocol", "engine"), [(p, e) for p in PROTOCOLS for e in list_engines(p)])
TOLERANCE = 1e-9
Key = TypeVar("Key")


def evaluate(
    annotations: Annotations, rows: Sequence[Detection], engine: str = "fast", protocol: Protocol = "lvis"
) -> Evaluation:
    return evaluator.evaluate(annotations, Detections.of(rows), protocol, engine)


def same(a: Mapping[Key, float | None], b: Mapping[Key, float | None]) -> bool:
    """Equal keys, equal undefined figures, and defined ones within the tolerance."""
    return a.keys() == b.keys() and all(close(value, b[key]) for key, value in a.items())


def close(a: float | None, b: float | None) -> bool:
    return a is b if a is None or b is None else abs(a - b) <= TOLERANCE


def agree(a: Evaluation, b: Evaluation) -> bool:
    return same(a.metrics, b.metrics) and same(a.per_category, b.per_category)


BOX = (10.0, 10.0, 50.0, 50.0)
FAR = (300.0, 300.0, 50.0, 50.0)


def two_cats(folder: Path, **federated: list[int]) -> Annotations:
    """One image with two cats; `dog` is annotated nowhere, `cow` has no frequency."""
    content = document(
        [image(1, **federated)],
        [annotation(1, 1, 1, *BOX), annotation(2, 1, 1, *FAR)],
        [category(1, "cat"), category(2, "dog", frequency="r"), category(3, "cow", frequency=None)],
    )
    return loaded(folder, content)
