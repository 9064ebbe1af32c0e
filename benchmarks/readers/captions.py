"""Reads a captions file in COCO format: texts that people wrote about the images of an annotation file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from benchmarks.readers import typed_json
from benchmarks.readers.annotation_records import AN_ID, Id
from benchmarks.readers.annotations import Annotations
from harness.errors import DataError

Captions = Mapping[int, tuple[str, ...]]
"""Captions by image id, in the order of the file."""


class _Caption(msgspec.Struct, gc=False):
    image_id: Id
    caption: str


class _CaptionFile(msgspec.Struct):
    annotations: list[_Caption]


EXPECTED = {
    "": 'an object with "annotations"',
    "annotations": "a list",
    "annotations[]": "an object",
    "annotations[].image_id": AN_ID,
    "annotations[].caption": "a string",
}


def load(path: Path) -> tuple[str, Captions]:
    """Returns the SHA-256 of the file, hexadecimal, and its captions, each on one line. Raises DataError, one line."""
    try:
        content = typed_json.read(path, "a captions file")
        file = typed_json.decode(content, _CaptionFile, EXPECTED)
        captions: dict[int, tuple[str, ...]] = {}
        for k, record in enumerate(file.annotations):
            caption = " ".join(record.caption.split())
            if not caption:
                raise DataError(f"annotations[{k}].caption: expected some words, got {record.caption!r}")
            captions[record.image_id] = (*captions.get(record.image_id, ()), caption)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return hashlib.sha256(content).hexdigest(), captions


def with_captions(annotations: Annotations, captions: Captions, path: Path) -> Annotations:
    """Adds the captions of their images to the annotations; `path` is the captions file. An image may have none, and
    a caption may belong to another image; DataError if no image has one."""
    examples = tuple(replace(e, captions=captions.get(e.image_id, ())) for e in annotations.examples)
    if not any(example.captions for example in examples):
        raise DataError(f"{path}: expected captions of images of {annotations.path.name}, got none")
    return replace(annotations, examples=examples)
