"""Draws annotations and detections of any size from a seed, for measuring speed: shaped like LVIS val or COCO.

They imitate what makes evaluation slow or fast, not the pictures: about 12 objects of few categories an image,
category counts with a long tail, federated fields or crowd regions, and detections of which part lies near an object.
Boxes have two decimals and scores six, so that JSON, Parquet and NumPy hold the same numbers.

Shape legend: I images, C categories, G objects, D detections.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.readers.annotations import Style
from harness.types import Detections

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

WIDTH, HEIGHT = 640, 480
OBJECTS = 12
"""Mean number of objects in an image."""
CANDIDATES, NEGATIVES = 4, 8
"""Categories that an image's objects are drawn from, and those that are offered as verified to be absent."""
NEAR_SHARE, RIGHT_SHARE = 0.4, 0.85
"""Share of detections that lie near an object, and of those the share that name its category."""
FREQUENT_SHARE, COMMON_SHARE = 405 / 1203, 461 / 1203
"""Shares of frequent and of common categories in LVIS v1."""
CROWD_SHARE = 0.01
POLYGON = [[round(float(x), 2) for x in np.linspace(0, 400, 60)]]
"""A stand-in for the polygons that make up most of an annotation file; readers of boxes skip it."""
CHUNK = 100_000


@dataclass(frozen=True, slots=True)
class GeneratedObjects:
    """Objects as columns, grouped by image; ids count from 1.

    image [G], category [G] (from 0), boxes [G, 4]; first [I], count [I]: the objects of an image;
    candidates [I, CANDIDATES], negatives [I, NEGATIVES]: categories, from 0
    """

    categories: int
    image: Integers
    category: Integers
    boxes: Floats
    first: Integers
    count: Integers
    candidates: Integers
    negatives: Integers


def generate_objects(images: int, categories: int, rng: np.random.Generator) -> GeneratedObjects:
    """Draws objects of `images` images; the category of rank k has a probability proportional to 1 / (k + 1)."""
    tail = 1.0 / np.arange(1, categories + 1)
    candidates = rng.choice(categories, (images, CANDIDATES), p=tail / tail.sum())
    negatives = rng.integers(0, categories, (images, NEGATIVES))
    count = np.maximum(rng.poisson(OBJECTS, images), 1)
    image = np.repeat(np.arange(images), count)
    category = candidates[image, rng.integers(0, CANDIDATES, len(image))]
    boxes = _random_boxes(len(image), rng)
    return GeneratedObjects(categories, image, category, boxes, np.cumsum(count) - count, count, candidates, negatives)


def generate_detections(objects: GeneratedObjects, per_image: int, rng: np.random.Generator) -> Detections:
    """Draws `per_image` detections of every image, some near an object of its category, some wrong."""
    image = np.repeat(np.arange(len(objects.count)), per_image)
    size = len(image)
    target = objects.first[image] + (rng.random(size) * objects.count[image]).astype(np.int64)
    near = rng.random(size) < NEAR_SHARE
    right = near & (rng.random(size) < RIGHT_SHARE)
    choices = np.concatenate([objects.candidates, objects.negatives], axis=1)
    guessed = choices[image, rng.integers(0, choices.shape[1], size)]
    category = np.where(right, objects.category[target], guessed)
    boxes = _random_boxes(size, rng)
    boxes[near] = _jittered(objects.boxes[target[near]], rng)
    score = np.round(rng.beta(2.0, 2.0, size) * np.where(right, 1.0, 0.7), 6)
    return Detections(image + 1, category + 1, boxes, score)


def _random_boxes(size: int, rng: np.random.Generator) -> Floats:
    """Draws [size, 4] boxes inside the image; sides are log-normal with median 50 pixels."""
    sides = np.clip(np.exp(rng.normal(np.log(50.0), 0.9, (size, 2))), 4.0, (WIDTH, HEIGHT))
    corners = rng.random((size, 2)) * ((WIDTH, HEIGHT) - sides)
    return np.round(np.concatenate([corners, sides], axis=1), 2)


