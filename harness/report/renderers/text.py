"""Renders grids as text: Markdown, CSV and the screen (harness.report.renderers.latex and
harness.report.renderers.html are the other renderers)."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Literal

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.metrics.samples.aggregate import REPORTABLE
from harness.metrics.stats import Interval
from harness.report.grids.grid import NOTHING, UNDEFINED, Grid, GridCell, format_interval, split
from harness.report.grids.tables import category_grids, grids, summary_grids
from harness.report.notes import caption
from harness.report.results import Results, load
from harness.report.rows import category_lines, figure_lines, table
from harness.report.verdicts import verdicts

__all__ = [
    "UNDEFINED",
    "Grid",
    "GridCell",
    "caption",
    "category_grids",
    "csv_text",
    "format_interval",
    "grids",
    "load",
    "markdown",
    "panel",
    "table",
    "to_category_csv",
    "to_console",
    "to_csv",
    "to_markdown",
    "to_summary",
    "verdicts",
]

NUMBER_WIDTH = len("+0.412 ±0.021")
WORD_WIDTH = 20
"""Characters from which on a word may be broken."""
GAP = 2
"""Spaces between two columns."""
SCREEN_COLUMNS = 6
"""Number of columns of numbers, beside the words, that fit into 120 characters."""


def to_markdown(results: Results, per_category: bool = False) -> str:
    """Renders tables, verdicts and caption as GitHub-flavoured Markdown; the tables per category only on demand, as
    they are long."""
    shown = grids(results) + (category_grids(results) if per_category else [])
    return "\n".join([*map(markdown, shown), *(f"- {_escape(line)}" for line in caption(results))]) + "\n"


def markdown(grid: Grid) -> str:
    """Renders one table with its title and note."""
    return f"### {_escape(grid.title)}\n\n{_markdown_table(grid)}{_markdown_note(grid)}"


def to_csv(results: Results) -> str:
    """Renders every figure in long format, one line per row and figure, followed by the gains of chains; undefined
    ones are empty."""
    lines: list[list[object]] = [["model", "row", "step", "figure", "estimate", "low", "high", "seeds"]]
    for row, name in figure_lines(results):
        step = "" if row.step is None else row.step
        lines.append([row.model, row.label, step, name, *_numbers(row.figures.get(name, NOTHING)), len(row.seeds)])
    return csv_text(lines)


def to_category_csv(results: Results) -> str:
    """Renders the figures of all categories in long format, one line per row, category and figure; undefined ones are
    empty."""
    of_category = ("category_id", "category", "frequency", "images", "reportable")
    lines: list[list[object]] = [["model", "row", *of_category, "figure", "estimate", "low", "high", "seeds"]]
    for line in category_lines(results):
        for category in results.categories:
            images = line.support.get(category.id, 0)
            category_cells = [
                category.id,
                category.names[0],
                category.frequency or "",
                images,
                int(images >= REPORTABLE),
            ]
            for name, figure in line.figures.get(category.id, {}).items():
                lines.append([line.model, line.label, *category_cells, name, *_numbers(figure), figure.seeds])
    return csv_text(lines)


def to_console(results: Results, per_category: bool = False) -> RenderableType:
    """Renders the same tables for a terminal of 120 columns."""
    shown = grids(results) + (category_grids(results) if per_category else [])
    return Group(*map(panel, shown), *(Text(line, style="dim") for line in caption(results)))


def to_summary(results: Results) -> RenderableType:
    """Renders one table and the verdicts for a terminal of 80 columns or more, with the notes."""
    return Group(*map(panel, summary_grids(results)), *(Text(line, style="dim") for line in caption(results)))


def panel(whole: Grid) -> RenderableType:
    """Renders one table for a terminal of 120 columns, in as many parts as needed, with its title and note."""
    parts: list[RenderableType] = []
    for grid in split(whole, SCREEN_COLUMNS):
        parts += [Text(grid.title, style="bold"), Padding(FittingTable(grid), (0, 0, 1, 0))]
    if whole.note:
        parts.append(Padding(Text(whole.note, style="dim"), (0, 0, 1, 0)))
    return Group(*parts)


def csv_text(lines: list[list[object]]) -> str:
    """Renders lines of values as comma-separated text."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()


def _numbers(figure: Interval) -> list[str]:
    return [f"{x:.6f}" if math.isfinite(x) else "" for x in (figure.estimate, figure.low, figure.high)]


def _markdown_table(grid: Grid) -> str:
    lines = [
        [_escape(heading) for heading in grid.headings],
        ["---"] * grid.words + ["---:"] * (len(grid.headings) - grid.words),
        *([_markdown_cell(cell) for cell in row] for row in grid.rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _markdown_cell(cell: GridCell) -> str:
    return f"**{_escape(cell.text)}**" if cell.best else _escape(cell.text)


def _markdown_note(grid: Grid) -> str:
    return f"\n{_escape(grid.note)}\n" if grid.note else ""


def _escape(text: str) -> str:
    """Escapes a text so that Markdown shows it as it is, on one line."""
    escaped = re.sub(r"([\\`*\[\]|<>~#]|\b_|_\b)", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;")


@dataclass(frozen=True, slots=True)
class FittingTable:
    """A table that breaks lines between words until it fits the screen: a figure before its ±, a label at a space."""

    grid: Grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _rich_table(self.grid, options.max_width)


def _rich_table(grid: Grid, screen_width: int) -> Table:
    headings = [
        fill(heading, NUMBER_WIDTH) if index >= grid.words else heading for index, heading in enumerate(grid.headings)
    ]
    columns = [(heading, *(row[index].text for row in grid.rows)) for index, heading in enumerate(headings)]
    widths = fitting_widths(columns, screen_width)
    made = Table(box=None, pad_edge=False, header_style="italic", padding=(0, GAP, 0, 0))
    for index, (heading, width) in enumerate(zip(headings, widths, strict=True)):
        justify: Literal["right", "left"] = "right" if index >= grid.words else "left"
        made.add_column(Text(heading), justify=justify, width=width, overflow="fold")
    for row in grid.rows:
        made.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
    return made


def fitting_widths(columns: Sequence[Sequence[str]], screen_width: int) -> list[int]:
    """Returns the width of each column of texts: their longest line where all fit, else the widest column is narrowed
    first, none to less than its longest word (of WORD_WIDTH characters at most)."""
    widths = [max((len(line) for text in texts for line in text.splitlines()), default=1) for texts in columns]
    words = [
        min(WORD_WIDTH, max((len(word) for text in texts for word in text.split()), default=1)) for texts in columns
    ]
    while sum(widths) + GAP * (len(widths) - 1) > screen_width:
        room, index = max((width - word, index) for index, (width, word) in enumerate(zip(widths, words, strict=True)))
        if room <= 0:
            break
        widths[index] -= 1
    return [max(1, width) for width in widths]
