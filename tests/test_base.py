"""What the shipped base must be able to do, measured on images that took no part in any choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import report, runner, suite_files
from harness.context import open_context


@pytest.mark.slow
def test_the_base_detects_plain_shapes_and_uses_all_names(tmp_path: Path) -> None:
    runner.run(open_context(suite_files.load("base"), None, "cpu"), tmp_path)
    base = report.table(report.load(tmp_path))[0]
    assert base.label == "base"
    assert base.figures["AP"].low >= 0.70
    assert base.figures["name_diversity"].low >= 0.80
