"""A record on disk: small, strict, and readable whichever version of the code wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import records
from harness.errors import DataError
from tests.support import fake_cells


def cell_of(folder: Path) -> Path:
    fake_cells.write_run(folder, fake_cells.suite(), images=12)
    return next(path for path in sorted((folder / "cells").iterdir()) if "-ce-" in path.name)


def test_a_record_says_nothing_twice(tmp_path: Path) -> None:
    """No indentation, and none of the figures of each category, which are made from the tables."""
    text = (cell_of(tmp_path) / records.RECORD).read_text()
    assert text == text.strip() + "\n"
    assert text.count("\n") == 1
    assert not any("per_category" in evaluation for evaluation in json.loads(text)["evaluations"])


def test_a_record_of_older_code_is_read(tmp_path: Path) -> None:
    """It was indented, and held the figures of each category: these are left aside, all else is as it was."""
    cell = cell_of(tmp_path)
    expected = records.read_record(cell)
    content = json.loads((cell / records.RECORD).read_text())
    for evaluation in content["evaluations"]:
        evaluation["per_category"] = {"1": {"AP": 0.5, "recall": None}}
    (cell / records.RECORD).write_text(json.dumps(content, indent=1))
    assert records.read_record(cell) == expected


def test_an_unknown_field_is_refused_in_one_line(tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    content = json.loads((cell / records.RECORD).read_text())
    content["evaluations"][0]["per_image"] = {}
    (cell / records.RECORD).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"record.json: field evaluations.0.per_image: Extra inputs are not permitted$"):
        records.read_record(cell)
