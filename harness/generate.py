"""Greedy answer + K samples for every image, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from harness.protocols import Adapter, Predictor
from harness.suite import SampleSettings
from harness.types import Example, Sample

Progress = Callable[[int], None]
Kept = Callable[[str, Callable[[], Any]], Any]
"""A JSON value by name: as it was kept, or made now (and kept)."""


def unkept(name: str, make: Callable[[], Any]) -> Any:
    """A Kept that makes everything anew."""
    del name
    return make()


def generate(
    predictor: Predictor,
    examples: Sequence[Example],
    temperature: float,
    settings: SampleSettings,
    seed: int,
    progress: Progress = lambda images: None,
    kept: Kept = unkept,
) -> list[list[Sample]]:
    """For each example 1 + K samples, the greedy answer first, then K at `temperature`. Every image is encoded once.
    A batch that is `kept` is not generated again."""
    if isinstance(predictor, Adapter):
        predictor.model.eval()
    temperatures = [0.0, *[temperature] * settings.samples]
    answers: list[list[Sample]] = []
    for start in range(0, len(examples), settings.batch_images):
        batch = examples[start : start + settings.batch_images]
        make = partial(_batch, predictor, batch, temperatures, settings, seed)
        rows = kept(f"samples-{temperature}-{start}", make)
        answers += [[Sample(tuple(tokens), tuple(log_probs)) for tokens, log_probs in own] for own in rows]
        progress(len(batch))
    return answers


def _batch(
    predictor: Predictor, batch: Sequence[Example], temperatures: Sequence[float], settings: SampleSettings, seed: int
) -> list[list[tuple[tuple[int, ...], tuple[float, ...]]]]:
    """The fields of each sample."""
    made = predictor.generate(batch, temperatures, seed, settings.max_tokens, settings.grammar)
    return [[(sample.tokens, sample.log_probs) for sample in own] for own in made]
