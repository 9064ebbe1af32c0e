"""Runs `detmodes codebook`: counts each kind of error in the answers of a finished run, by row and category.

Errors are those of harness.metrics.diagnosis.codebook. The tables of a cell hold the model's answers, but not the
boxes of the instances, which most kinds are about: ground truth comes from the benchmark that the record names.

Shape legend: C categories.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.readers.annotations import Annotations
from benchmarks.readers.samples import load as read_samples
from harness import records, registry
from harness.errors import DataError
from harness.metrics.diagnosis.codebook import KINDS, Kind, counts_by_category, error_codes
from harness.metrics.samples.matching import verify
from harness.metrics.samples.mentions import Answers, Integers, Truth, truth_of
from harness.protocols import Benchmark, LeavesOut
from harness.report.grids.grid import Grid, GridCell, number
from harness.report.renderers.text import csv_text
from harness.report.results import Key, Results, load
from harness.suite.cells import select_cells
from harness.suite.permissions import NOTHING, Permissions, permit_benchmark
from harness.types import Category, Example

NEEDED = ("samples.parquet", "mentions.parquet")
NO_CATEGORY, ALL = "(no category)", "(all)"
"""Names of two lines: errors that belong to no category (unknown names, malformed entries, missing ends), and all
errors."""

Which = Literal["greedy", "samples"]


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """Errors of one row of the suite at its last step, summed over seeds.

    answers   number of answers: images times seeds, and times K for samples
    counts    each [C + 1], see `counts_by_category`
    """

    model: str
    label: str
    which: Which
    seeds: tuple[int, ...]
    answers: int
    counts: dict[Kind, Integers]

    def mean(self, kind: Kind) -> float:
        """Returns the errors per answer to an image, over all categories."""
        return float(self.counts[kind].sum() / self.answers)


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """The errors of all rows. images: number of validation images; present [C]: how many of them have each category."""

    suite: str
    categories: tuple[Category, ...]
    images: int
    present: Integers
    rows: tuple[ErrorRow, ...]


# ---- a run -> the table --------------------------------------------------------------------------------------------


def read(
    folder: Path, pattern: str | None = None, data: Path | None = None, permissions: Permissions = NOTHING
) -> ErrorTable:
    """Counts the errors of a run's finished cells (of those whose id matches `pattern`); `data`: folder of a data set
    on disk.

    Raises ConfigError where no cell matches, and where the run's suite names files that may not be read; DataError
    (one line) where no cell is finished, where a cell's answers are missing, or where the benchmark is not the one
    that the cells were evaluated on.
    """
    results = load(folder)
    keys = finished_cells(results, pattern)
    benchmark = benchmark_of(folder, results, keys, data, permissions)
    examples = benchmark.split("val")
    truth = truth_of(examples, benchmark.categories)
    rows: dict[tuple[str, str], list[Key]] = {}
    for key in keys:
        rows.setdefault((key.model, key.label), []).append(key)
    pairs = np.unique(np.stack([truth.image, truth.category]), axis=1)
    return ErrorTable(
        suite=results.suite.suite,
        categories=tuple(benchmark.categories),
        images=len(examples),
        present=np.bincount(pairs[1], minlength=truth.categories),
        rows=tuple(row for keys in rows.values() for row in _rows(results, keys, benchmark, examples, truth)),
    )


def finished_cells(results: Results, pattern: str | None) -> list[Key]:
    """Lists the finished cells, in the suite's order, whose answers are there. Raises as `read`."""
    ids = {key: folder.name.rpartition("-")[0] for key, folder in results.folders.items()}
    chosen = select_cells(ids, pattern, "--cell")
    finished = [key for key in chosen if key in results.records]
    if not finished:
        raise DataError(f"suite {results.suite.suite}: expected a finished cell, got none; run it first")
    for key in finished:
        _check_tables(results, key)
    return finished


def _check_tables(results: Results, key: Key) -> None:
    folder = results.folders[key]
    absent = [name for name in NEEDED if not (folder / name).is_file()]
    if absent:
        raise DataError(
            f"{folder}: has no {' and no '.join(absent)}; expected the output folder of a run "
            f"(published cells have {' and '.join(f'{name}.parquet' for name in records.PUBLISHED_TABLES)} alone)"
        )
    records.verify_files(results.records[key], folder, NEEDED)


def benchmark_of(
    folder: Path, results: Results, keys: Sequence[Key], data: Path | None, permissions: Permissions = NOTHING
) -> Benchmark:
    """The one that the cells of a run's folder were evaluated on, without the images that they did without. DataError
    if it is another one here; ConfigError where its settings name what may not be read."""
    named = results.suite.benchmark
    permit_benchmark(folder, named.name, named.settings, permissions)
    made = registry.benchmark(named.name, named.settings, data)
    left_out: Any = results.records[keys[0]].data.get("left_out")
    if left_out and isinstance(made, LeavesOut):
        made = made.without(left_out)
    for key in keys:
        if results.records[key].data != json.loads(json.dumps(made.describe())):
            raise DataError(
                f"{results.folders[key]}: evaluated on other data than the benchmark {named.name} has here; "
                "expected the same files and the version of detmodes that made the record"
            )
    return made


