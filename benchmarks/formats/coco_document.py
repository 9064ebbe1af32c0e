"""Writes annotations, of whatever format they were read from, as a document in the format of COCO or LVIS.

Reading the document again (benchmarks.readers.annotations) gives the same annotations.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.readers.annotations import Annotations, Style
from harness.types import Box, Example


def pictures_folder(annotations: Annotations) -> Path:
    """Returns the folder that all pictures lie in or below."""
    return Path(os.path.commonpath([example.path.parent for example in annotations.examples]))


def document_of(annotations: Annotations, style: Style) -> dict[str, Any]:
    """Makes the document. Names of files are relative to `pictures_folder`; categories say all their names."""
    root = pictures_folder(annotations)
    objects = [(example, item, 0) for example in annotations.examples for item in example.instances]
    objects += [(e, region, 1) for e in annotations.examples for region in annotations.crowds.get(e.image_id, ())]
    return {
        "images": [_image(example, root, style) for example in annotations.examples],
        "annotations": [
            {
                "id": item.id,
                "image_id": example.image_id,
                "category_id": item.category_id,
                "bbox": sides(item.box),
                "area": annotations.areas[item.id],
                **({"iscrowd": crowd} if style == "coco" else {}),
            }
            for example, item, crowd in objects
        ],
        "categories": [
            {
                "id": category.id,
                "name": category.name,
                "synonyms": list(category.names),
                **({"frequency": category.frequency} if style == "lvis" else {}),
            }
            for category in annotations.categories
        ],
    }


def _image(example: Example, root: Path, style: Style) -> dict[str, Any]:
    size = {"width": example.width, "height": example.height}
    federated = {
        "neg_category_ids": sorted(example.negative),
        "not_exhaustive_category_ids": sorted(example.not_exhaustive),
    }
    name = example.path.relative_to(root).as_posix()
    return {"id": example.image_id, "file_name": name, **size, **(federated if style == "lvis" else {})}


def sides(box: Box) -> list[float]:
    """Returns `x, y, w, h`."""
    return [box.x, box.y, box.w, box.h]
