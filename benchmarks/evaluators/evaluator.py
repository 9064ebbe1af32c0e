"""Computes average precision of boxes under the protocols lvis, lvis-fixed and coco, with a fast engine or the
reference.

All engines of a protocol give the same figures to the last digits: what they would treat differently (the cap,
boxes without area, invalid input) is settled by `harness.metrics.detection.rules` before one of them sees the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluators.engines import ENGINES, METRICS, Task
from benchmarks.readers.annotations import Annotations
from benchmarks.readers.detections import check
from harness.errors import ConfigError, DataError, unknown
from harness.metrics.detection import rules
from harness.metrics.detection.evaluated_pairs import Pairs, select_evaluated
from harness.metrics.detection.rules import Protocol
from harness.types import Detections, Evaluation

if TYPE_CHECKING:
    from harness.metrics.detection import ap

__all__ = [
    "Protocol",
    "evaluate",
    "list_engines",
    "list_figures",
    "list_protocols",
    "make_task",
    "match_detections",
    "select_rows",
]


def list_protocols() -> tuple[Protocol, ...]:
    """Returns the names of the protocols, the default first."""
    return tuple(ENGINES)


def list_engines(protocol: Protocol) -> tuple[str, ...]:
    """Returns the names of the protocol's engines: "fast", then the reference implementation."""
    if protocol not in ENGINES:
        raise ConfigError(unknown("protocol", protocol, list_protocols()))
    return tuple(ENGINES[protocol])


def list_figures(protocol: Protocol) -> tuple[str, ...]:
    """Returns the names of the protocol's figures in their official order."""
    return METRICS[protocol]


def select_rows(annotations: Annotations, detections: Detections, protocol: Protocol = "lvis") -> NDArray[np.int64]:
    """Returns the rows that count after the protocol's cap and its rule on empty boxes, ascending (see
    `rules.select_rows`)."""
    check(detections, annotations)
    return rules.select_rows(detections, protocol)


def match_detections(annotations: Annotations, detections: Detections, protocol: Protocol = "lvis") -> ap.Matches:
    """Determines which detections count and which of them are right, for objects of all sizes (see `ap.match`)."""
    check(detections, annotations)
    from harness.metrics.detection import ap  # late: scipy, which the engines do without

    examples, categories = annotations.examples, annotations.categories
    return ap.match(examples, detections, categories, protocol, annotations.areas, annotations.crowds)


def evaluate(
    annotations: Annotations, detections: Detections, protocol: Protocol = "lvis", engine: str = "fast"
) -> Evaluation:
    """Computes the official figures of the protocol, and AP by category id.

    lvis        federated; 300 detections an image. Thirteen figures
    lvis-fixed  AP-fixed (Dave et al., 2021): 10,000 detections a category over all images, else as lvis; its
                recalls are named AR, ARs, ARm and ARl
    coco        100 detections an image and category, crowd regions. Twelve figures

    AP of a category is the mean over T = 10 IoU thresholds (0.50 to 0.95) and R = 101 recall thresholds of
    the interpolated precision. A category that is annotated but never predicted has AP 0; one that is not
    annotated in these images has None, and so has a figure over no category at all.

    Raises ConfigError for an engine that the protocol does not have, DataError for annotations without images or
    categories and, naming the row, for an invalid detection.
    """
    available = list_engines(protocol)
    if engine not in available:
        raise ConfigError(unknown(f"engine of protocol {protocol}", engine, available))
    for kind, records in (("image", annotations.examples), ("category", annotations.categories)):
        if not records:
            raise DataError(f"{annotations.path}: expected at least one {kind} to evaluate on, got none")
    return ENGINES[protocol][engine](make_task(annotations, detections, protocol))


def make_task(annotations: Annotations, detections: Detections, protocol: Protocol) -> Task:
    """Makes the input of an engine: the objects and the rows that count. DataError naming the row of an invalid
    detection."""
    check(detections, annotations)
    truth = rules.ground_truth(annotations.examples, protocol, annotations.areas, annotations.crowds)
    pairs = Pairs.of(annotations.examples, annotations.categories)
    rows, _ = select_evaluated(detections, annotations.examples, truth, pairs, protocol)
    return Task(protocol, annotations.examples, annotations.categories, truth, detections, rows)
