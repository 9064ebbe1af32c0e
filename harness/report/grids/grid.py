"""A table without its look: headings, rows of cells, and how numbers are written in them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.metrics.stats import Interval
from harness.report.rows import ReportRow

UNDEFINED = "–"  # noqa: RUF001 (an en dash, as tables have it)
NOTHING = Interval(math.nan, math.nan, math.nan, 0)


class GridCell(NamedTuple):
    """A cell: its text, the value it is sorted by (nan: by its text, or undefined), and whether it is the best of its
    column."""

    text: str
    value: float = math.nan
    best: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """A table; the first `words` columns are text, the others numbers. `note`: an explanation for the reader."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[GridCell, ...], ...]
    words: int = 2
    note: str = ""


def split(grid: Grid, columns: int) -> Iterator[Grid]:
    """Splits a table into as few parts as hold at most `columns` columns of numbers each, of nearly equal width;
    every part begins with the columns of words."""
    numbers = len(grid.headings) - grid.words
    parts = max(1, -(-numbers // columns))
    for part in range(parts):
        first, end = (grid.words + numbers * edge // parts for edge in (part, part + 1))
        headings = grid.headings[: grid.words] + grid.headings[first:end]
        rows = tuple(row[: grid.words] + row[first:end] for row in grid.rows)
        title = grid.title if part == 0 else f"{grid.title} (continued)"
        yield replace(grid, title=title, headings=headings, rows=rows)


def number(value: float, signed: bool = False) -> str:
    """Formats a number with three decimals, or with none and thousands separated from 1,000 on; nan: undefined."""
    if math.isnan(value):
        return UNDEFINED
    digits = 0 if abs(value) >= 1000 else 3
    rounded = round(value, digits) + 0.0  # no "-0.000"
    return f"{rounded:{'+' if signed else ''},.{digits}f}"


def format_interval(figure: Interval, signed: bool = False) -> str:
    """Formats an interval as "0.412 ±0.021"."""
    text = number(figure.estimate, signed)
    if math.isnan(figure.high):
        return text
    half = (figure.high - figure.low) / 2
    return f"{text} ±{half:,.0f}" if abs(figure.estimate) >= 1000 else f"{text} ±{half:.3f}"


def figure_cell(figure: Interval, signed: bool = False, best: bool = False) -> GridCell:
    return GridCell(format_interval(figure, signed), figure.estimate, best)


def named_row(label: str, model: str, several: bool) -> str:
    return f"{model}: {label}" if several and label != model else label


def shown_seeds(row: ReportRow) -> str:
    """Formats the number of seeds as "2" or "1 of 2 (failed: 1)": an incomplete mean must not look like a complete
    one."""
    total = len(row.source.cells)
    if len(row.seeds) == total:
        return str(total)
    why = [
        f"{word}: {', '.join(map(str, seeds))}"
        for word, seeds in (("failed", row.failed), ("missing", row.missing))
        if seeds
    ]
    return f"{len(row.seeds)} of {total} ({'; '.join(why)})"
