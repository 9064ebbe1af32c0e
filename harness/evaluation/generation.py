"""Greedy answer + K samples for every image, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.protocols import Adapter, Predictor
from harness.suite.schema import SampleSettings
from harness.types import Example, Sample


def generate(
    predictor: Predictor, examples: Sequence[Example], temperature: float, settings: SampleSettings, seed: int
) -> list[list[Sample]]:
    """For each example 1 + K samples, the greedy answer first, then K at `temperature`."""
    batches = [
        generate_batch(predictor, batch, temperature, settings, seed)
        for batch in split_into_batches(examples, settings)
    ]
    return [of_image for batch in batches for of_image in batch]


def split_into_batches(examples: Sequence[Example], settings: SampleSettings) -> Iterator[Sequence[Example]]:
    """Yields the examples that are generated together."""
    for start in range(0, len(examples), settings.batch_images):
        yield examples[start : start + settings.batch_images]


def generate_batch(
    predictor: Predictor, batch: Sequence[Example], temperature: float, settings: SampleSettings, seed: int
) -> list[list[Sample]]:
    """`generate` for one batch. Every image is encoded once."""
    if isinstance(predictor, Adapter):
        predictor.model.eval()
    temperatures = [0.0, *[temperature] * settings.samples]
    return predictor.generate(batch, temperatures, seed, settings.max_tokens, settings.grammar)
