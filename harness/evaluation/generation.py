"""Greedy answer + K samples for every image, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from harness.protocols import Adapter, Predictor
from harness.suite.schema import SampleSettings
from harness.types import Example, Sample

Parts = Mapping[str, Callable[[], Any]]
"""Pieces of one work by name, in order, and how each is made: as a JSON value."""
Kept = Callable[[Parts, Callable[[str], None]], list[Any]]
"""The values of all parts: each as it was kept, or made now (and kept), perhaps by another process. Calls with the name
of each part that there is. Of several processes only the one that goes on with the values has any."""


def unkept(parts: Parts, there: Callable[[str], None] = lambda name: None) -> list[Any]:
    """A Kept that makes everything anew, here."""
    values = []
    for name, make in parts.items():
        values.append(make())
        there(name)
    return values


def generate(
    predictor: Predictor, examples: Sequence[Example], temperature: float, settings: SampleSettings, seed: int
) -> list[list[Sample]]:
    """For each example 1 + K samples, the greedy answer first, then K at `temperature`."""
    found = [emit(predictor, batch, temperature, settings, seed) for batch in in_batches(examples, settings)]
    return [own for batch in found for own in batch]


def in_batches(examples: Sequence[Example], settings: SampleSettings) -> Iterator[Sequence[Example]]:
    """As they are generated."""
    for start in range(0, len(examples), settings.batch_images):
        yield examples[start : start + settings.batch_images]


def emit(
    predictor: Predictor, batch: Sequence[Example], temperature: float, settings: SampleSettings, seed: int
) -> list[list[Sample]]:
    """`generate` for one batch. Every image is encoded once."""
    if isinstance(predictor, Adapter):
        predictor.model.eval()
    temperatures = [0.0, *[temperature] * settings.samples]
    return predictor.generate(batch, temperatures, seed, settings.max_tokens, settings.grammar)
