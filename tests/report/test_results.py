"""Every published number regenerates from its record: texts in results/* byte for byte, figures by their data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.commands.speed import TABLES
from harness.report.figures import available
from harness.report.publish import FIGURES, README, tables
from harness.report.results import load

RESULTS = Path(__file__).parents[2] / "results"
LARGE = {"alternatives", "equivalence_sets", "objectives", "sed-vs-ce", "sed-vs-ce-spelled", "sed_sft_claims"}
PUBLISHED = [
    pytest.param(path.parent, id=path.parent.name, marks=[pytest.mark.slow] if path.parent.name in LARGE else [])
    for path in sorted(RESULTS.glob("*/suite.json"))
]
NOTHING = pytest.param(RESULTS, id="none", marks=pytest.mark.skip(reason="results/ holds no published folder yet"))


def test_the_page_of_timings_shows_the_files_beside_it() -> None:
    """Each has a block between `<!-- speed-NAME -->` and `<!-- /speed-NAME -->`. What it says is tested with the pages
    that are made from code (tests/docs/test_pages.py)."""
    text = (RESULTS / "speed" / README).read_text()
    blocks = re.findall(r"<!-- speed-(\w+) -->\n.*?<!-- /speed-\1 -->", text, flags=re.DOTALL)
    files = {path.stem for path in (RESULTS / "speed").glob("*.json")}
    assert sorted(blocks) == sorted(files)
    assert files <= TABLES.keys()


@pytest.mark.parametrize("folder", PUBLISHED or [NOTHING])
def test_published_folder_regenerates(folder: Path) -> None:
    results = load(folder)
    for name, text in tables(results).items():  # figures.json among them: what the figures show
        assert (folder / name).read_text() == text, name
    drawn = {f"{name}.svg" for name in available(results)}
    assert {path.name for path in (folder / FIGURES).iterdir()} == drawn
