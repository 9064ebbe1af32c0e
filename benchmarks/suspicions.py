"""Finds annotations and detections that are valid but most likely mistakes: they are reported with counts, never
refused.

The official packages accept all of them silently. `detmodes check-data` lists those in annotations, `detmodes evaluate`
warns before it prints figures, and `detmodes run` before it computes any.

Shape legend: G objects, D detections; boxes are `x, y, w, h` in pixels.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.readers.annotations import Annotations
from harness.metrics.samples.mentions import box_array
from harness.types import Detections

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

FAR_LARGER = 1.5
"""Factor of the image's side from which on a box is far larger."""
AREA_FACTOR, AREA_SLACK = 1.05, 2.0
"""Tolerances for rounding (square pixels): a mask lies inside its box, so its area is at most that of the box."""
TOLERANCE = 2.0
"""Pixels by which a detection may exceed its image."""
MANY = 0.2
"""Share of odd detections from which on all detections are suspected to have another meaning."""
SAMPLE, RUN = 20_000, 500
"""Number of examined detections, and of those in a run; runs are evenly spread over the file, as neighbours may
repeat each other."""


NO_AREA, LARGE_AREA = "boxes have no area", "areas are larger than their box"
SHARED_FILE = "files are the picture of several images"
HARMLESS = frozenset({NO_AREA, LARGE_AREA, SHARED_FILE})


class SuspiciousDataWarning(UserWarning):
    """Annotations are valid, and most likely not what is meant."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A finding with its count, the total `of` (0 where there is none), and the name of the first case."""

    what: str
    count: int
    of: int = 0
    first: str = ""

    @property
    def harmless(self) -> bool:
        """Tells whether published files have it too: evaluators and training leave such objects out."""
        return self.what in HARMLESS

    def __str__(self) -> str:
        number = f"{self.count:,} of {self.of:,}" if self.of else f"{self.count:,}"
        return f"{number} {self.what}{f' (first: {self.first})' if self.first else ''}"


# ---- annotations -------------------------------------------------------------------------------------------------


def find_in_annotations(annotations: Annotations) -> list[Suspicion]:
    """Examines the objects, federated fields and file names of an annotation file."""
    examples = annotations.examples
    objects = [(e, item) for e in examples for item in (*e.instances, *annotations.crowds.get(e.image_id, ()))]
    sizes = np.array([(e.width, e.height) for e, _ in objects], dtype=np.float64).reshape(-1, 2)
    areas = np.array([annotations.areas[item.id] for _, item in objects], dtype=np.float64)
    boxes = box_array(item.box for _, item in objects)

    def describe(row: int) -> str:
        return f"annotation {objects[row][1].id} of image {objects[row][0].image_id}"

    suspicions = list(find_in_boxes(boxes, areas, sizes, describe))
    present = ((e, {item.category_id for item in e.instances}) for e in examples)
    contradictory = [(e.image_id, c) for e, ids in present for c in sorted(ids & e.negative)]
    undecided = [(e.image_id, c) for e in examples for c in sorted(e.negative & e.not_exhaustive)]
    suspicions += find_contradictions(contradictory, undecided)
    paths = Counter(example.path for example in examples if example.path.name)
    shared = [path for path, count in paths.items() if count > 1]
    if shared:
        suspicions.append(Suspicion(SHARED_FILE, len(shared), len(paths), shared[0].name))
    return suspicions


def warn_of_suspicions(annotations: Annotations) -> None:
    """Warns of what published files do not have, in one line with its count, before anything is computed."""
    for suspicion in find_in_annotations(annotations):
        if not suspicion.harmless:
            message = f"{annotations.path}: {suspicion}; see detmodes check-data"
            warnings.warn(message, SuspiciousDataWarning, stacklevel=2)


