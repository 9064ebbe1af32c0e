"""Greedy answer + K samples for every image, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.protocols import Adapter, Predictor
from harness.suite import SampleSettings
from harness.types import Example, Sample

Progress = Callable[[int], None]


def generate(
    predictor: Predictor,
    examples: Sequence[Example],
    temperature: float,
    settings: SampleSettings,
    seed: int,
    progress: Progress = lambda images: None,
) -> list[list[Sample]]:
    """For each example 1 + K samples, the greedy answer first, then K at `temperature`. Every image is encoded once."""
    if isinstance(predictor, Adapter):
        predictor.model.eval()
    temperatures = [0.0, *[temperature] * settings.samples]
    answers: list[list[Sample]] = []
    for start in range(0, len(examples), settings.batch_images):
        batch = examples[start : start + settings.batch_images]
        answers += predictor.generate(batch, temperatures, seed, settings.max_tokens, settings.grammar)
        progress(len(batch))
    return answers
