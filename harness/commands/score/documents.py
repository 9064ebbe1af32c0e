"""Writes figures as JSON values (None where undefined) and CSV tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # scipy, which a plain evaluation does without
    from harness.metrics.stats import Interval

Json = dict[str, Any]

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters at the start of a text cell that spreadsheet programs take for a formula."""


def subtract(a: float | None, b: float | None) -> float | None:
    """Returns a - b; undefined (None) where one of them is."""
    return None if a is None or b is None else a - b


def describe_intervals(intervals: Mapping[str, Interval]) -> Json:
    """Returns intervals as the JSON file has them."""
    from harness.metrics.stats import nan_to_none  # late: scipy

    return {name: {"low": nan_to_none(item.low), "high": nan_to_none(item.high)} for name, item in intervals.items()}


def write_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns the rows as CSV text, one column for each name; None is an empty field.

    A text that a spreadsheet program would compute (a category called `=HYPERLINK(...)`) gets an apostrophe in front;
    numbers stay as they are.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_neutralise(row[column]) for column in columns] for row in rows)
    return text.getvalue()


def _neutralise(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
