"""One row, and one cell, of a run that never ran (see tests.support.fake_cells)."""

from __future__ import annotations

from pathlib import Path

from harness.report import rows
from harness.report.renderers import text as report
from harness.report.results import Results

SED_1 = ("sed", 1)


def one(results: Results, label: str) -> rows.ReportRow:
    return next(row for row in report.table(results) if row.label == label)


def only_cell(folder: Path, pattern: str) -> Path:
    (cell,) = (folder / "cells").glob(pattern)
    return cell
