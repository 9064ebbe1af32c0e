"""Runs the engines behind `benchmarks.evaluators.evaluator`: hotcoco (fast), and the official `lvis` and
`pycocotools`.

They get the detections that the rules of the protocol select
(`harness.metrics.detection.evaluated_pairs.select_evaluated`), so none of them caps or drops any.

Shape legend: D detections, T IoU thresholds, R recall thresholds, C categories.
    table      [D, 7]     float64, columns as below
    precision  [T, R, C]  float64, -1 where undefined
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from harness.metrics.detection.rules import RULES, GroundTruth, Protocol, make_regular
from harness.types import Category, Detections, Evaluation, Example

IMAGE, X, Y, W, H, SCORE, CATEGORY = range(7)
"""Columns of a table of detections, as hotcoco takes it."""

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
PARTS = ("APr", "APc", "APf")
METRICS: dict[Protocol, tuple[str, ...]] = {
    "lvis": (*AP_NAMES, *PARTS, "AR@300", "ARs@300", "ARm@300", "ARl@300"),
    "lvis-fixed": (*AP_NAMES, *PARTS, "AR", "ARs", "ARm", "ARl"),
    "coco": (*AP_NAMES, "AR@1", "AR@10", "AR@100", "ARs@100", "ARm@100", "ARl@100"),
}
"""Names of the figures, in the order of the evaluators. Those of lvis-fixed do not name a cap."""

Array = NDArray[np.float64]
Dataset = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Task:
    """What an engine evaluates."""

    protocol: Protocol
    examples: Sequence[Example]
    categories: Sequence[Category]
    truth: GroundTruth
    detections: Detections
    rows: NDArray[np.int64]
    """Rows of the detections that count."""

    def table(self) -> Array:
        """Returns the detections that count, [n, 7]. As a reader and an engine hold a large set already, an engine
        should use this copy and release it."""
        table = np.empty((len(self.rows), 7))
        table[:, IMAGE] = self.detections.image_id[self.rows]
        table[:, CATEGORY] = self.detections.category_id[self.rows]
        table[:, X : H + 1] = make_regular(self.detections.boxes[self.rows])
        table[:, SCORE] = self.detections.scores[self.rows]
        return table

    def images(self) -> list[dict[str, Any]]:
        return [
            {
                "id": example.image_id,
                "width": example.width,
                "height": example.height,
                **(_federated(example) if RULES[self.protocol].federated else {}),
            }
            for example in self.examples
        ]

    def dataset(self) -> Dataset:
        """Returns the annotation file without masks, in the form of the official packages."""
        truth = self.truth
        columns = (truth.id, truth.image_id, truth.category_id, truth.boxes, truth.areas, truth.crowd.astype(int))
        annotations = _records(("id", "image_id", "category_id", "bbox", "area", "iscrowd"), columns)
        return {"images": self.images(), "annotations": annotations, "categories": category_records(self.categories)}

    def results(self) -> list[dict[str, Any]]:
        """Returns rows in the form of the official packages. They fail on an empty list, so it is replaced by a box
        without area, which matches nothing."""
        rows = self.table()
        if not len(rows):
            rows = np.array([[self.examples[0].image_id, 0, 0, 0, 0, 0, self.categories[0].id]], dtype=np.float64)
        columns = (
            rows[:, IMAGE].astype(np.int64),
            rows[:, CATEGORY].astype(np.int64),
            rows[:, X:SCORE],
            rows[:, SCORE],
        )
        return _records(("image_id", "category_id", "bbox", "score"), columns)


def category_records(categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Returns the categories in the form of the packages."""
    return [{"id": c.id, "name": c.name, "frequency": c.frequency} for c in categories]


def _federated(example: Example) -> dict[str, list[int]]:
    return {
        "neg_category_ids": sorted(example.negative),
        "not_exhaustive_category_ids": sorted(example.not_exhaustive),
    }


def _records(keys: Sequence[str], columns: Sequence[NDArray[Any]]) -> list[dict[str, Any]]:
    values = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(keys, row, strict=True)) for row in values]


# ---- hotcoco -----------------------------------------------------------------------------------------------------


def evaluate_with_hotcoco(task: Task) -> Evaluation:
    """Computes the figures of any of the protocols."""
    truth = load_truth(task.truth, task.images(), task.categories)
    return run_hotcoco(task.protocol, truth, load_results(task.protocol, truth, task.table()), len(task.rows))


