"""Every published number regenerates from its record: results/*/README.md and table.csv, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.figures import available
from harness.publish import FIGURES, README, TABLE, readme
from harness.report import load, to_csv

RESULTS = Path(__file__).parents[1] / "results"
PUBLISHED = [pytest.param(path.parent, id=path.parent.name) for path in sorted(RESULTS.glob("*/suite.json"))]
NOTHING = pytest.param(RESULTS, id="none", marks=pytest.mark.skip(reason="results/ holds no published folder yet"))


@pytest.mark.parametrize("folder", PUBLISHED or [NOTHING])
def test_published_folder_regenerates(folder: Path) -> None:
    results = load(folder)
    assert (folder / README).read_text() == readme(results)
    assert (folder / TABLE).read_text() == to_csv(results)
    drawn = {f"{name}.{suffix}" for name in available(results) for suffix in ("png", "svg")}
    assert {path.name for path in (folder / FIGURES).iterdir()} == drawn
