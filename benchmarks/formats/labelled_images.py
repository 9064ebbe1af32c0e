"""Turns labelled images, from whatever files they were read, into the annotations that everything else works on.

Every object of the categories is labelled, as in COCO: an image's negative categories are all those without an object
in it. Objects that are not to count (VOC's `difficult`) become crowd regions: they are not trained on, and a detection
of one is neither right nor wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.readers.annotations import Annotations
from harness.types import Box, Category, Example, Instance


@dataclass(frozen=True, slots=True)
class LabelledObject:
    """counts: whether it is an object to be found; otherwise it is one that may be."""

    category: str
    box: Box
    counts: bool = True


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image with its size in pixels, and `label`: the bytes that say what is in it."""

    path: Path
    width: int
    height: int
    objects: tuple[LabelledObject, ...]
    label: bytes


@dataclass(frozen=True, slots=True)
class LabelledSplit:
    """The images of a split in their order; `path` is the list or folder that names them."""

    path: Path
    images: tuple[LabelledImage, ...]


def assemble(splits: Sequence[LabelledSplit], names: Mapping[int, str]) -> list[Annotations]:
    """Makes the annotations of each split, with these categories (id -> name) in each.

    Images and objects are numbered from 1 in the order of the splits, through all of them, so that an id means one
    image. The digest is of the names of categories, and of the file name, size and label of every image.
    """
    categories = tuple(Category(category_id, (name,), None) for category_id, name in names.items())
    id_of = {name: category_id for category_id, name in names.items()}
    every = frozenset(names)
    assembled, image_id, object_id = [], 0, 0
    for split in splits:
        examples: list[Example] = []
        areas: dict[int, float] = {}
        crowds: dict[int, tuple[Instance, ...]] = {}
        for image in split.images:
            image_id += 1
            instances: list[Instance] = []
            regions: list[Instance] = []
            for labelled in image.objects:
                object_id += 1
                of_image = instances if labelled.counts else regions
                of_image.append(Instance(object_id, id_of[labelled.category], labelled.box))
                areas[object_id] = labelled.box.w * labelled.box.h
            not_exhaustive = frozenset(region.category_id for region in regions)
            negative = every - not_exhaustive - {instance.category_id for instance in instances}
            size = (image.width, image.height)
            examples.append(Example(image_id, image.path, *size, tuple(instances), negative, not_exhaustive))
            if regions:
                crowds[image_id] = tuple(regions)
        digest = _digest(split, names)
        assembled.append(Annotations(split.path, digest, categories, tuple(examples), areas, crowds))
    return assembled


def _digest(split: LabelledSplit, names: Mapping[int, str]) -> str:
    """Returns the SHA-256 of what the labels of a split say, hexadecimal. Folders are no part of it: the same data
    elsewhere are the same."""
    total = hashlib.sha256(repr(sorted(names.items())).encode())
    for image in split.images:
        total.update(f"\n{image.path.name} {image.width} {image.height} ".encode())
        total.update(hashlib.sha256(image.label).digest())
    return total.hexdigest()


def names_of(splits: Iterable[LabelledSplit]) -> dict[int, str]:
    """Numbers the names that occur, from 1 in alphabetical order."""
    used = {labelled.category for split in splits for image in split.images for labelled in image.objects}
    return dict(enumerate(sorted(used), start=1))
