"""Samples of three images whose figures are derived by hand, as lines of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.benchmarks.documents import (
    Document,
    annotation,
    category,
    document,
    image,
)

SOFA, LEFT_CUP, RIGHT_CUP = (0, 0, 100, 100), (200, 0, 40, 40), (300, 0, 40, 40)
SHIFTED = (0, 0, 100, 80)
"""IoU 8000 / 10000 = 0.8 with SOFA."""
TRUTH = document(
    [image(1, neg_category_ids=[3]), image(2)],
    [
        annotation(1, 1, 1, *SOFA),
        annotation(2, 1, 2, *LEFT_CUP),
        annotation(3, 1, 2, *RIGHT_CUP),
        annotation(4, 2, 1, *SOFA),
    ],
    [category(1, "sofa", "couch"), category(2, "cup", frequency="r"), category(3, "dog", frequency="c")],
)


def named(name: str, bbox: tuple[float, ...], score: float | None = 0.5) -> Document:
    return {"name": name, "bbox": list(bbox), **({} if score is None else {"score": score})}


def row(image_id: int, sample: int, *mentions: Document, **fields: Any) -> Document:
    return {"image_id": image_id, "sample": sample, "mentions": list(mentions), **fields}


def samples() -> list[Document]:
    """K = 2, and the greedy answer."""
    return [
        row(1, 1, named("sofa", SOFA), named("cup", LEFT_CUP)),
        row(1, 2, named("cup", LEFT_CUP), named("couch", SHIFTED), named("dog", SOFA), named("couch", SOFA, 0.4)),
        row(2, 1, named("couch", SOFA), named("settee", SOFA), malformed=1, truncated=True),
        row(2, 2),
        row(1, 0, named("sofa", SOFA, 0.9), named("cup", LEFT_CUP, 0.8), temperature=0),
        row(2, 0, temperature=0),
    ]


def lines(folder: Path, content: list[Document]) -> Path:
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in content))
    return path