def find_in_boxes(boxes: Floats, areas: Floats, sizes: Floats, describe: Callable[[int], str]) -> Iterator[Suspicion]:
    """Yields suspicions about objects: boxes [G, 4], areas [G], and the width and height of their images [G, 2], 0
    where they are not known. describe: names an object by its row."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    has_size = (sizes > 0).all(axis=1)
    box_areas = boxes[:, 2] * boxes[:, 3]
    findings = {
        NO_AREA: ~(box_areas > 0),
        "boxes lie wholly outside their image": has_size & ((high <= 0) | (low >= sizes)).any(axis=1) & (box_areas > 0),
        "boxes are far larger than their image": has_size & (boxes[:, 2:] > FAR_LARGER * sizes).any(axis=1),
        LARGE_AREA: (box_areas > 0) & (areas > AREA_FACTOR * box_areas + AREA_SLACK),
    }
    for what, odd in findings.items():
        if odd.any():
            yield Suspicion(what, int(odd.sum()), len(boxes), describe(int(np.argmax(odd))))


def find_contradictions(
    annotated_and_absent: Sequence[tuple[int, int]], absent_and_undecided: Sequence[tuple[int, int]]
) -> Iterator[Suspicion]:
    """Yields contradictions between federated fields; both arguments are (image id, category id)."""
    findings = {
        "categories are annotated in an image and verified to be absent from it": annotated_and_absent,
        "categories are verified to be absent from an image and not annotated exhaustively in it": absent_and_undecided,
    }
    for what, pairs in findings.items():
        if pairs:
            yield Suspicion(what, len(pairs), first="category {1} of image {0}".format(*pairs[0]))


# ---- detections --------------------------------------------------------------------------------------------------


def find_in_detections(detections: Detections, annotations: Annotations) -> list[Suspicion]:
    """Examines a sample of valid detections of images of these annotations."""
    rows = sample_rows(len(detections))
    size_of = {example.image_id: (example.width, example.height) for example in annotations.examples}
    sampled = detections.take(rows)
    sizes = np.array([size_of[image_id] for image_id in sampled.image_id.tolist()], dtype=np.float64).reshape(-1, 2)
    ids = np.stack([sampled.image_id, sampled.category_id], axis=1).astype(np.float64)
    table = np.concatenate([ids, sampled.boxes, sampled.scores[:, None]], axis=1)
    doubled = repeats_itself(detections.scores) and repeats_itself(detections.image_id)
    return find_in_rows(table, sizes, len(detections) if doubled else 0)


def repeats_itself(column: NDArray[Any]) -> bool:
    """Tells whether the second half of a column [D] repeats the first."""
    half = len(column) // 2
    return half > 0 and len(column) == 2 * half and np.array_equal(column[:half], column[half:])


def sample_rows(count: int) -> NDArray[np.int64]:
    """Chooses at most SAMPLE rows of `count`, in runs."""
    if count <= SAMPLE:
        return np.arange(count)
    starts = np.linspace(0, count - RUN, SAMPLE // RUN).astype(np.int64)
    return np.asarray((starts[:, None] + np.arange(RUN)).ravel())


def find_in_rows(table: Floats, sizes: Floats, doubled: int = 0) -> list[Suspicion]:
    """Examines detections [D, 7] (image id, category id, x, y, w, h, score) of images of these sizes [D, 2].

    doubled: the number of detections of the file, if its second half repeats the first.
    """
    if not len(table):
        return []
    boxes, scores, has_size = table[:, 2:6], table[:, 6], (sizes > 0).all(axis=1)
    suspicions = []

    def suspect(what: str, odd: Booleans) -> None:
        suspicions.append(Suspicion(what, int(odd.sum()), len(table)))

    outside = (scores < 0) | (scores > 1)
    if outside.any():
        suspect("scores lie outside [0, 1]: a ranking needs no more, calibration does", outside)
    beyond: Any = has_size & (boxes[:, :2] + boxes[:, 2:] > sizes + TOLERANCE).any(axis=1)
    if (np.abs(boxes) <= 1).all() and (boxes[:, 2:] > 0).any():
        suspect(
            "boxes lie between 0 and 1: pixels are expected, not shares of the image", np.ones(len(table), np.bool_)
        )
    elif beyond.mean() >= MANY:
        as_corners = (boxes[:, 2:] >= boxes[:, :2]).all(axis=1) & (boxes[:, 2:] <= sizes + TOLERANCE).all(axis=1)
        if as_corners.mean() > 1 - MANY / 4:
            suspect("boxes stick out of their image, none of them as x0, y0, x1, y1: x, y, w, h is expected", beyond)
        elif boxes[:, :2].min() >= 0 and (boxes[:, :2] + boxes[:, 2:]).max() <= 1000 + TOLERANCE:
            suspect("boxes stick out of their image, none beyond 1000: pixels are expected, not thousandths", beyond)
        else:
            suspect("boxes stick out of their image", beyond)
    repeated = len(table) - len(np.unique(table, axis=0))
    if doubled:
        suspicions.append(Suspicion("detections are there twice", doubled // 2, doubled))
    elif repeated >= len(table) * MANY:
        suspicions.append(Suspicion("detections are there twice", repeated, len(table)))
    return suspicions
