"""Small files of samples, as lines and as the tables of a cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.readers import samples
from benchmarks.readers.annotations import Annotations
from benchmarks.readers.samples import Samples
from tests.benchmarks.documents import Document, annotation, category, document, image

SOFA, DOG = [10, 10, 100, 100], [10, 200, 50, 50]
TRUTH = document(
    [image(7), image(3)],
    [annotation(1, 7, 1, *SOFA), annotation(2, 3, 2, *DOG)],
    [category(1, "sofa_bed", "day_bed", "couch"), category(2, "dog")],
)
NAMES = ["sofa_bed", "day_bed", "couch", "dog"]
"""The vocabulary in the order of its codes."""


def row(image_id: int, sample: int, *mentions: Any, **fields: Any) -> Document:
    return {"image_id": image_id, "sample": sample, "mentions": list(mentions), **fields}


def named(name: str, bbox: Any = DOG, **fields: Any) -> Document:
    return {"name": name, "bbox": bbox, **fields}


def rows() -> list[Document]:
    """K = 2 samples of both images, not in order."""
    return [
        row(3, 5, named("dog", DOG, score=0.5), named("couch", SOFA)),
        row(7, 1, named("couch", SOFA, score=1)),
        row(7, 0, {"category_id": 1, "bbox": SOFA}, malformed=2, truncated=True, lenient=1),
        row(3, 9),
    ]


def lines(folder: Path, content: list[Document]) -> Path:
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in content))
    return path


def load(path: Path, annotations: Annotations, **options: Any) -> Samples:
    return samples.load(path, annotations, annotations.categories, **options)


def cell(folder: Path, content: list[Document]) -> Path:
    """The same samples as a cell holds them: two Parquet files."""
    folder = folder / "cell"
    folder.mkdir(exist_ok=True)
    mentions = [
        {
            "step": 4,
            "image_id": line["image_id"],
            "sample": line["sample"],
            "position": position,
            "name": mention.get("name", "sofa_bed"),
            "category_id": 2 if mention.get("name") == "dog" else 1,
            **dict(zip("xywh", map(float, mention["bbox"]), strict=True)),
            "name_score": mention.get("score"),
            "category_score": None,
        }
        for line in content
        for position, mention in enumerate(line["mentions"])
    ]
    of_sample = [
        {"step": 4, "temperature": 1.0, "malformed": 0, "truncated": False, "lenient": 0}
        | {key: value for key, value in line.items() if key != "mentions"}
        for line in content
    ]
    pd.DataFrame(of_sample).to_parquet(folder / "samples.parquet")
    pd.DataFrame(mentions).astype({"name_score": float, "category_score": float}).to_parquet(
        folder / "mentions.parquet"
    )
    return folder
