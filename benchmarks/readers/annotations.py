"""Reads and validates an annotation file in LVIS format (v0.5 or v1) or COCO format.

Everything that the official API would accept and then get wrong (NaN, unknown ids) is refused here with one line that
names the file, the record and the expectation.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from msgspec import UNSET

from benchmarks.readers import typed_json
from benchmarks.readers.annotation_records import (
    EXPECTED,
    AnnotationFile,
    AnnotationRecord,
    EvaluatedImage,
    EvaluationFile,
    ImageRecord,
    mismatch,
    number_annotations,
    read_categories,
    read_evaluated_categories,
    require_keys_once,
    require_unique,
)
from benchmarks.readers.picture_files import PictureFolder, is_file
from harness.errors import DataError
from harness.types import Box, Category, Example, Instance

Style = Literal["lvis", "coco"]


@dataclass(frozen=True, slots=True)
class Annotations:
    """An annotation file, or a subset of its images.

    areas   annotation id -> area in square pixels, as the file gives it (of the mask, which decides between
            small, medium and large), or `w * h` where it gives none
    crowds  image id -> its crowd regions (COCO's `iscrowd: 1`, many objects under one box); they are not instances
    digest  SHA-256 of the whole file, hexadecimal
    left_out  ids of images that were removed because they cannot be read (see `without`)
    says_synonyms  whether the file itself says which other names its categories have, or that they have none
    """

    path: Path
    digest: str
    categories: tuple[Category, ...]
    examples: tuple[Example, ...]
    areas: Mapping[int, float]
    crowds: Mapping[int, tuple[Instance, ...]] = field(default_factory=dict)
    left_out: tuple[int, ...] = ()
    says_synonyms: bool = False

    def subset(self, image_ids: Collection[int]) -> Annotations:
        """Returns the same file with these images only, in the order of the file."""
        wanted = frozenset(image_ids)
        return replace(
            self,
            examples=tuple(e for e in self.examples if e.image_id in wanted),
            crowds={image_id: regions for image_id, regions in self.crowds.items() if image_id in wanted},
        )


def load(path: Path, images: Path, style: Style = "lvis") -> Annotations:
    """Reads the annotation file `path` whose pictures are in the folder `images`.

    Categories, images and the instances of an image keep the order of the file; nothing is dropped. COCO annotates
    every object of its categories, so there each image's federated fields follow: `negative` are the categories
    without an object or a crowd region in it, `not_exhaustive` those with a crowd region (an unmatched mention of one
    is neither right nor wrong). Raises DataError, one line, at the first mistake. Pictures may be absent: see
    `check_images`.
    """
    try:
        digest, file = _read(path)
        categories = read_categories(file.categories)
        require_unique("image", (image.id for image in file.images))
        instances, crowds, areas = _objects(file, style)
        examples = _examples(file, style, instances, crowds, images)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    says_synonyms = any(record.synonyms is not UNSET for record in file.categories)
    return Annotations(path, digest, categories, examples, areas, crowds, says_synonyms=says_synonyms)


def load_for_evaluation(path: Path, style: Style = "lvis") -> Annotations:
    """Reads what an evaluation needs, and ignores mistakes in everything else: sizes and files of images, equal
    names, invalid JSON numbers in unused fields. Raises DataError, one line, at the first mistake."""
    try:
        content = typed_json.read(path, "an annotation file")
        file = typed_json.decode(content, EvaluationFile, EXPECTED, lenient=True)
        require_keys_once(content, file)
        categories = read_evaluated_categories(file.categories)
        require_unique("image", (image.id for image in file.images))
        instances, crowds, areas = _objects(file, style)
        examples = _evaluated_examples(file, style, instances, crowds)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return Annotations(path, hashlib.sha256(content).hexdigest(), categories, examples, areas, crowds)


def without(splits: Mapping[str, Annotations], image_ids: Mapping[str, Collection[int]]) -> dict[str, Annotations]:
    """Removes these images from each split. DataError if nothing is left of a split that had images."""
    rest = {}
    for name, split in splits.items():
        unreadable = set(image_ids.get(name, ()))
        ids = {example.image_id for example in split.examples} - unreadable
        if split.examples and not ids:
            raise DataError(f"{split.path}: expected at least one readable image in the split {name}")
        rest[name] = replace(split.subset(ids), left_out=tuple(sorted(unreadable)))
    return rest


def left_out(splits: Mapping[str, Annotations]) -> dict[str, object]:
    """Returns the part of `describe` about `without`: {"left_out": split -> ids}; empty where no image was removed,
    so that the identity of such a benchmark does not change."""
    ids = {name: list(split.left_out) for name, split in splits.items() if split.left_out}
    return {"left_out": ids} if ids else {}


def check_images(annotations: Annotations) -> None:
    """Raises DataError naming the first picture that is missing, and how many are."""
    missing = [example.path for example in annotations.examples if not is_file(example.path)]
    if missing:
        count = f"{len(missing)} of {len(annotations.examples)} missing"
        raise DataError(f"{annotations.path}: image not found: {missing[0]} ({count})")


# ---- the file ----------------------------------------------------------------------------------------------------

Objects = dict[int, tuple[Instance, ...]]
"""Objects by image id."""


def _read(path: Path) -> tuple[str, AnnotationFile]:
    """Returns the digest and the content."""
    content = typed_json.read(path, "an annotation file")
    file = typed_json.decode(content, AnnotationFile, EXPECTED)
    require_keys_once(content, file)
    return hashlib.sha256(content).hexdigest(), file


# ---- what it means -----------------------------------------------------------------------------------------------


def _objects(file: AnnotationFile | EvaluationFile, style: Style) -> tuple[Objects, Objects, dict[int, float]]:
    """Returns instances, crowd regions, and the areas of both by annotation id."""
    images, categories = {image.id for image in file.images}, {category.id for category in file.categories}
    instances: dict[int, list[Instance]] = defaultdict(list)
    crowds: dict[int, list[Instance]] = defaultdict(list)
    areas: dict[int, float] = {}
    for k, (number, record) in enumerate(zip(number_annotations(file.annotations), file.annotations, strict=True)):
        where = f"annotations[{k}]"
        if record.image_id not in images:
            raise mismatch(f"{where}.image_id", "the id of an image of this file", record.image_id)
        if record.category_id not in categories:
            raise mismatch(f"{where}.category_id", "the id of a category of this file", record.category_id)
        of_image = crowds if _is_crowd(record, where, style) else instances
        of_image[record.image_id].append(_instance(number, record, where))
        areas[number] = record.bbox[2] * record.bbox[3] if record.area is UNSET else record.area
    return _frozen(instances), _frozen(crowds), areas


def _frozen(objects: Mapping[int, list[Instance]]) -> Objects:
    return {image_id: tuple(items) for image_id, items in objects.items()}


def _is_crowd(record: AnnotationRecord, where: str, style: Style) -> bool:
    """Tells whether an annotation is a crowd region. Each official API knows one of `ignore` and `iscrowd`, and
    ignores the other."""
    if style == "lvis":
        if record.ignore:
            raise mismatch(f"{where}.ignore", "0 or no such field (LVIS ignores no object)", record.ignore)
        return False
    if record.iscrowd not in (0, 1, None):
        raise mismatch(f"{where}.iscrowd", EXPECTED["annotations[].iscrowd"], record.iscrowd)
    return bool(record.iscrowd)


def _instance(number: int, record: AnnotationRecord, where: str) -> Instance:
    x, y, w, h = record.bbox
    if w < 0 or h < 0:
        raise mismatch(f"{where}.bbox", "a width and height of at least 0", list(record.bbox))
    return Instance(number, record.category_id, Box(x, y, w, h))


def _examples(
    file: AnnotationFile, style: Style, instances: Objects, crowds: Objects, images: Path
) -> tuple[Example, ...]:
    fields = _all_federated(file, style, instances, crowds)
    root = PictureFolder(images)
    examples = []
    for k, (record, (negative, not_exhaustive)) in enumerate(zip(file.images, fields, strict=True)):
        path = root.find(record.file_name, record.coco_url, f"images[{k}]")
        of_image = instances.get(record.id, ())
        examples.append(Example(record.id, path, record.width, record.height, of_image, negative, not_exhaustive))
    return tuple(examples)


def _evaluated_examples(file: EvaluationFile, style: Style, instances: Objects, crowds: Objects) -> tuple[Example, ...]:
    fields = _all_federated(file, style, instances, crowds)
    return tuple(
        Example(record.id, Path(), *record.size, instances.get(record.id, ()), negative, not_exhaustive)
        for record, (negative, not_exhaustive) in zip(file.images, fields, strict=True)
    )


def _all_federated(
    file: AnnotationFile | EvaluationFile, style: Style, instances: Objects, crowds: Objects
) -> Iterator[tuple[frozenset[int], frozenset[int]]]:
    """Returns the negative and the not exhaustively annotated categories of each image."""
    category_ids = frozenset(category.id for category in file.categories)
    absent: dict[frozenset[int], frozenset[int]] = {}  # images with the same categories share one set
    images: Sequence[ImageRecord | EvaluatedImage] = file.images
    for k, record in enumerate(images):
        if style == "lvis":
            yield _federated(record, f"images[{k}]", category_ids)
            continue
        not_exhaustive = _crowded(record, f"images[{k}]", crowds)
        present = not_exhaustive.union(instance.category_id for instance in instances.get(record.id, ()))
        yield absent.setdefault(present, category_ids - present), not_exhaustive


def _federated(
    record: ImageRecord | EvaluatedImage, where: str, category_ids: frozenset[int]
) -> tuple[frozenset[int], frozenset[int]]:
    """Returns LVIS's negative and not exhaustively annotated categories of an image."""
    if record.neg_category_ids is UNSET:
        looks = "this looks like a COCO file, not LVIS (--protocol coco)"
        raise DataError(f'{where}: has no "neg_category_ids": {looks}')
    if record.not_exhaustive_category_ids is UNSET:
        raise DataError(f'{where}: has no "not_exhaustive_category_ids"')
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        for category_id in getattr(record, key):
            if category_id not in category_ids:
                raise mismatch(f"{where}.{key}", "ids of categories of this file", category_id)
    return frozenset(record.neg_category_ids), frozenset(record.not_exhaustive_category_ids)


def _crowded(record: ImageRecord | EvaluatedImage, where: str, crowds: Objects) -> frozenset[int]:
    """Returns the categories of COCO's crowd regions in an image."""
    if record.neg_category_ids is not UNSET:
        looks = "this looks like an LVIS file, not COCO (--protocol lvis)"
        raise DataError(f'{where}: has "neg_category_ids": {looks}')
    return frozenset(region.category_id for region in crowds.get(record.id, ()))
