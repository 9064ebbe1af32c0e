"""The LVIS protocol: federated average precision of boxes, at most 300 detections an image.

Two engines give the same figures to the last digits: `fast` (hotcoco) and `lvis` (the official API, the
reference). They differ in what they do with odd input, so validation, the cap and the rule on empty boxes are
applied here, once, before either sees the data.

Shape legend: D detections   T IoU thresholds   R recall thresholds   C categories
    rows       [D, 7]     float64, columns as below
    precision  [T, R, C]  float64, -1 where undefined
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from benchmarks.annotations import Annotations
from harness.errors import ConfigError, DataError, unknown
from harness.types import Detection, Evaluation

MAX_DETECTIONS = 300
METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"),
    *("AR@300", "ARs@300", "ARm@300", "ARl@300"),
)
IMAGE, X, Y, W, H, SCORE, CATEGORY = range(7)
"""Columns of `rows`."""

Array = NDArray[np.float64]
Dataset = dict[str, list[dict[str, Any]]]


def evaluate(annotations: Annotations, detections: Sequence[Detection], engine: str = "fast") -> Evaluation:
    """The thirteen official figures, and AP by category id.

    AP of a category is the mean over T = 10 IoU thresholds (0.50 to 0.95) and R = 101 recall thresholds of
    the interpolated precision. A category that is annotated but never predicted has AP 0; one that is not
    annotated in these images has None, and so has a figure over no category at all. `engine` is "fast" or
    "lvis". Raises DataError naming the row of an invalid detection.
    """
    if engine not in ENGINES:
        raise ConfigError(unknown("evaluation engine", engine, ENGINES))
    if not annotations.examples:
        raise DataError(f"{annotations.path}: expected at least one image to evaluate on, got none")
    rows = _rows(detections)
    _validate(rows, detections, annotations)
    return ENGINES[engine](_dataset(annotations), _official_rules(rows))


def _rows(detections: Sequence[Detection]) -> Array:
    rows = [(d.image_id, d.box.x, d.box.y, d.box.w, d.box.h, d.score, d.category_id) for d in detections]
    return np.array(rows, dtype=np.float64).reshape(-1, 7)


def _validate(rows: Array, detections: Sequence[Detection], annotations: Annotations) -> None:
    images = [example.image_id for example in annotations.examples]
    categories = [category.id for category in annotations.categories]
    checks = {
        "a finite box and score": np.isfinite(rows[:, X : SCORE + 1]).all(axis=1),
        "a width and height of at least 0": (rows[:, W : H + 1] >= 0).all(axis=1),
        "the id of an evaluated image": np.isin(rows[:, IMAGE], images),
        "the id of a category of the annotations": np.isin(rows[:, CATEGORY], categories),
    }
    for expected, passed in checks.items():
        if not passed.all():
            row = int(np.argmin(passed))
            raise DataError(f"detections[{row}]: expected {expected}, got {detections[row]}")


def _official_rules(rows: Array) -> Array:
    """The best 300 rows of each image (of equal scores the earlier), then those of them that have an area.

    Rows stay in the given order. The cap comes first, officially: boxes of area 0 use up the budget of 300.
    The official API keeps areas strictly between 0 and infinity.
    """
    order = np.lexsort((-rows[:, SCORE], rows[:, IMAGE]))  # stable
    images = rows[order, IMAGE]
    rank = np.arange(len(images)) - np.searchsorted(images, images)
    kept: Array = rows[np.sort(order[rank < MAX_DETECTIONS])]
    with np.errstate(over="ignore"):
        area = kept[:, W] * kept[:, H]
    return kept[(area > 0) & (area < np.inf)]


def _dataset(annotations: Annotations) -> Dataset:
    """What both engines read, as LVIS records without masks. Objects of area 0 are left out, officially."""
    return {
        "images": [
            {
                "id": example.image_id,
                "width": example.width,
                "height": example.height,
                "neg_category_ids": sorted(example.negative),
                "not_exhaustive_category_ids": sorted(example.not_exhaustive),
            }
            for example in annotations.examples
        ],
        "annotations": [
            {
                "id": instance.id,
                "image_id": example.image_id,
                "category_id": instance.category_id,
                "bbox": [instance.box.x, instance.box.y, instance.box.w, instance.box.h],
                "area": annotations.areas[instance.id],
            }
            for example in annotations.examples
            for instance in example.instances
            if annotations.areas[instance.id] > 0
        ],
        "categories": [{"id": c.id, "name": c.name, "frequency": c.frequency} for c in annotations.categories],
    }


# ---- engines -----------------------------------------------------------------------------------------------


def _hotcoco(dataset: Dataset, rows: Array) -> Evaluation:
    truth = hotcoco.COCO(dataset)
    # LVISResults takes the cap; `params.max_dets`, set after loading, would have no effect.
    results = hotcoco.LVISResults(truth, rows, max_dets=MAX_DETECTIONS)
    evaluation = hotcoco.LVISeval(truth, results, "bbox")
    with redirect_stdout(io.StringIO()):  # run() prints a summary
        evaluation.run()
    assert evaluation.eval is not None
    precision = evaluation.eval["precision"][:, :, :, 0, 0]  # all areas; the one cap
    return _evaluation("hotcoco", evaluation.get_results(), precision, evaluation.params.cat_ids)


def _lvis(dataset: Dataset, rows: Array) -> Evaluation:
    with _official_api() as lvis:
        truth = object.__new__(lvis.LVIS)  # its constructor takes a path only
        truth.logger, truth.dataset = logging.getLogger("lvis"), dataset
        truth._create_index()
        results = lvis.LVISResults(truth, _result_records(dataset, rows), max_dets=MAX_DETECTIONS)
        evaluation = lvis.LVISEval(truth, results, iou_type="bbox")
        # A fourth group for categories whose frequency is unknown: no figure is made of it.
        evaluation.params.img_count_lbl = ["r", "c", "f", None]
        evaluation.run()
    precision = evaluation.eval["precision"][:, :, :, 0]  # all areas
    return _evaluation("lvis", evaluation.get_results(), precision, evaluation.params.cat_ids)


ENGINES: dict[str, Callable[[Dataset, Array], Evaluation]] = {"fast": _hotcoco, "lvis": _lvis}


def _result_records(dataset: Dataset, rows: Array) -> list[dict[str, Any]]:
    """Rows as the official API takes them. It fails on an empty list, but drops a box of area 0 itself."""
    if not len(rows):
        nothing = {"image_id": dataset["images"][0]["id"], "category_id": dataset["categories"][0]["id"]}
        return [{**nothing, "bbox": [0.0, 0.0, 0.0, 0.0], "score": 0.0}]
    keys = ("image_id", "category_id", "bbox", "score")
    records = ((int(r[IMAGE]), int(r[CATEGORY]), r[X:SCORE], r[SCORE]) for r in rows.tolist())
    return [dict(zip(keys, record, strict=True)) for record in records]


@contextmanager
def _official_api() -> Iterator[Any]:
    """The package `lvis`, working under today's NumPy and silent; its global changes are undone."""
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


def _evaluation(engine: str, figures: Mapping[str, float], precision: Array, category_ids: Sequence[int]) -> Evaluation:
    """Both engines mark what is undefined with -1; here it is None."""
    values = [precision[:, :, c] for c in range(len(category_ids))]
    defined = [ap[ap > -1] for ap in values]
    return Evaluation(
        metrics={name: None if figures[name] == -1 else float(figures[name]) for name in METRICS},
        per_category={
            int(category_id): float(ap.mean()) if ap.size else None
            for category_id, ap in zip(category_ids, defined, strict=True)
        },
        engine=engine,
        version=version(engine),
    )
