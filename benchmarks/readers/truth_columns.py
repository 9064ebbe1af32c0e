"""Reads the parts of an annotation file that an evaluation needs into columns, without an object for each box.

This is a short cut beside `benchmarks.readers.annotations.load`: anything unusual raises NotPlainError, and the
careful reader then reports the mistake, if it is one.

Shape legend: I images, C categories, G objects.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from benchmarks.readers import typed_json
from benchmarks.readers.annotation_records import (
    AnnotationRecord,
    EvaluatedImage,
    EvaluationFile,
    number_annotations,
    read_evaluated_categories,
    require_keys_once,
)
from benchmarks.readers.annotations import Style
from benchmarks.readers.detection_parts import NotPlainError, paused_collector
from harness.errors import DataError
from harness.metrics.detection.rules import RULES, GroundTruth, Protocol, has_area, make_regular
from harness.types import Category

Integers = NDArray[np.int64]

LARGEST_SPAN = 1 << 24
"""Largest range of ids for which a table of all of them is made."""
MOST_PAIRS = 1 << 28
"""Largest number of pairs of image and category for which there is a flag each."""


class Positions:
    """Finds the positions of many ids in a list of different ids."""

    def __init__(self, ids: Integers) -> None:
        """Raises NotPlainError for ids that are not different, missing, or spread too far for a table."""
        if not len(ids) or ids.max() - ids.min() >= LARGEST_SPAN:
            raise NotPlainError("ids that are far apart")
        self._low = int(ids.min())
        self._table = np.full(int(ids.max()) - self._low + 1, -1, np.int32)
        self._table[ids - self._low] = np.arange(len(ids))
        if np.count_nonzero(self._table >= 0) != len(ids):
            raise NotPlainError("an id is there twice")

    def find(self, values: Integers) -> NDArray[np.int32]:
        """Returns the position of each value; NotPlainError for one that does not occur."""
        shifted = values - self._low
        if len(values) and (shifted.min() < 0 or shifted.max() >= len(self._table)):
            raise NotPlainError("an unknown id")
        places: NDArray[np.int32] = self._table[shifted]
        if len(places) and places.min() < 0:
            raise NotPlainError("an unknown id")
        return places


@dataclass(frozen=True, slots=True)
class TruthColumns:
    """I images and C categories as columns, under the rules of a protocol.

    image_records  one dict an image, in hotcoco's form
    truth          the objects that take part
    instances, images  [C] objects of each category, and images with at least one; crowd regions are no objects
    sizes          [I, 2] width and height of each image in pixels, 0 where the file does not say
    contradictory  (image id, category id) that are annotated and verified to be absent
    undecided      (image id, category id) that are verified to be absent and not annotated exhaustively
    evaluated      [I * C] whether a category is evaluated in an image; None: every one is, everywhere
    """

    image_records: list[dict[str, Any]]
    categories: tuple[Category, ...]
    image_positions: Positions
    category_positions: Positions
    truth: GroundTruth
    instances: Integers
    images: Integers
    sizes: NDArray[np.float64]
    contradictory: list[tuple[int, int]]
    undecided: list[tuple[int, int]]
    evaluated: NDArray[np.bool_] | None


def read_truth(path: Path, style: Style, protocol: Protocol) -> TruthColumns:
    """Reads an annotation file. Raises NotPlainError wherever `annotations.load` might raise an error."""
    try:
        content = typed_json.read(path, "an annotation file").removeprefix(codecs.BOM_UTF8)
        with paused_collector():
            file = msgspec.json.decode(content, type=EvaluationFile)
        require_keys_once(content, file)
        categories = read_evaluated_categories(file.categories)
    except (DataError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotPlainError(str(error)) from None
    image_ids, category_ids = _column(file.images, "id"), _column(file.categories, "id")
    image_positions, category_positions = Positions(image_ids), Positions(category_ids)
    objects = _read_objects(file.annotations, style)
    image, category = image_positions.find(objects.image_id), category_positions.find(objects.category_id)
    taken = has_area(objects.areas) if RULES[protocol].federated else np.ones(len(image), np.bool_)
    truth, image, category = _take(objects, taken), image[taken], category[taken]
    shape = (len(image_ids), len(category_ids))
    flags, contradictory, undecided = None, list[tuple[int, int]](), list[tuple[int, int]]()
    if style == "lvis":
        flags = _flag_annotated(image, category, shape)
        contradictory, undecided = _flag_absent(flags, file.images, category_positions, shape[1])
    if style == "coco" and any(record.neg_category_ids is not UNSET for record in file.images):
        raise NotPlainError("an LVIS file")
    counted = ~truth.crowd
    pairs = np.unique(image[counted].astype(np.int64) * shape[1] + category[counted])
    return TruthColumns(
        [_image_record(record, style) for record in file.images],
        categories,
        image_positions,
        category_positions,
        truth,
        np.bincount(category[counted], minlength=shape[1]),
        np.bincount(pairs % shape[1], minlength=shape[1]),
        np.array([record.size for record in file.images], dtype=np.float64).reshape(-1, 2),
        contradictory,
        undecided,
        flags,
    )


def _read_objects(records: list[AnnotationRecord], style: Style) -> GroundTruth:
    """Collects all objects in the order of the file."""
    n = len(records)
    ids = np.array(number_annotations(records), dtype=np.int64)
    boxes = np.fromiter(chain.from_iterable(map(attrgetter("bbox"), records)), np.float64, 4 * n).reshape(n, 4)
    if n and boxes[:, 2:].min() < 0:
        raise NotPlainError("a negative side")
    areas = np.array([r.bbox[2] * r.bbox[3] if r.area is UNSET else r.area for r in records], dtype=np.float64)
    if any(map(attrgetter("ignore"), records)) and style == "lvis":
        raise NotPlainError("an ignored object")
    crowd = np.zeros(n, np.bool_)
    if style == "coco":
        values = set(map(attrgetter("iscrowd"), records))
        if not values <= {0, 1, None}:
            raise NotPlainError("iscrowd is neither 0 nor 1")
        crowd = np.array([bool(r.iscrowd) for r in records], dtype=np.bool_)
    columns = (ids, _column(records, "image_id"), _column(records, "category_id"))
    return GroundTruth(*columns, boxes, areas, crowd)


def _take(objects: GroundTruth, rows: NDArray[np.bool_]) -> GroundTruth:
    return GroundTruth(
        objects.id[rows],
        objects.image_id[rows],
        objects.category_id[rows],
        make_regular(objects.boxes[rows]),
        objects.areas[rows],
        objects.crowd[rows],
    )


def _flag_annotated(image: NDArray[np.int32], category: NDArray[np.int32], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Flags the pairs [I * C] where a category is annotated."""
    if shape[0] * shape[1] > MOST_PAIRS:
        raise NotPlainError("too many pairs")
    flags = np.zeros(shape[0] * shape[1], np.bool_)
    flags[image.astype(np.int64) * shape[1] + category] = True
    return flags


