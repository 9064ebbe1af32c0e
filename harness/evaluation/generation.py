"""Greedy answer + K samples for every image, in batches, or in a queue from which a batch is refilled."""

from __future__ import annotations

from collections.abc import Sequence

from harness.inference.precision import is_exact
from harness.protocols import Adapter, DrawSettings, Predictor, Refills
from harness.suite.schema import SampleSettings
from harness.types import Example, Sample

QUEUE = 8
"""Batches of images that one queue is made of: the longer it is, the less time is spent on its last rows."""


def generate(
    predictor: Predictor, examples: Sequence[Example], temperature: float, settings: SampleSettings, seed: int
) -> list[list[Sample]]:
    """Generates 1 + K samples for each example: the greedy answer first, then K at `temperature`."""
    batches = [
        generate_batch(predictor, batch, temperature, settings, seed)
        for batch in split_into_batches(predictor, examples, settings)
    ]
    return [of_image for batch in batches for of_image in batch]


def split_into_batches(
    predictor: Predictor, examples: Sequence[Example], settings: SampleSettings, processes: int = 1
) -> list[Sequence[Example]]:
    """The examples that `generate_batch` is asked about at once; with queues, each process gets as many as others."""
    size = settings.batch_images
    if is_refilled(predictor):
        size = max(size, min(QUEUE * size, -(-len(examples) // processes)))
    return [examples[start : start + size] for start in range(0, len(examples), size)]


def generate_batch(
    predictor: Predictor, batch: Sequence[Example], temperature: float, settings: SampleSettings, seed: int
) -> list[list[Sample]]:
    """Runs `generate` for one batch. Every image is encoded once."""
    if isinstance(predictor, Adapter):
        predictor.model.eval()
    temperatures = [0.0, *[temperature] * settings.samples]
    if is_refilled(predictor):
        assert isinstance(predictor, Refills)
        drawn = DrawSettings(seed, settings.max_tokens, settings.grammar)
        return predictor.generate_queue(batch, temperatures, drawn, settings.batch_images)
    return predictor.generate(batch, temperatures, seed, settings.max_tokens, settings.grammar)


def is_refilled(predictor: Predictor) -> bool:
    """Whether rows of other images take the places of answers that have ended. Not where a row is computed the same to
    the last bit whatever stands beside it (a CPU in float32), as rows of several lengths are not."""
    if not (isinstance(predictor, Adapter) and isinstance(predictor, Refills) and predictor.refills):
        return False
    return not is_exact(next(predictor.model.parameters()).device)
