"""Random annotations and detections with everything that the protocols treat specially, and the official packages
run on them as they come: no rule of ours is applied."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.evaluators.engines import METRICS, lvis_package
from benchmarks.readers.annotations import Annotations
from harness.metrics.detection.rules import Protocol
from harness.types import Box, Category, Detection, Detections, Evaluation, Example, Frequency, Instance

FREQUENCIES: tuple[Frequency | None, ...] = ("r", "c", "f", None)
SIDES = (0, 10, 25.5, 32, 40, 80, 96, 130)
"""All sizes, their borders (32^2 and 96^2 square pixels) and boxes without area."""

Case = tuple[Annotations, Detections]


def random_case(seed: int, protocol: Protocol, images: int = 5, crowded: int = 420, ties: bool = True) -> Case:
    """Unsorted ids; crowding (`crowded` detections in the first image, most of one category); ties in score, place
    and IoU; empty boxes; categories without objects; federated fields or crowd regions; annotated areas that are
    not the box's, some of them 0."""
    rng = random.Random(seed)
    ids = rng.sample(range(90), 8)
    image_ids = rng.sample(range(1000), images)

    def box() -> Box:  # on a coarse grid, so that boxes coincide
        return Box(*map(float, (rng.randrange(0, 400, 40), rng.randrange(0, 300, 40), *rng.choices(SIDES, k=2))))

    objects: dict[int, list[Instance]] = {i: [] for i in image_ids}
    for k in rng.sample(range(1, 500), 24 * images):
        objects[rng.choice(image_ids)].append(Instance(k, rng.choice(ids[:-2]), box()))
    areas = {o.id: o.box.w * o.box.h * rng.choice([0, 0.5, 1, 1, 1]) for of_image in objects.values() for o in of_image}
    is_crowd = {o.id: protocol == "coco" and rng.random() < 0.15 for of_image in objects.values() for o in of_image}
    examples = [
        Example(
            image_id,
            Path(f"{image_id}.jpg"),
            640,
            480,
            tuple(o for o in of_image if not is_crowd[o.id]),
            frozenset(rng.sample(ids, 3)),
            frozenset(rng.sample(ids, 2)),
        )
        for image_id, of_image in objects.items()
    ]

    def score(low: float = 0.0) -> float:
        return rng.randrange(int(20 * low), 21) / 20 if ties else rng.uniform(low, 1.0)

    rows = [Detection(image_ids[0], rng.choice([*ids[:1] * 8, *ids]), box(), score()) for _ in range(crowded)]
    rows += [Detection(rng.choice(image_ids), rng.choice(ids), box(), score()) for _ in range(10 * images)]
    for image_id, of_image in objects.items():  # two thirds of the objects are found, some of them twice
        for o in of_image:
            for _ in range(rng.choice([0, 1, 1, 2])):
                near = Box(o.box.x + rng.choice([0, 0, 2]), o.box.y, o.box.w, o.box.h)
                rows.append(Detection(image_id, o.category_id, near, score(0.5)))
    rng.shuffle(rows)
    categories = tuple(Category(c, (f"c{c}",), FREQUENCIES[k % 4]) for k, c in enumerate(ids))
    crowds = {i: tuple(o for o in of_image if is_crowd[o.id]) for i, of_image in objects.items()}
    return Annotations(Path("random.json"), "", categories, tuple(examples), areas, crowds), Detections.of(rows)


def repeated(case: Case, times: Sequence[int]) -> Case:
    """Image i of the annotations `times[i]` times, each copy under ids of its own."""
    annotations, detections = case
    examples: list[Example] = []
    areas: dict[int, float] = {}
    crowds: dict[int, tuple[Instance, ...]] = {}
    rows: list[Detections] = []
    for example, count in zip(annotations.examples, times, strict=True):
        for _ in range(count):
            image_id, first = len(examples) + 1, len(areas) + 1
            of_image = [*example.instances, *annotations.crowds.get(example.image_id, ())]
            copies = [replace(o, id=first + n) for n, o in enumerate(of_image)]
            areas |= {copy.id: annotations.areas[o.id] for copy, o in zip(copies, of_image, strict=True)}
            split = len(example.instances)
            examples.append(replace(example, image_id=image_id, instances=tuple(copies[:split])))
            crowds[image_id] = tuple(copies[split:])
            moved = detections.take(detections.image_id == example.image_id)
            rows.append(replace(moved, image_id=np.full(len(moved), image_id)))
    columns = {f: np.concatenate([getattr(d, f) for d in rows]) for f in ("image_id", "category_id", "boxes", "scores")}
    return replace(annotations, examples=tuple(examples), areas=areas, crowds=crowds), Detections(**columns)


def official(case: Case, protocol: Protocol) -> Evaluation:
    """What `lvis` or `pycocotools` says about the case as it is."""
    annotations, detections = case
    truth, results = _document(annotations), _results(detections)
    run = _official_coco if protocol == "coco" else _official_lvis
    figures, precision, ids = run(truth, results, protocol)
    per_category = {
        c: None if (precision[:, :, n] == -1).all() else float(precision[:, :, n].mean()) for n, c in enumerate(ids)
    }
    named = zip(METRICS[protocol], figures, strict=True)
    return Evaluation({name: None if v == -1 else float(v) for name, v in named}, per_category, "official", "")


Run = tuple[Sequence[float], NDArray[np.float64], Sequence[int]]


def _official_lvis(truth: dict[str, Any], results: list[dict[str, Any]], protocol: Protocol) -> Run:
    with lvis_package() as lvis:
        file = object.__new__(lvis.LVIS)
        file.logger, file.dataset = lvis.lvis.logging.getLogger("lvis"), truth
        file._create_index()
        cap = 300 if protocol == "lvis" else -1
        evaluation = lvis.LVISEval(file, lvis.LVISResults(file, results, max_dets=cap), "bbox")
        evaluation.params.img_count_lbl = ["r", "c", "f", None]
        evaluation.run()
    return list(evaluation.results.values()), evaluation.eval["precision"][..., 0], evaluation.params.cat_ids


def _official_coco(truth: dict[str, Any], results: list[dict[str, Any]], protocol: Protocol) -> Run:
    assert protocol == "coco"
    with contextlib.redirect_stdout(io.StringIO()):
        file = COCO()
        file.dataset = truth
        file.createIndex()
        evaluation = COCOeval(file, file.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats), evaluation.eval["precision"][..., 0, 2], evaluation.params.catIds


def _document(annotations: Annotations) -> dict[str, Any]:
    images = [
        {
            "id": e.image_id,
            "neg_category_ids": sorted(e.negative),
            "not_exhaustive_category_ids": sorted(e.not_exhaustive),
        }
        for e in annotations.examples
    ]
    objects = [(e.image_id, o, 0) for e in annotations.examples for o in e.instances]
    objects += [(e.image_id, o, 1) for e in annotations.examples for o in annotations.crowds.get(e.image_id, ())]
    records = [
        {
            "id": o.id,
            "image_id": image_id,
            "category_id": o.category_id,
            "bbox": [o.box.x, o.box.y, o.box.w, o.box.h],
            "area": annotations.areas[o.id],
            "iscrowd": crowd,
        }
        for image_id, o, crowd in objects
    ]
    categories = [{"id": c.id, "name": c.name, "frequency": c.frequency} for c in annotations.categories]
    return {"images": images, "annotations": records, "categories": categories}


def _results(detections: Detections) -> list[dict[str, Any]]:
    columns = (detections.image_id, detections.category_id, detections.boxes, detections.scores)
    values = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(("image_id", "category_id", "bbox", "score"), row, strict=True)) for row in values]
