"""A benchmark of two images whose every figure can be derived by hand, and a model that says what it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.evaluators import evaluator
from benchmarks.readers.annotations import Annotations
from harness.evaluation.evaluate import Measurement, measure
from harness.evaluation.scored_samples import EvaluationSettings
from harness.metrics.detection.accumulate import Matches
from harness.sequence import Codec, CoordinateSpace, NameVocabulary, vocabulary_names
from harness.suite.schema import SampleSettings
from harness.types import Box, Category, Detection, Detections, Evaluation, Example
from tests.benchmarks.documents import annotation, category, document, image, loaded
from tests.support.tiny import Scripted

A, B, ELSEWHERE = Box(8, 8, 16, 16), Box(40, 40, 16, 16), Box(40, 8, 16, 16)
"""On 64 x 64 pixels with 65 bins every edge is a bin, so boxes survive exactly."""


class HandMade:
    """Two images. 1: a sofa (couch) at A and a cup at B; no dog is there for sure. 2: a cup at A."""

    name = "hand-made"

    def __init__(self, folder: Path) -> None:
        size = {"width": 64, "height": 64}
        images = [image(1, neg_category_ids=[3], **size), image(2, **size)]
        objects = [
            annotation(1, 1, 1, A.x, A.y, A.w, A.h),
            annotation(2, 1, 2, B.x, B.y, B.w, B.h),
            annotation(3, 2, 2, A.x, A.y, A.w, A.h),
        ]
        names = [category(1, "sofa", "sofa", "couch"), category(2, "cup"), category(3, "dog", frequency="r")]
        self.annotations: Annotations = loaded(folder, document(images, objects, names))
        self.categories: tuple[Category, ...] = self.annotations.categories

    def split(self, name: str) -> tuple[Example, ...]:
        assert name == "val"
        return self.annotations.examples

    def evaluate(self, split: str, detections: Sequence[Detection], engine: str = "fast") -> Evaluation:
        assert split == "val"
        return evaluator.evaluate(self.annotations, Detections.of(detections), engine=engine)

    def match(self, split: str, detections: Sequence[Detection]) -> Matches:
        assert split == "val"
        return evaluator.match_detections(self.annotations, Detections.of(detections))

    def describe(self) -> dict[str, object]:
        return {"name": self.name}


def scripted(categories: Sequence[Category], answers: dict[int, list[Any]]) -> Scripted:
    """Answers by image; it can also write "unicorn", which belongs to no category."""
    tokens = NameVocabulary((*vocabulary_names(categories), "unicorn"), 65)
    codec = Codec(categories, tokens, CoordinateSpace(65))
    codec.name_ids["unicorn"] = tokens.encode_name("unicorn")
    return Scripted(codec, lambda example: answers[example.image_id])


SOFA, COUCH, CUP_A, CUP_B = ("sofa", A), ("couch", A), ("cup", A), ("cup", B)


def measured(folder: Path, answers: dict[int, list[Any]], samples: int = 2) -> Measurement:
    benchmark = HandMade(folder)
    predictor = scripted(benchmark.categories, answers)
    return measure(predictor, benchmark, EvaluationSettings(SampleSettings(samples=samples)), step=7, heldout_nll=1.5)