def load_truth(truth: GroundTruth, images: list[dict[str, Any]], categories: Sequence[Category]) -> hotcoco.COCO:
    """Passes the objects that take part to hotcoco."""
    return hotcoco.COCO.from_arrays(
        images,
        category_records(categories),
        truth.image_id,
        truth.category_id,
        truth.boxes,
        ids=truth.id,
        area=truth.areas,
        iscrowd=truth.crowd,
    )


def load_results(protocol: Protocol, truth: hotcoco.COCO, table: Array) -> Any:
    """Passes the detections that count to hotcoco, which makes a copy of them."""
    return truth.load_res(table) if protocol == "coco" else hotcoco.LVISResults(truth, table, max_dets=-1)


def run_hotcoco(protocol: Protocol, truth: hotcoco.COCO, results: Any, rows: int) -> Evaluation:
    """Computes the figures of loaded objects and `rows` loaded detections."""
    if protocol == "coco":
        evaluation = hotcoco.COCOeval(truth, results, "bbox")
    else:
        evaluation = hotcoco.LVISeval(truth, results, "bbox")
    if protocol == "lvis-fixed":  # it takes 300 of each image and category once more
        evaluation.params.max_dets = [max(1, rows)]
    # run() prints a summary, and warns of a cap that is not the usual one.
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluation.run()
    assert evaluation.eval is not None
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # all areas; the largest cap
    return _evaluation(protocol, "hotcoco", list(evaluation.stats), precision, evaluation.params.cat_ids)


# ---- the official packages ---------------------------------------------------------------------------------------


def official_lvis(task: Task) -> Evaluation:
    with lvis_package() as lvis:
        truth = object.__new__(lvis.LVIS)  # its constructor takes a path only
        truth.logger, truth.dataset = logging.getLogger("lvis"), task.dataset()
        truth._create_index()
        results = lvis.LVISResults(truth, task.results(), max_dets=-1)
        evaluation = lvis.LVISEval(truth, results, iou_type="bbox")
        # A fourth group for categories whose frequency is unknown: no figure is made of it.
        evaluation.params.img_count_lbl = ["r", "c", "f", None]
        evaluation.run()
    precision = evaluation.eval["precision"][:, :, :, 0]  # all areas
    return _evaluation(
        task.protocol, "lvis", list(evaluation.get_results().values()), precision, evaluation.params.cat_ids
    )


def official_coco(task: Task) -> Evaluation:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):  # every step prints
        truth = COCO()
        truth.dataset = task.dataset()
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(task.results()), "bbox")
        with np.errstate(invalid="ignore"):
            evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return _evaluation(task.protocol, "pycocotools", evaluation.stats, precision, evaluation.params.catIds)


@contextmanager
def lvis_package() -> Iterator[Any]:
    """Imports the package `lvis` so that it works with today's NumPy and prints nothing; its global changes are
    undone."""
    root, logger = logging.getLogger(), logging.getLogger("lvis")
    handlers, root_level, level = list(root.handlers), root.level, logger.level
    logger.setLevel(logging.ERROR)
    aliased = not hasattr(np, "float")
    if aliased:
        np.float = float  # type: ignore[attr-defined]  # removed in NumPy 1.24
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls Logger.warn, which is deprecated
            import lvis  # late: it imports OpenCV and configures logging

            yield lvis
    finally:
        if aliased:
            delattr(np, "float")
        root.handlers[:] = handlers
        root.setLevel(root_level)
        logger.setLevel(level)


ENGINES: dict[Protocol, dict[str, Callable[[Task], Evaluation]]] = {
    "lvis": {"fast": evaluate_with_hotcoco, "lvis": official_lvis},
    "lvis-fixed": {"fast": evaluate_with_hotcoco, "lvis": official_lvis},
    "coco": {"fast": evaluate_with_hotcoco, "pycocotools": official_coco},
}
"""The engines of each protocol: the default first, then the reference."""


def _evaluation(
    protocol: Protocol, package: str, figures: Sequence[float], precision: Array, category_ids: Sequence[int]
) -> Evaluation:
    """Makes an Evaluation. All packages mark undefined figures with -1; here they are None."""
    values = [precision[:, :, c] for c in range(len(category_ids))]
    defined = [ap[ap > -1] for ap in values]
    return Evaluation(
        metrics={
            name: None if value == -1 else float(value) for name, value in zip(METRICS[protocol], figures, strict=True)
        },
        per_category={
            int(category_id): float(ap.mean()) if ap.size else None
            for category_id, ap in zip(category_ids, defined, strict=True)
        },
        engine=package,
        version=version(package),
    )
