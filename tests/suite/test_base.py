"""What the shipped base must be able to do, measured on images that took no part in any choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.report.renderers import text
from harness.run import runner
from harness.run.context import open_context
from harness.suite import load


@pytest.mark.slow
def test_the_base_detects_plain_shapes_and_uses_all_names(tmp_path: Path) -> None:
    runner.run(open_context(load.load("base"), None, "cpu"), tmp_path)
    base = text.table(text.load(tmp_path))[0]
    assert base.label == "base"
    assert base.figures["AP"].low >= 0.70
    assert base.figures["name_diversity"].low >= 0.80
