"""COCO 2017, or any data set in its format, with the names that LVIS has for its categories.

The default files are those of the usual layout, split "coco-val2017": annotations/instances_train2017.json and
instances_val2017.json, pictures in train2017/ and val2017/. Crowd regions are not trained on; the evaluation uses
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files

from benchmarks.annotation_files import AnnotationFiles
from harness.metrics.detection.rules import Protocol
from harness.types import Category


class Coco(AnnotationFiles):
    """The Benchmark protocol over a COCO-format data set."""

    name = "coco"
    splits = ("coco-val2017",)
    protocol: Protocol = "coco"

    def named(self, categories: Sequence[Category]) -> tuple[Category, ...]:
        return with_synonyms(categories, synonyms())


def synonyms() -> dict[str, list[str]]:
    """Reads the other names of each COCO category from data/coco_synonyms.json (which says how they were chosen)."""
    text = files("benchmarks").joinpath("data/coco_synonyms.json").read_text()
    table: dict[str, list[str]] = json.loads(text)["synonyms"]
    return table


def with_synonyms(categories: Sequence[Category], table: Mapping[str, Sequence[str]]) -> tuple[Category, ...]:
    """Returns the categories with the names of the table appended.

    Each name belongs to one category: a name that another category has, or would get too, is dropped.
    """
    offered = {c.id: tuple(dict.fromkeys((*c.names, *table.get(c.name, ())))) for c in categories}
    claims: dict[str, int] = {}
    for names in offered.values():
        for name in names:
            claims[name] = claims.get(name, 0) + 1
    return tuple(
        replace(c, names=(*c.names, *(n for n in offered[c.id][len(c.names) :] if claims[n] == 1))) for c in categories
    )