def _rows(
    results: Results, keys: Sequence[Key], benchmark: Benchmark, examples: Sequence[Example], truth: Truth
) -> Iterator[ErrorRow]:
    """Counts errors of the cells of one row: of greedy answers, then of samples."""
    given = Annotations(Path(benchmark.name), "", tuple(benchmark.categories), tuple(examples), {}, {})
    both = [read_samples(results.folders[key], given, benchmark.categories, None, results.temperature) for key in keys]
    seeds = tuple(key.seed for key in keys)
    by_which: dict[Which, list[Answers]] = {
        "greedy": [cell.greedy for cell in both if cell.greedy is not None],
        "samples": [cell.answers[results.temperature] for cell in both],
    }
    for which, answers in by_which.items():
        counts = [counted(truth, of_cell) for of_cell in answers]
        total = {kind: np.sum([count[kind] for count in counts], axis=0) for kind in KINDS}
        size = sum(of_cell.malformed.size for of_cell in answers)
        yield ErrorRow(keys[0].model, keys[0].label, which, seeds, size, total)


def counted(truth: Truth, answers: Answers) -> dict[Kind, Integers]:
    """Counts how often each kind of error occurs in these answers, each [C + 1]; see `counts_by_category`."""
    return counts_by_category(truth, answers, error_codes(truth, answers, verify(truth, answers.mentions)))


# ---- the table -> text ---------------------------------------------------------------------------------------------


def grids(table: ErrorTable) -> list[Grid]:
    """Makes a table of errors per answer of every row, then one for each row with each error by category."""
    body = tuple(
        (
            *(GridCell(word) for word in _words(table, row)),
            *(GridCell(number(row.mean(kind)), row.mean(kind)) for kind in KINDS),
        )
        for row in table.rows
    )
    note = (
        f"On {table.images:,} validation images. Both: near an object of another category, on none. Wrong name: that "
        "no category has, on an object. Missed: nothing was said about it. Wrong count: of a category in an image."
    )
    overall = Grid(
        "Errors per answer to an image", ("row", "answers", "seeds", *HEADINGS.values()), body, words=3, note=note
    )
    return [overall, *(_category_grid(table, row) for row in table.rows)]


def to_csv(table: ErrorTable) -> str:
    """Writes long format: a line for each row, category and kind of error; `mean` is the count per answer."""
    words = ("model", "row", "answers_of", "seeds", "answers", "category_id", "category", "images")
    lines: list[list[object]] = [[*words, "error", "count", "mean"]]
    for row in table.rows:
        named = [row.model, row.label, row.which, len(row.seeds), row.answers]
        for line in _lines(table, row):
            category = [*named, "" if line.category_id is None else line.category_id, line.category, line.images]
            lines += [[*category, kind, count, f"{count / row.answers:.6f}"] for kind, count in line.counts.items()]
    return csv_text(lines)


def to_json(table: ErrorTable) -> str:
    """Writes the same as one document."""
    rows = [
        {
            "model": row.model,
            "row": row.label,
            "answers_of": row.which,
            "seeds": list(row.seeds),
            "answers": row.answers,
            "mean": {kind: row.mean(kind) for kind in KINDS},
            "by_category": [line._asdict() for line in _lines(table, row)],
        }
        for row in table.rows
    ]
    return json.dumps({"suite": table.suite, "images": table.images, "rows": rows}, indent=1) + "\n"


HEADINGS: dict[Kind, str] = {
    "classification": "wrong category",
    "localisation": "wrong place",
    "both": "both",
    "duplicate": "duplicate",
    "background": "invented object",
    "wrong_name": "wrong name",
    "missed": "missed object",
    "miscount": "wrong count",
    "malformed": "malformed",
    "truncated": "no end",
}


def _words(table: ErrorTable, row: ErrorRow) -> tuple[str, str, str]:
    several = len({other.model for other in table.rows if other.model != other.label}) > 1
    named = f"{row.model}: {row.label}" if several and row.model != row.label else row.label
    return named, row.which, str(len(row.seeds))


class _Line(NamedTuple):
    """One line of a table. images: the number of images that have the category; of all images where there is no
    category."""

    category_id: int | None
    category: str
    images: int
    counts: dict[Kind, int]


def _lines(table: ErrorTable, row: ErrorRow) -> Iterator[_Line]:
    """Yields each category that the images or the errors have; errors without a category; all errors."""
    for index, category in enumerate(table.categories):
        counts = {kind: int(values[index]) for kind, values in row.counts.items()}
        if table.present[index] or any(counts.values()):
            yield _Line(category.id, category.name, int(table.present[index]), counts)
    yield _Line(None, NO_CATEGORY, table.images, {kind: int(values[-1]) for kind, values in row.counts.items()})
    yield _Line(None, ALL, table.images, {kind: int(values.sum()) for kind, values in row.counts.items()})


def _category_grid(table: ErrorTable, row: ErrorRow) -> Grid:
    named, which, _ = _words(table, row)
    body = tuple(
        (
            GridCell(line.category),
            *(GridCell(f"{count:,}", count) for count in (line.images, *line.counts.values())),
        )
        for line in _lines(table, row)
        if any(line.counts.values()) or line.category == ALL
    )
    title = f"Errors by category: {named}, {which} ({row.answers:,} answers)"
    return Grid(title, ("category", "images", *HEADINGS.values()), body, words=1)
