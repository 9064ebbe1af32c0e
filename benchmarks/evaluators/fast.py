"""Computes the official figures from two files without an object for each box; `detmodes evaluate` uses it where
possible.

The figures are those of `benchmarks.evaluators.evaluator.evaluate` to the last digit: the same rules of the protocol
select the detections, and the same engine matches and accumulates. Anything unusual raises NotPlainError; the careful
way then reports the mistake, or evaluates the files slowly.

Shape legend: D detections, I images, C categories; a row of a table is image_id, x, y, w, h, score, category_id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluators.engines import CATEGORY, IMAGE, SCORE, H, W, X, Y, load_results, load_truth, run_hotcoco
from benchmarks.readers.annotations import Style
from benchmarks.readers.detection_parts import NotPlainError, RowTable
from benchmarks.readers.truth_columns import TruthColumns, read_truth
from benchmarks.suspicions import (
    RUN,
    SAMPLE,
    Suspicion,
    find_contradictions,
    find_in_boxes,
    find_in_rows,
    repeats_itself,
)
from harness.metrics.detection.rules import LARGEST, RULES, Protocol, has_area, make_regular, select_best
from harness.types import Category, Evaluation


@dataclass(frozen=True, slots=True)
class FastEvaluation:
    """The figures, and for each of C categories its objects, images with one, and detections (after the cap)."""

    evaluation: Evaluation
    categories: tuple[Category, ...]
    instances: NDArray[np.int64]
    images: NDArray[np.int64]
    detections: NDArray[np.int64]
    suspicions: tuple[Suspicion, ...]


def evaluate_files(
    annotations: Path,
    read_table: Callable[[], RowTable],
    protocol: Protocol,
    say: Callable[[str], None] = lambda stage: None,
) -> FastEvaluation:
    """Evaluates the detections of `read_table`, called after the annotations are read. Raises NotPlainError."""
    style: Style = "coco" if protocol == "coco" else "lvis"
    say("reading annotations")
    columns = read_truth(annotations, style, protocol)
    truth = load_truth(columns.truth, columns.image_records, columns.categories)
    say("reading detections")
    table = read_table()
    say("evaluating")
    suspicions = (*_suspect_annotations(columns), *_suspect_detections(table, columns))
    rows, detections = select_rows(table, columns, protocol)
    results = load_results(protocol, truth, table.rows[:rows])
    del table  # the engine has a copy: millions of rows should not be held twice
    evaluation = run_hotcoco(protocol, truth, results, rows)
    return FastEvaluation(evaluation, columns.categories, columns.instances, columns.images, detections, suspicions)


def select_rows(table: RowTable, columns: TruthColumns, protocol: Protocol) -> tuple[int, NDArray[np.int64]]:
    """Moves the rows that count to the front of the table; returns their number, and the number of detections by
    category [C].

    The rules are those of `evaluated_pairs.select_evaluated`. Raises NotPlainError for rows that are not valid.
    """
    rules, categories = RULES[protocol], len(columns.categories)
    image, category, sound = _check_rows(table, columns, rules.federated)
    group = category if not rules.by_image else image
    if rules.by_image and rules.by_category:
        group = image * categories + category
    counts = sound
    if np.bincount(group).max(initial=0) > rules.cap:
        counts &= select_best(group, np.concatenate([part[:, SCORE] for part in table.parts()]), rules.cap)
    detections = np.bincount(category[counts], minlength=categories)
    if columns.evaluated is not None:
        counts &= columns.evaluated[image * categories + category]
    return _compact(table, counts), detections


def _check_rows(
    table: RowTable, columns: TruthColumns, federated: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Returns the position of each row's image and category, and whether it has an area (if that matters), each [D]."""
    image, category = np.empty(len(table), np.int64), np.empty(len(table), np.int64)
    sound = np.ones(len(table), np.bool_)
    start = 0
    for part in table.parts():
        stop = start + len(part)
        image[start:stop] = columns.image_positions.find(part[:, IMAGE].astype(np.int64))
        category[start:stop] = columns.category_positions.find(part[:, CATEGORY].astype(np.int64))
        boxes = part[:, X : H + 1]
        if len(part) and not (part[:, W : H + 1].min() >= 0 and np.abs(boxes).max() <= LARGEST):
            raise NotPlainError("a negative side, or numbers beyond reason")
        if not np.isfinite(part[:, SCORE]).all():
            raise NotPlainError("a score that is not finite")
        if federated:
            sound[start:stop] = has_area(boxes[:, 2] * boxes[:, 3])
        else:
            part[:, X : H + 1] = make_regular(boxes)
        start = stop
    return image, category, sound


def _suspect_annotations(columns: TruthColumns) -> list[Suspicion]:
    truth = columns.truth
    sizes = columns.sizes[columns.image_positions.find(truth.image_id)]

    def describe(row: int) -> str:
        return f"annotation {truth.id[row]} of image {truth.image_id[row]}"

    return [
        *find_in_boxes(truth.boxes, truth.areas, sizes, describe),
        *find_contradictions(columns.contradictory, columns.undecided),
    ]


def _suspect_detections(table: RowTable, columns: TruthColumns) -> list[Suspicion]:
    parts = list(table.parts())
    if not parts:
        return []
    doubled = all(repeats_itself(np.concatenate([part[:, k] for part in parts])) for k in (SCORE, IMAGE))
    if len(table) > SAMPLE:
        chosen = np.unique(np.linspace(0, len(parts) - 1, SAMPLE // RUN).astype(np.int64))
        parts = [parts[k][: SAMPLE // len(chosen)] for k in chosen]
    sample = np.concatenate(parts)[:, [IMAGE, CATEGORY, X, Y, W, H, SCORE]]
    sizes = columns.sizes[columns.image_positions.find(sample[:, 0].astype(np.int64))]
    return find_in_rows(sample, sizes, len(table) if doubled else 0)


def _compact(table: RowTable, counts: NDArray[np.bool_]) -> int:
    """Moves the rows that are flagged [D] to the front; returns their number."""
    read = filled = 0
    for part in table.parts():
        chosen = part[counts[read : read + len(part)]]
        table.rows[filled : filled + len(chosen)] = chosen
        read, filled = read + len(part), filled + len(chosen)
    return filled
