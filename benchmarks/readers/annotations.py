"""Reads and validates an annotation file in LVIS format (v0.5 or v1) or COCO format.

Everything that the official API would accept and then get wrong (annotation id 0, NaN, ids it does not know)
is refused here, at the door, with one line that names the file, the record and what was expected.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from benchmarks.readers import typed_json
from harness.errors import DataError
from harness.types import Box, Category, Example, Frequency, Instance

Style = Literal["lvis", "coco"]


@dataclass(frozen=True, slots=True)
class Annotations:
    """An annotation file, or a subset of its images.

    areas   annotation id -> area in square pixels, as the file gives it (of the mask, which decides between
            small, medium and large), or `w * h` where it gives none
    crowds  image id -> its crowd regions (COCO's `iscrowd: 1`, many objects under one box); they are no instances
    digest  SHA-256 of the whole file, hexadecimal
    left_out  ids of images that would be here, but cannot be read (see `without`)
    """

    path: Path
    digest: str
    categories: tuple[Category, ...]
    examples: tuple[Example, ...]
    areas: Mapping[int, float]
    crowds: Mapping[int, tuple[Instance, ...]] = field(default_factory=dict)
    left_out: tuple[int, ...] = ()

    def subset(self, image_ids: Collection[int]) -> Annotations:
        """The same file with these images only, in the order of the file."""
        wanted = frozenset(image_ids)
        return replace(
            self,
            examples=tuple(e for e in self.examples if e.image_id in wanted),
            crowds={image_id: regions for image_id, regions in self.crowds.items() if image_id in wanted},
        )


def load(path: Path, images: Path, style: Style = "lvis") -> Annotations:
    """Annotations of the file `path` whose pictures are in the folder `images`.

    Categories, images and the instances of an image keep the order of the file; nothing is dropped. COCO annotates
    every object of its categories, so there each image's federated fields follow: `negative` are the categories
    without an object or a crowd region in it, `not_exhaustive` those with a crowd region (an unmatched mention of one
    is neither right nor wrong). Raises DataError, one line, at the first mistake. Pictures may be absent: see
    `check_images`.
    """
    try:
        digest, file = _read(path)
        categories = read_categories(file.categories)
        _unique("image", (image.id for image in file.images))
        instances, crowds, areas = _objects(file, style)
        examples = _examples(file, style, instances, crowds, images)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return Annotations(path, digest, categories, examples, areas, crowds)


def without(splits: Mapping[str, Annotations], image_ids: Mapping[str, Collection[int]]) -> dict[str, Annotations]:
    """The splits less these images of each. DataError if nothing is left of one that had images."""
    rest = {}
    for name, split in splits.items():
        own = set(image_ids.get(name, ()))
        ids = {example.image_id for example in split.examples} - own
        if split.examples and not ids:
            raise DataError(f"{split.path}: expected at least one readable image in the split {name}")
        rest[name] = replace(split.subset(ids), left_out=tuple(sorted(own)))
    return rest


def left_out(splits: Mapping[str, Annotations]) -> dict[str, object]:
    """What `describe` says of `without`: {"left_out": split -> ids}; empty where every image is there, so that a
    benchmark of which nothing had to be left out is the same one."""
    found = {name: list(split.left_out) for name, split in splits.items() if split.left_out}
    return {"left_out": found} if found else {}


def check_images(annotations: Annotations) -> None:
    """Raises DataError naming the first picture that is missing, and how many are."""
    missing = [example.path for example in annotations.examples if not _is_file(example.path)]
    if missing:
        count = f"{len(missing)} of {len(annotations.examples)} missing"
        raise DataError(f"{annotations.path}: image not found: {missing[0]} ({count})")


# ---- the file ----------------------------------------------------------------------------------------------------

Id = Annotated[int, Meta(ge=0, le=typed_json.LARGEST_ID)]
Objects = dict[int, tuple[Instance, ...]]
"""By image id."""


class CategoryRecord(msgspec.Struct):
    id: Id
    name: str
    synonyms: list[str] = []
    frequency: Frequency | None = None


class ImageRecord(msgspec.Struct):
    id: Id
    width: Annotated[int, Meta(ge=1, le=typed_json.LARGEST_ID)]
    height: Annotated[int, Meta(ge=1, le=typed_json.LARGEST_ID)]
    file_name: str | None = None
    coco_url: str | None = None
    neg_category_ids: list[Id] | UnsetType = UNSET
    not_exhaustive_category_ids: list[Id] | UnsetType = UNSET


class AnnotationRecord(msgspec.Struct, gc=False):
    id: Annotated[int, Meta(ge=1, le=typed_json.LARGEST_ID)]
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    ignore: int | bool | None = None
    iscrowd: int | bool | None = None


class AnnotationFile(msgspec.Struct):
    images: list[ImageRecord]
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
    "annotations[].id": "an integer of at least 1 (the official APIs take 0 for unmatched)",
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
"""What to say of a value of a wrong type, see `typed_json.decode`."""


def _read(path: Path) -> tuple[str, AnnotationFile]:
    """The digest and the content."""
    content = typed_json.read(path, "an annotation file")
    file = typed_json.decode(content, AnnotationFile, EXPECTED)
    require_keys_once(content, file)
    return hashlib.sha256(content).hexdigest(), file


def require_keys_once(content: bytes, file: AnnotationFile) -> None:
    """Raise DataError for a key that is twice in one record: a second, empty "annotations" would win."""
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


# ---- what it means -----------------------------------------------------------------------------------------------


def read_categories(records: list[CategoryRecord]) -> tuple[Category, ...]:
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


def _category(record: CategoryRecord, where: str) -> Category:
    names = dict.fromkeys((record.name, *record.synonyms))
    for name in names:
        if not name.strip():
            raise _wrong(where, "names that are non-empty strings", name)
    return Category(record.id, tuple(names), record.frequency)


def _objects(file: AnnotationFile, style: Style) -> tuple[Objects, Objects, dict[int, float]]:
    """Instances, crowd regions, and the areas of both by annotation id."""
    images, categories = {image.id for image in file.images}, {category.id for category in file.categories}
    instances: dict[int, list[Instance]] = defaultdict(list)
    crowds: dict[int, list[Instance]] = defaultdict(list)
    areas: dict[int, float] = {}
    for k, record in enumerate(file.annotations):
        where = f"annotations[{k}]"
        if record.id in areas:
            raise DataError(f"{where}.id: expected unique ids, got {record.id} again")
        if record.image_id not in images:
            raise _wrong(f"{where}.image_id", "the id of an image of this file", record.image_id)
        if record.category_id not in categories:
            raise _wrong(f"{where}.category_id", "the id of a category of this file", record.category_id)
        of_image = crowds if _is_crowd(record, where, style) else instances
        of_image[record.image_id].append(_instance(record, where))
        areas[record.id] = record.bbox[2] * record.bbox[3] if record.area is UNSET else record.area
    return _frozen(instances), _frozen(crowds), areas


def _frozen(objects: Mapping[int, list[Instance]]) -> Objects:
    return {image_id: tuple(found) for image_id, found in objects.items()}


def _is_crowd(record: AnnotationRecord, where: str, style: Style) -> bool:
    """Of `ignore` and `iscrowd` each official API knows one, and does not look at the other."""
    if style == "lvis":
        if record.ignore:
            raise _wrong(f"{where}.ignore", "0 or no such field (LVIS ignores no object)", record.ignore)
        return False
    if record.iscrowd not in (0, 1, None):
        raise _wrong(f"{where}.iscrowd", EXPECTED["annotations[].iscrowd"], record.iscrowd)
    return bool(record.iscrowd)


def _instance(record: AnnotationRecord, where: str) -> Instance:
    x, y, w, h = record.bbox
    if w < 0 or h < 0:
        raise _wrong(f"{where}.bbox", "a width and height of at least 0", list(record.bbox))
    return Instance(record.id, record.category_id, Box(x, y, w, h))


def _examples(
    file: AnnotationFile, style: Style, instances: Objects, crowds: Objects, images: Path
) -> tuple[Example, ...]:
    known = frozenset(category.id for category in file.categories)
    absent: dict[frozenset[int], frozenset[int]] = {}  # images with the same categories share one set
    examples = []
    for k, record in enumerate(file.images):
        where = f"images[{k}]"
        of_image = instances.get(record.id, ())
        if style == "lvis":
            negative, not_exhaustive = _federated(record, where, known)
        else:
            not_exhaustive = _crowded(record, where, crowds)
            present = not_exhaustive.union(instance.category_id for instance in of_image)
            negative = absent.setdefault(present, known - present)
        path = _picture(record, where, images)
        examples.append(Example(record.id, path, record.width, record.height, of_image, negative, not_exhaustive))
    return tuple(examples)


def _federated(record: ImageRecord, where: str, known: frozenset[int]) -> tuple[frozenset[int], frozenset[int]]:
    """LVIS's negative and not exhaustively annotated categories of an image."""
    if record.neg_category_ids is UNSET:
        looks = "this looks like a COCO file, not LVIS (--protocol coco)"
        raise DataError(f'{where}: has no "neg_category_ids": {looks}')
    if record.not_exhaustive_category_ids is UNSET:
        raise DataError(f'{where}: has no "not_exhaustive_category_ids"')
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        for category_id in getattr(record, key):
            if category_id not in known:
                raise _wrong(f"{where}.{key}", "ids of categories of this file", category_id)
    return frozenset(record.neg_category_ids), frozenset(record.not_exhaustive_category_ids)


def _crowded(record: ImageRecord, where: str, crowds: Objects) -> frozenset[int]:
    """The categories of COCO's crowd regions in an image."""
    if record.neg_category_ids is not UNSET:
        looks = "this looks like an LVIS file, not COCO (--protocol lvis)"
        raise DataError(f'{where}: has "neg_category_ids": {looks}')
    return frozenset(region.category_id for region in crowds.get(record.id, ()))


def _picture(record: ImageRecord, where: str, images: Path) -> Path:
    """The first of these that exists, else the first: file_name, 0.jpg, train2017/0.jpg (ends of coco_url).

    v1 files have `coco_url` alone; v0.5 files also have a `file_name` under which COCO no longer publishes.
    """
    parts = (record.coco_url or "").split("/")
    candidates = [images / name for name in (record.file_name, parts[-1], "/".join(parts[-2:])) if name]
    if not candidates:
        raise DataError(f'{where}: expected "file_name" or "coco_url"')
    return next((path for path in candidates if _is_file(path)), candidates[0])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or not to be encoded: no file has such a name
        return False


def _wrong(where: str, expected: str, got: object) -> DataError:
    return DataError(f"{where}: expected {expected}, got {typed_json.printable(repr(got))}")


def _unique(kind: str, ids: Iterable[int]) -> None:
    seen: set[int] = set()
    for value in ids:
        if value in seen:
            raise DataError(f"{kind} ids: expected unique ids, got {value} again")
        seen.add(value)
