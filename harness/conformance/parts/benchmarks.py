"""Checks of a benchmark: its examples, and its official figures for answers whose AP is known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import images, registry
from harness.benchmark_checks import NEEDED, SPLITS
from harness.conformance.subject import NotApplicableError, require
from harness.protocols import Benchmark
from harness.sequence import Codec, CoordinateSpace, NameVocabulary, vocabulary_names
from harness.types import Detection, Example

UNKNOWN = "no_such_setting"
OPENED = 16
"""Pictures of each split that are opened."""


@dataclass(frozen=True)
class BenchmarkSubject:
    """A benchmark's name and settings, and the folder of its data."""

    name: str
    settings: Mapping[str, Any]
    data: Path | None = None

    def fresh(self) -> Benchmark:
        return registry.benchmark(self.name, self.settings, self.data)

    @cached_property
    def benchmark(self) -> Benchmark:
        return self.fresh()

    @cached_property
    def perfect(self) -> list[Detection]:
        """Returns the objects of the validation split as detections."""
        return [
            Detection(example.image_id, instance.category_id, instance.box, 0.9)
            for example in self.benchmark.split("val")
            for instance in example.instances
        ]

    def ap(self, detections: list[Detection]) -> float:
        """Returns AP, nan where it is undefined."""
        value = self.benchmark.evaluate("val", detections).metrics["AP"]
        return math.nan if value is None else value


def loads(subject: BenchmarkSubject) -> None:
    """It is made from its settings and its data, and every example of every split has what the harness relies on."""
    _ = subject.benchmark


def settings(subject: BenchmarkSubject) -> None:
    """`problems` accepts these settings, and names a key that it does not know."""
    problems = registry.problems("benchmark", subject.name, subject.settings)
    require(problems == [], f"expected no problem with the settings of this check, got {problems}")
    problems = registry.problems("benchmark", subject.name, {**subject.settings, UNKNOWN: 1})
    require(any(UNKNOWN in line for line in problems), f"expected a line that names {UNKNOWN!r}, got {problems}")


def pictures(subject: BenchmarkSubject) -> None:
    """Pictures can be read, and have the size that their example says."""
    for split in SPLITS:
        for example in subject.benchmark.split(split)[:OPENED]:
            size = images.read(example).size
            expected = (example.width, example.height)
            require(
                size == expected, f"split {split}, image {example.image_id}: expected {expected} pixels, got {size}"
            )


def apart(subject: BenchmarkSubject) -> None:
    """No picture of the validation split is trained on."""
    train, val = ({example.path for example in subject.benchmark.split(split)} for split in NEEDED)
    both = sorted(map(str, train & val))
    require(not both, f"expected train and val to share no picture, got {len(both)}, the first {both[:1]}")


def oracle(subject: BenchmarkSubject) -> None:
    """Detections that repeat the ground truth of the validation split reach AP 1, and none at all AP 0."""
    require(bool(subject.perfect), "split val: expected objects, got none")
    reached, nothing = subject.ap(subject.perfect), subject.ap([])
    require(math.isclose(reached, 1, abs_tol=1e-6), f"expected AP 1 for the ground truth, got {reached:g}")
    require(nothing == 0, f"expected AP 0 for no detections, got {nothing:g}")


def federated(subject: BenchmarkSubject) -> None:
    """A category verified to be absent has no object, one not annotated exhaustively has; a false detection costs AP
    where a category is verified to be absent, and nothing where nobody looked for it."""
    examples = subject.benchmark.split("val")
    if not any(example.negative or example.not_exhaustive for example in examples):
        raise NotApplicableError("no example says which categories are verified to be absent, or not exhaustive")
    for example in examples:
        present = {instance.category_id for instance in example.instances}
        where = f"split val, image {example.image_id}"
        require(not example.negative & present, f"{where}: expected no object of a category in negative")
        lacking = sorted(example.not_exhaustive - present)
        require(not lacking, f"{where}: expected objects of every category in not_exhaustive, none of {lacking[:3]}")
    annotated = {detection.category_id for detection in subject.perfect}
    false = _false_detection(examples, lambda example: example.negative & annotated)
    if false is not None:
        lowered = subject.ap([*subject.perfect, false])
        require(
            lowered < 1, f"image {false.image_id}: a detection of an absent category ({false.category_id}) costs no AP"
        )
    free = _false_detection(examples, lambda example: annotated - example.negative - _present(example))
    if free is not None:
        same = subject.ap([*subject.perfect, free])
        require(
            math.isclose(same, 1, abs_tol=1e-6),
            f"image {free.image_id}: expected no cost of a detection of category {free.category_id}, which nobody "
            f"looked for there, got AP {same:g}",
        )


def _present(example: Example) -> frozenset[int]:
    return frozenset(instance.category_id for instance in example.instances)


def _false_detection(examples: Any, categories: Callable[[Example], frozenset[int] | set[int]]) -> Detection | None:
    """A confident detection of a category that some image says this of; None where no image does."""
    for example in examples:
        if example.instances and (chosen := categories(example)):
            return Detection(example.image_id, min(chosen), example.instances[0].box, 1.0)
    return None


def names(subject: BenchmarkSubject) -> None:
    """Every name and synonym of a category is read back as that category."""
    categories = subject.benchmark.categories
    codec = Codec(categories, NameVocabulary(vocabulary_names(categories), 65), CoordinateSpace(65))
    box = next((i.box for example in subject.benchmark.split("val") for i in example.instances), None)
    require(box is not None, "split val: expected objects, got none")
    assert box is not None
    size = 1 + int(max(box.x + box.w, box.y + box.h))
    for category in categories:
        for name in category.names:
            mentions = codec.decode(codec.encode([(name, box)], size, size), size, size).mentions
            read = [mention.category_id for mention in mentions]
            require(read == [category.id], f"name {name!r}: expected to be read as category {category.id}, got {read}")


def synonyms(subject: BenchmarkSubject) -> None:
    """Some category has several names, without which name diversity is undefined; no category has one twice."""
    categories = subject.benchmark.categories
    for category in categories:
        require(
            len(set(category.names)) == len(category.names), f"category {category.id}: a name twice: {category.names}"
        )
    if all(len(category.names) == 1 for category in categories):
        raise NotApplicableError("every category has one name: name diversity is undefined")


def repeatable(subject: BenchmarkSubject) -> None:
    """Made again, it has the same examples and the same description, which identifies the cells of a run."""
    again = subject.fresh()
    for split in SPLITS:
        same = again.split(split) == subject.benchmark.split(split)
        require(same, f"split {split}: expected the same examples when it is made again")
    described = [json.dumps(made.describe(), sort_keys=True) for made in (subject.benchmark, again)]
    require(described[0] == described[1], f"describe: expected the same again, got {described[1]} after {described[0]}")


CHECKS: dict[str, Callable[[BenchmarkSubject], None]] = {
    check.__name__: check
    for check in (loads, settings, pictures, apart, oracle, federated, names, synonyms, repeatable)
}
