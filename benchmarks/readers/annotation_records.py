"""Defines the records of an annotation file as they are decoded, the texts about wrong values, and the rules for each
list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from benchmarks.readers import typed_json
from harness.errors import DataError
from harness.types import Category, Frequency

Id = Annotated[int, Meta(ge=0, le=typed_json.LARGEST_ID)]


class CategoryRecord(msgspec.Struct):
    id: Id
    name: str
    synonyms: list[str] | UnsetType = UNSET
    frequency: Frequency | None = None


class ImageRecord(msgspec.Struct):
    id: Id
    width: Annotated[int, Meta(ge=1, le=typed_json.LARGEST_ID)]
    height: Annotated[int, Meta(ge=1, le=typed_json.LARGEST_ID)]
    file_name: str | None = None
    coco_url: str | None = None
    neg_category_ids: list[Id] | UnsetType = UNSET
    not_exhaustive_category_ids: list[Id] | UnsetType = UNSET


class EvaluatedImage(msgspec.Struct):
    """An image as an evaluation needs it, with any size and file name."""

    id: Id
    width: Any = None
    height: Any = None
    neg_category_ids: list[Id] | UnsetType = UNSET
    not_exhaustive_category_ids: list[Id] | UnsetType = UNSET

    @property
    def size(self) -> tuple[int, int]:
        """Returns width and height in pixels; 0, 0 where the file does not have them."""
        sides = (self.width, self.height)
        valid = all(type(side) is int and 1 <= side <= typed_json.LARGEST_ID for side in sides)
        return (self.width, self.height) if valid else (0, 0)


class AnnotationRecord(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    id: int | None = None
    area: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    ignore: int | bool | None = None
    iscrowd: int | bool | None = None


class AnnotationFile(msgspec.Struct):
    images: list[ImageRecord]
    annotations: list[AnnotationRecord]
    categories: list[CategoryRecord]
    licenses: msgspec.Raw = msgspec.Raw(b"")


class EvaluationFile(msgspec.Struct):
    """The same for an evaluation."""

    images: list[EvaluatedImage]
    annotations: list[AnnotationRecord]
    categories: list[CategoryRecord]
    licenses: msgspec.Raw = msgspec.Raw(b"")


AN_ID = "an integer of at least 0"
EXPECTED = {
    "": 'an object with "images", "annotations" and "categories" (a list is a detections file)',
    **dict.fromkeys(("images", "annotations", "categories"), "a list"),
    **{f"{name}[]": "an object" for name in ("images", "annotations", "categories")},
    **{f"images[].{key}": "an integer of at least 1" for key in ("width", "height")},
    **{f"images[].{key}": "a string" for key in ("file_name", "coco_url")},
    **{f"images[].{key}_category_ids": "a list of category ids" for key in ("neg", "not_exhaustive")},
    "images[].id": AN_ID,
    "annotations[].id": "an integer",
    "annotations[].image_id": AN_ID,
    "annotations[].category_id": AN_ID,
    "annotations[].bbox": "four finite numbers x, y, w, h",
    "annotations[].area": "a finite number of at least 0",
    "annotations[].ignore": "0 or no such field",
    "annotations[].iscrowd": "0 or 1",
    "categories[].id": AN_ID,
    "categories[].name": "a non-empty string",
    "categories[].synonyms": "a list of non-empty strings",
    "categories[].frequency": "r, c or f",
}
"""Texts for values of a wrong type, see `typed_json.decode`."""


def require_keys_once(content: bytes, file: AnnotationFile | EvaluationFile) -> None:
    """Raises DataError for a key that occurs twice in one record: a second, empty "annotations" would win."""
    images, annotations, categories = len(file.images), len(file.annotations), len(file.categories)
    licences = bytes(file.licenses)
    most = {
        **dict.fromkeys(("images", "annotations", "categories", "licenses"), 1),
        **dict.fromkeys(("image_id", "bbox", "category_id", "area", "iscrowd", "ignore"), annotations),
        **dict.fromkeys(("file_name", "neg_category_ids", "not_exhaustive_category_ids"), images),
        "synonyms": categories,
        "name": categories + licences.count(b'"name"'),
        "id": images + annotations + categories + licences.count(b'"id"'),
    }
    typed_json.require_keys_once(content, most)


def read_categories(records: list[CategoryRecord]) -> tuple[Category, ...]:
    """Reads categories whose names must be different, as models emit names."""
    categories = read_evaluated_categories(records)
    owner: dict[str, Category] = {}
    for category in categories:
        for name in category.names:
            first = owner.setdefault(name, category)
            if first is not category:
                claims = f"{first.id} ({first.name!r}) and {category.id} ({category.name!r})"
                raise DataError(f"categories: expected a name to mean one category, got {name!r} for {claims}")
    return categories


def read_evaluated_categories(records: list[CategoryRecord]) -> tuple[Category, ...]:
    """Reads categories whose ids must be different; two may have the same name."""
    categories = tuple(_category(record, f"categories[{k}]") for k, record in enumerate(records))
    require_unique("category", (category.id for category in categories))
    return categories


def _category(record: CategoryRecord, where: str) -> Category:
    synonyms = [] if record.synonyms is UNSET else record.synonyms
    names = dict.fromkeys((record.name, *synonyms))
    for name in names:
        if not name.strip():
            raise mismatch(where, "names that are non-empty strings", name)
    return Category(record.id, tuple(names), record.frequency)


def number_annotations(records: Sequence[AnnotationRecord]) -> list[int]:
    """Gives each annotation an id of at least 1: that of the file, or numbers from 1 if those are not usable.

    Nothing else refers to these ids. Files that count from 0, repeat an id in another image or have none are common,
    and the official packages treat an object of id 0 as never matched.
    """
    ids = [record.id for record in records]
    valid = all(value is not None and 1 <= value <= typed_json.LARGEST_ID for value in ids)
    if valid and len(set(ids)) == len(ids):
        return [value for value in ids if value is not None]
    return list(range(1, len(ids) + 1))


def mismatch(where: str, expected: str, got: object) -> DataError:
    """Makes the error for an unexpected value."""
    return DataError(f"{where}: expected {expected}, got {typed_json.printable(repr(got))}")


def require_unique(kind: str, ids: Iterable[int]) -> None:
    """Raises DataError for an id that occurs twice."""
    known_ids: set[int] = set()
    for value in ids:
        if value in known_ids:
            raise DataError(f"{kind} ids: expected unique ids, got {value} again")
        known_ids.add(value)
