"""Reads and validates an LVIS-format annotation file (v0.5 or v1).

Everything that the official API would accept and then get wrong (annotation id 0, NaN, ids it does not know)
is refused here, at the door, with one line that names the file, the record and what was expected.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from harness.errors import DataError
from harness.types import Box, Category, Example, Frequency, Instance

LARGEST_ID = 2**53 - 1
"""Ids travel through float64 arrays on their way to the evaluator."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """An annotation file, or a subset of its images.

    areas   annotation id -> area in square pixels, as the file gives it (of the mask, which decides between
            small, medium and large), or `w * h` where it gives none
    digest  SHA-256 of the whole file, hexadecimal
    """

    path: Path
    digest: str
    categories: tuple[Category, ...]
    examples: tuple[Example, ...]
    areas: Mapping[int, float]

    def subset(self, image_ids: Collection[int]) -> Annotations:
        """The same file with these images only, in the order of the file."""
        wanted = frozenset(image_ids)
        return replace(self, examples=tuple(e for e in self.examples if e.image_id in wanted))


def load(path: Path, images: Path) -> Annotations:
    """Annotations of the LVIS-format file `path` whose pictures are in the folder `images`.

    Categories, images and the instances of an image keep the order of the file; nothing is dropped.
    Raises DataError, one line, at the first mistake. Pictures may be absent: see `check_images`.
    """
    content = _read(path)
    try:
        document = _document(content)
        categories = _categories(document["categories"])
        known = frozenset(category.id for category in categories)
        instances, areas = _instances(document["annotations"], known)
        examples = _examples(document["images"], known, instances, images)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return Annotations(path, hashlib.sha256(content).hexdigest(), categories, examples, areas)


def check_images(annotations: Annotations) -> None:
    """Raises DataError naming the first picture that is missing, and how many are."""
    missing = [example.path for example in annotations.examples if not example.path.is_file()]
    if missing:
        count = f"{len(missing)} of {len(annotations.examples)} missing"
        raise DataError(f"{annotations.path}: image not found: {missing[0]} ({count})")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected an LVIS annotation file: {error.strerror}") from None


def _document(content: bytes) -> dict[str, list[Any]]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON, is the file complete? ({error})") from None
    if not isinstance(document, dict):
        hint = " (a detections file?)" if isinstance(document, list) else ""
        raise _wrong("top level", 'an object with "images", "annotations" and "categories"', document, hint)
    for key in ("images", "annotations", "categories"):
        if not isinstance(_get(document, key, "top level"), list):
            raise _wrong(key, "a list", document[key])
    return document


# ---- records -----------------------------------------------------------------------------------------------


def _categories(records: list[Any]) -> tuple[Category, ...]:
    categories = tuple(_category(record, f"categories[{k}]") for k, record in enumerate(records))
    _unique("category", (category.id for category in categories))
    owner: dict[str, Category] = {}
    for category in categories:
        for name in category.names:
            first = owner.setdefault(name, category)
            if first is not category:
                claims = f"{first.id} ({first.name!r}) and {category.id} ({category.name!r})"
                raise DataError(f"categories: expected a name to mean one category, got {name!r} for {claims}")
    return categories


def _category(record: Any, where: str) -> Category:
    names = [_get(record, "name", where), *_list(record.get("synonyms", []), f"{where}.synonyms")]
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise _wrong(where, "names that are non-empty strings", name)
    frequency = record.get("frequency")
    if frequency is not None and frequency not in get_args(Frequency):
        raise _wrong(f"{where}.frequency", "r, c or f", frequency)
    return Category(_integer(record, "id", where), tuple(dict.fromkeys(names)), frequency)


def _instances(records: list[Any], categories: Collection[int]) -> tuple[dict[int, list[Instance]], dict[int, float]]:
    """Instances by image id, and areas by annotation id."""
    by_image: dict[int, list[Instance]] = defaultdict(list)
    areas: dict[int, float] = {}
    for k, record in enumerate(records):
        where = f"annotations[{k}]"
        instance = _instance(record, where)
        if instance.id in areas:
            raise DataError(f"{where}.id: expected unique ids, got {instance.id} again")
        if instance.category_id not in categories:
            raise _wrong(f"{where}.category_id", "the id of a category of this file", instance.category_id)
        areas[instance.id] = _area(record, instance.box, where)
        by_image[_integer(record, "image_id", where)].append(instance)
    return by_image, areas


def _instance(record: Any, where: str) -> Instance:
    if _get(record, "id", where) == 0:
        raise _wrong(f"{where}.id", "an id of at least 1 (the official API takes 0 for unmatched)", 0)
    if record.get("ignore"):
        raise _wrong(f"{where}.ignore", "0 or no such field (LVIS ignores no object)", record["ignore"])
    return Instance(_integer(record, "id", where), _integer(record, "category_id", where), _box(record, where))


def _box(record: dict[str, Any], where: str) -> Box:
    numbers = _get(record, "bbox", where)
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(map(_finite, numbers)):
        raise _wrong(f"{where}.bbox", "four finite numbers x, y, w, h", numbers)
    if numbers[2] < 0 or numbers[3] < 0:
        raise _wrong(f"{where}.bbox", "a width and height of at least 0", numbers)
    return Box(*map(float, numbers))


def _area(record: dict[str, Any], box: Box, where: str) -> float:
    area = record.get("area", box.w * box.h)
    if not _finite(area) or area < 0:
        raise _wrong(f"{where}.area", "a finite number of at least 0", area)
    return float(area)


def _examples(
    records: list[Any], categories: Collection[int], instances: Mapping[int, list[Instance]], images: Path
) -> tuple[Example, ...]:
    examples = tuple(_example(r, f"images[{k}]", categories, instances, images) for k, r in enumerate(records))
    ids = _unique("image", (example.image_id for example in examples))
    for image_id in instances:
        if image_id not in ids:
            raise _wrong("annotations.image_id", "the id of an image of this file", image_id)
    return examples


def _example(
    record: Any,
    where: str,
    categories: Collection[int],
    instances: Mapping[int, list[Instance]],
    images: Path,
) -> Example:
    image_id = _integer(record, "id", where)
    if "neg_category_ids" not in record:
        raise DataError(f'{where}: has no "neg_category_ids": this looks like a COCO file, not LVIS')
    return Example(
        image_id=image_id,
        path=_picture(record, where, images),
        width=_integer(record, "width", where, low=1),
        height=_integer(record, "height", where, low=1),
        instances=tuple(instances.get(image_id, ())),
        negative=_category_ids(record, "neg_category_ids", where, categories),
        not_exhaustive=_category_ids(record, "not_exhaustive_category_ids", where, categories),
    )


def _picture(record: dict[str, Any], where: str, images: Path) -> Path:
    """The first of these that exists, else the first: file_name, 0.jpg, train2017/0.jpg (ends of coco_url).

    v1 files have `coco_url` alone; v0.5 files also have a `file_name` under which COCO no longer publishes.
    """
    name, parts = record.get("file_name"), str(record.get("coco_url") or "").split("/")
    candidates = [images / c for c in (name, parts[-1], "/".join(parts[-2:])) if c and isinstance(c, str)]
    if not candidates:
        raise DataError(f'{where}: expected "file_name" or "coco_url"')
    return next((path for path in candidates if path.is_file()), candidates[0])


def _category_ids(record: dict[str, Any], key: str, where: str, categories: Collection[int]) -> frozenset[int]:
    ids = _list(_get(record, key, where), f"{where}.{key}")
    for category_id in ids:
        if type(category_id) is not int or category_id not in categories:
            raise _wrong(f"{where}.{key}", "ids of categories of this file", category_id)
    return frozenset(ids)


# ---- values ------------------------------------------------------------------------------------------------


def _wrong(where: str, expected: str, got: object, hint: str = "") -> DataError:
    return DataError(f"{where}: expected {expected}, got {reprlib.repr(got)}{hint}")


def _get(record: Any, key: str, where: str) -> Any:
    if not isinstance(record, dict):
        raise _wrong(where, "an object", record)
    if key not in record:
        raise DataError(f'{where}: has no "{key}"')
    return record[key]


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    return value


def _integer(record: Any, key: str, where: str, low: int = 0) -> int:
    value = _get(record, key, where)
    if type(value) is not int or not low <= value <= LARGEST_ID:
        raise _wrong(f"{where}.{key}", f"an integer of at least {low}", value)
    return value


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unique(kind: str, ids: Iterable[int]) -> frozenset[int]:
    seen: set[int] = set()
    for value in ids:
        if value in seen:
            raise DataError(f"{kind} ids: expected unique ids, got {value} again")
        seen.add(value)
    return frozenset(seen)