def _flag_absent(
    flags: NDArray[np.bool_], images: list[EvaluatedImage], category_positions: Positions, n_categories: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Flags the pairs where a category is verified to be absent too; returns the contradictory and undecided ones."""
    contradictory, undecided = [], []
    for position, record in enumerate(images):
        if record.neg_category_ids is UNSET or record.not_exhaustive_category_ids is UNSET:
            raise NotPlainError("no federated fields")
        category_positions.find(np.array(record.not_exhaustive_category_ids, dtype=np.int64))
        if not record.neg_category_ids:
            continue
        ids = np.array(sorted(set(record.neg_category_ids)), dtype=np.int64)
        pairs = position * n_categories + category_positions.find(ids)
        contradictory += [(record.id, c) for c in ids[flags[pairs]].tolist()]
        flags[pairs] = True
        both = set(record.neg_category_ids).intersection(record.not_exhaustive_category_ids)
        undecided += [(record.id, c) for c in sorted(both)]
    return contradictory, undecided


def _image_record(record: EvaluatedImage, style: Style) -> dict[str, Any]:
    width, height = record.size
    image: dict[str, Any] = {"id": record.id, "width": width, "height": height}
    if style == "lvis":
        image["neg_category_ids"] = sorted(set(record.neg_category_ids or ()))
        image["not_exhaustive_category_ids"] = sorted(set(record.not_exhaustive_category_ids or ()))
    return image


def _column(records: Sequence[Any], name: str) -> Integers:
    return np.fromiter(map(attrgetter(name), records), np.int64, len(records))
