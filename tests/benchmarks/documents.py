"""Small LVIS and COCO documents for the tests, and their way through a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.readers.annotations import Annotations, Style, load
from harness.types import Box, Detection

Document = dict[str, Any]


def image(image_id: int, **fields: Any) -> Document:
    federated: Document = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    return {
        "id": image_id,
        "file_name": f"{image_id}.jpg",
        "width": 640,
        "height": 480,
        **federated,
        **fields,
    }


def annotation(annotation_id: int, image_id: int, category_id: int, *bbox: float, **fields: Any) -> Document:
    ids = {"id": annotation_id, "image_id": image_id, "category_id": category_id}
    return {**ids, "bbox": list(bbox), "area": bbox[2] * bbox[3], **fields}


def category(category_id: int, name: str, *synonyms: str, frequency: str | None = "f") -> Document:
    return {"id": category_id, "name": name, "synonyms": list(synonyms), "frequency": frequency}


def coco_image(image_id: int, **fields: Any) -> Document:
    return {"id": image_id, "file_name": f"{image_id}.jpg", "width": 640, "height": 480, **fields}


def coco_category(category_id: int, name: str) -> Document:
    return {"id": category_id, "name": name, "supercategory": "thing"}


def document(images: list[Document], annotations: list[Document], categories: list[Document]) -> Document:
    return {"images": images, "annotations": annotations, "categories": categories}


def write(path: Path, content: Document | list[Document]) -> Path:
    path.write_text(json.dumps(content))
    return path


def loaded(folder: Path, content: Document, style: Style = "lvis") -> Annotations:
    return load(write(folder / "annotations.json", content), folder / "images", style)


def detection(image_id: int, category_id: int, score: float, *bbox: float) -> Detection:
    return Detection(image_id, category_id, Box(*bbox), score)


def result(image_id: int, category_id: int, score: float, *bbox: float) -> Document:
    """A record of a results file."""
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), "score": score}
