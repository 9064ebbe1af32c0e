"""Computes AP of one set of detections under many rankings: all work that does not depend on scores is done once.

Shape legend: D detections.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout

import hotcoco
import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluators.engines import SCORE, Task, load_results, load_truth
from benchmarks.readers.annotations import Annotations
from benchmarks.readers.detections import check
from harness.metrics.detection.evaluated_pairs import Pairs, flag_evaluated
from harness.metrics.detection.rules import (
    RULES,
    Protocol,
    compute_areas,
    ground_truth,
    group_rows,
    has_area,
    select_best,
)
from harness.types import Detections


def evaluate_rankings(
    annotations: Annotations,
    detections: Detections,
    rankings: Iterable[NDArray[np.float64]],
    protocol: Protocol = "lvis",
) -> Iterator[float | None]:
    """Yields AP, as `evaluator.evaluate` gives it, with the scores [D] of each of the rankings instead of the file's.

    None where AP is undefined. Raises DataError naming the row of an invalid detection.
    """
    check(detections, annotations)
    rules = RULES[protocol]
    truth = ground_truth(annotations.examples, protocol, annotations.areas, annotations.crowds)
    countable = np.ones(len(detections), np.bool_)
    if rules.federated:
        pairs = Pairs.of(annotations.examples, annotations.categories)
        pair = pairs.find(detections.image_id, detections.category_id)
        countable = has_area(compute_areas(detections.boxes)) & flag_evaluated(pair, annotations.examples, truth, pairs)
    groups = group_rows(detections, rules)
    everything = np.arange(len(detections))
    task = Task(protocol, annotations.examples, annotations.categories, truth, detections, everything)
    loaded, table = load_truth(truth, task.images(), annotations.categories), task.table()
    for scores in rankings:
        rows = np.flatnonzero(select_best(groups, scores, rules.cap) & countable)
        ranked = table[rows]
        ranked[:, SCORE] = scores[rows]
        yield _average_precision(protocol, loaded, load_results(protocol, loaded, ranked), len(rows))


def _average_precision(protocol: Protocol, truth: hotcoco.COCO, results: hotcoco.COCO, rows: int) -> float | None:
    """Computes AP over objects of all sizes, which is a quarter of the work of all figures."""
    make = hotcoco.COCOeval if protocol == "coco" else hotcoco.LVISeval
    evaluation = make(truth, results, "bbox")
    evaluation.params.area_rng, evaluation.params.area_rng_lbl = evaluation.params.area_rng[:1], ["all"]
    if protocol == "lvis-fixed":  # it takes 300 of each image and category once more
        evaluation.params.max_dets = [max(1, rows)]
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that are not the usual ones
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats is not None
    ap = float(evaluation.stats[0])
    return None if ap == -1 else ap
