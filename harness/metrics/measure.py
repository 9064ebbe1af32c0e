"""Says what is known of a measure: harness.metrics.catalogue has those of tables, harness.metrics.recorded others."""

from __future__ import annotations

from dataclasses import dataclass

HIGHER, LOWER, NEITHER = 1, -1, 0


@dataclass(frozen=True, slots=True)
class Measure:
    """Describes one measure, whatever function computes it.

    name          as records, suites and CSV files have it; `@k` stands for every k
    heading       of its column in a table
    direction     HIGHER or LOWER is better; NEITHER where that depends
    group         the table that shows it
    meaning       a sentence or two for those who read the tables
    source        its name in `aggregate.category_figures`, for means over categories; "" for others
    axis          how figures call it, where the heading would not do
    per_category  whether a table shows it for every category
    needs_boxes   whether it is undefined where the task has no boxes
    """

    name: str
    heading: str
    direction: int
    group: str
    meaning: str
    source: str = ""
    axis: str = ""
    per_category: bool = False
    needs_boxes: bool = False
