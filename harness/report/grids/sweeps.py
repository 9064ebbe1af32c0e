"""The rows of a sweep by the values that it gives them: one line for each combination."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.metrics.catalogue import heading
from harness.report.grids.grid import (
    NOTHING,
    UNDEFINED,
    Grid,
    GridCell,
    figure_cell,
    named_row,
    shown_seeds,
)
from harness.report.results import Results
from harness.report.rows import ReportRow
from harness.suite.candidates import SweptRow, shown_value

FIGURES = ("AP", "AP50", "recall", "name_diversity", "coverage@{samples}", "hallucination_rate")
"""What a sweep is read by, as far as the task has it."""


def sweep_grids(results: Results, rows: Sequence[ReportRow]) -> list[Grid]:
    """Returns the table of the suite's sweep: what a row was made of, its value of each swept setting, its figures.
    Empty without a sweep."""
    by_label = {row.label: row for row in results.suite.swept}
    settings = list(dict.fromkeys(setting for row in by_label.values() for setting in row.values))
    shown = [row for row in rows if row.label in by_label]
    if not shown:
        return []
    names = [name.format(samples=results.samples) for name in FIGURES]
    names = [name for name in names if any(not math.isnan(row.figures.get(name, NOTHING).estimate) for row in shown)]
    several = len(results.suite.models) > 1
    body = tuple(
        (
            GridCell(named_row(by_label[row.label].made_of, row.model, several)),
            *(_value(by_label[row.label], setting) for setting in settings),
            GridCell(shown_seeds(row), len(row.seeds)),
            *(figure_cell(row.figures.get(name, NOTHING)) for name in names),
        )
        for row in shown
    )
    headings = ("row", *settings, "seeds", *map(heading, names))
    return [Grid(f"Sweep of {', '.join(settings)}", headings, body, words=2 + len(settings))]


def _value(row: SweptRow, setting: str) -> GridCell:
    value = row.values.get(setting)
    if value is None:  # the row has no such setting
        return GridCell(UNDEFINED)
    return GridCell(shown_value(value), math.nan if isinstance(value, str) else float(value))