def _jittered(boxes: Floats, rng: np.random.Generator) -> Floats:
    sides = boxes[:, 2:] * np.exp(rng.normal(0.0, 0.12, (len(boxes), 2)))
    centres = boxes[:, :2] + boxes[:, 2:] * (0.5 + rng.normal(0.0, 0.06, (len(boxes), 2)))
    return np.round(np.concatenate([centres - sides / 2, sides], axis=1), 2)


# ---- files -------------------------------------------------------------------------------------------------------


def write_annotations(path: Path, objects: GeneratedObjects, style: Style, rng: np.random.Generator) -> None:
    """Writes an annotation file in LVIS v1 or COCO format."""
    crowd = rng.random(len(objects.image)) < (CROWD_SHARE if style == "coco" else 0.0)
    images = [_image_record(objects, i, style) for i in range(len(objects.count))]
    boxes = zip(objects.image.tolist(), objects.category.tolist(), objects.boxes.tolist(), crowd.tolist(), strict=True)
    annotations: list[dict[str, Any]] = []
    for k, (image, category, box, crowded) in enumerate(boxes, start=1):
        record = {"id": k, "image_id": image + 1, "category_id": category + 1, "bbox": box}
        record |= {"area": round(0.7 * box[2] * box[3], 2), "segmentation": POLYGON}
        annotations.append(record | ({"iscrowd": int(crowded)} if style == "coco" else {}))
    categories = [_category_record(rank, objects.categories, style) for rank in range(objects.categories)]
    with path.open("w") as file:
        json.dump({"images": images, "annotations": annotations, "categories": categories}, file)


def _image_record(objects: GeneratedObjects, index: int, style: Style) -> dict[str, Any]:
    name = f"{index + 1:012d}.jpg"
    record: dict[str, Any] = {"id": index + 1, "width": WIDTH, "height": HEIGHT, "file_name": name}
    if style == "coco":
        return record
    present = set(objects.candidates[index].tolist())
    negative = sorted({c + 1 for c in objects.negatives[index].tolist() if c not in present})
    incomplete = [int(objects.candidates[index, 0]) + 1] if index % 5 == 0 else []
    return {**record, "neg_category_ids": negative, "not_exhaustive_category_ids": incomplete}


def _category_record(rank: int, categories: int, style: Style) -> dict[str, Any]:
    name = f"category_{rank + 1}"
    if style == "coco":
        return {"id": rank + 1, "name": name, "supercategory": "thing"}
    share = rank / categories
    frequency = "f" if share < FREQUENT_SHARE else "c" if share < FREQUENT_SHARE + COMMON_SHARE else "r"
    return {"id": rank + 1, "name": name, "synonyms": names(rank), "frequency": frequency}


def names(rank: int) -> list[str]:
    """Returns the names of an LVIS category, its main name first: every third has three (404 of LVIS v1's 1,203 have
    two to eight)."""
    return [f"category_{rank + 1}{suffix}" for suffix in (("", "_too", "_as_well") if rank % 3 == 0 else ("",))]


def write_detections(path: Path, detections: Detections) -> None:
    """Writes a results file: .json, .parquet or .npz, by suffix."""
    if path.suffix == ".json":
        with path.open("w") as file:
            file.write("[")
            file.writelines(_json_chunks(detections))
            file.write("]")
    elif path.suffix == ".parquet":
        pq.write_table(pa.table(_columns(detections)), path)
    else:
        np.savez(path, **_columns(detections))  # type: ignore[arg-type]  # no column is called allow_pickle


def _json_chunks(detections: Detections) -> Iterator[str]:
    row = '{"image_id": %d, "category_id": %d, "bbox": [%.2f, %.2f, %.2f, %.2f], "score": %.6f}'
    for start in range(0, len(detections), CHUNK):
        part = _columns(detections.take(slice(start, start + CHUNK)))
        rows = zip(*(column.tolist() for column in part.values()), strict=True)
        yield (", " if start else "") + ", ".join([row % values for values in rows])


def _columns(detections: Detections) -> dict[str, NDArray[Any]]:
    sides = dict(zip("xywh", detections.boxes.T, strict=True))
    return {"image_id": detections.image_id, "category_id": detections.category_id, **sides, "score": detections.scores}
