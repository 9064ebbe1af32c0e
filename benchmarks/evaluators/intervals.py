"""Computes 95% intervals of the official figures over the choice of images: match once, accumulate under image
weights.

Shape legend: I images, C categories, R bootstrap replicates.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluators.evaluator import list_figures
from benchmarks.readers.annotations import Annotations
from benchmarks.readers.detections import check
from harness.metrics.detection.accumulate import Matches
from harness.metrics.detection.ap import average_precision, match_sizes, summarise
from harness.metrics.detection.rules import Protocol, Size
from harness.metrics.stats import REPLICATES, Interval, bootstrap_weights, interval
from harness.types import Detections

Floats = NDArray[np.float64]


def bootstrap(
    annotations: Annotations,
    detections: Detections,
    protocol: Protocol = "lvis",
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Computes every precision figure of the protocol with its interval over the choice of images.

    AP, AP50, AP75, APs, APm, APl and, under LVIS, APr, APc and APf. Each replicate draws I images with
    replacement and re-accumulates what was matched once; the interval is that of `stats.interval` for one seed:
    estimate +- 1.96 standard deviations of the replicates. All nan where the figure is undefined. The same
    `seed` draws the same images. Raises DataError for an invalid detection.
    """
    points, drawn = _estimates(annotations, detections, protocol, replicates, seed)
    return {name: interval(points[name], drawn[name]) for name in points}


def compare(
    annotations: Annotations,
    a: Detections,
    b: Detections,
    protocol: Protocol = "lvis",
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Computes the paired difference a - b of every figure of `bootstrap`; a replicate draws the same images for
    both."""
    points_a, drawn_a = _estimates(annotations, a, protocol, replicates, seed)
    points_b, drawn_b = _estimates(annotations, b, protocol, replicates, seed)
    return {name: interval(points_a[name] - points_b[name], drawn_a[name] - drawn_b[name]) for name in points_a}


def _estimates(
    annotations: Annotations, detections: Detections, protocol: Protocol, replicates: int, seed: int
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Computes every figure as it is [1], and in each replicate [1, R]."""
    check(detections, annotations)
    examples, categories = annotations.examples, annotations.categories
    matches = match_sizes(examples, detections, categories, protocol, annotations.areas, annotations.crowds)
    weights = np.vstack([np.ones((1, len(examples)), np.float32), bootstrap_weights(len(examples), replicates, seed)])
    values = _figures(matches, annotations, protocol, weights)
    return {name: v[:1] for name, v in values.items()}, {name: v[None, 1:] for name, v in values.items()}


def _figures(
    matches: Mapping[Size, Matches], annotations: Annotations, protocol: Protocol, weights: NDArray[np.float32]
) -> dict[str, Floats]:
    """Computes every precision figure of the protocol under image weights [R, I], each [R]."""
    frequency = [category.frequency for category in annotations.categories]
    values: dict[str, Floats] = {}
    for size, of_size in matches.items():
        means = summarise(average_precision(of_size, len(frequency), weights), frequency)
        values |= means if size == "all" else {f"AP{size}": means["AP"]}
    return {name: values[name] for name in list_figures(protocol) if name in values}
