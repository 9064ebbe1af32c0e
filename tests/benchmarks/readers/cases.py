"""Small annotation files, and what changes one of their records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.benchmarks.documents import (
    Document,
    annotation,
    category,
    coco_category,
    coco_image,
    document,
    image,
)


def small() -> Document:
    return document(
        [image(7, neg_category_ids=[2], not_exhaustive_category_ids=[5]), image(3)],
        [
            annotation(12, 7, 5, 10, 20, 30, 40, area=900.5),
            annotation(11, 3, 2, 0, 0, 5, 5),
            annotation(10, 7, 2, 1.5, 2, 3, 4),
        ],
        [category(5, "sofa", "couch", "sofa", "lounge", frequency="r"), category(2, "Band_Aid")],
    )


def setting(*path_and_value: Any) -> Callable[[Document], None]:
    """An edit of a document: the last argument is put where the others lead."""
    *path, key, value = path_and_value

    def edit(content: Document) -> None:
        target: Any = content
        for step in path:
            target = target[step]
        target[key] = value

    return edit


def without(*path: Any) -> Callable[[Document], None]:
    def edit(content: Document) -> None:
        target: Any = content
        for step in path[:-1]:
            target = target[step]
        del target[path[-1]]

    return edit


def coco() -> Document:
    """Image 1 has an object of category 1 and a crowd of 3; image 2 two objects of 1; image 3 nothing."""
    return document(
        [coco_image(1), coco_image(2), coco_image(3)],
        [
            annotation(10, 1, 1, 0, 0, 5, 5, iscrowd=0, segmentation=[[0, 0, 5, 5, 0, 5]]),
            annotation(11, 1, 3, 0, 0, 50, 50, area=1500.0, iscrowd=1, segmentation={"size": [2, 2], "counts": [4]}),
            annotation(12, 2, 1, 0, 0, 5, 5, ignore=1),
            annotation(13, 2, 1, 5, 5, 5, 5),
        ],
        [coco_category(1, "person"), coco_category(2, "cat"), coco_category(3, "sheep")],
    )
