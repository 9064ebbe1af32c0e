"""Every published number regenerates from its record: texts in results/* byte for byte, figures by their data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from harness.commands.speed import diversity, model, objectives, runner
from harness.commands.speed import evaluation as evaluation_speed
from harness.report.figures import available
from harness.report.publish import FIGURES, README, tables
from harness.report.results import load

RESULTS = Path(__file__).parents[2] / "results"
LARGE = {"sed-vs-ce", "sed_sft_claims"}
PUBLISHED = [
    pytest.param(path.parent, id=path.parent.name, marks=[pytest.mark.slow] if path.parent.name in LARGE else [])
    for path in sorted(RESULTS.glob("*/suite.json"))
]
SPEED = {
    "speed-objectives": objectives.from_document,
    "speed-evaluation": evaluation_speed.from_document,
    "speed-diversity": diversity.from_document,
    "speed-runner": runner.from_document,
    "speed-model": model.from_document,
}
PAGES = ("README.md", "docs/running-at-scale.md", "docs/after-fine-tuning.md")
NOTHING = pytest.param(RESULTS, id="none", marks=pytest.mark.skip(reason="results/ holds no published folder yet"))


def test_readme_shows_what_is_published() -> None:
    """Every block of the pages between `<!-- NAME -->` and `<!-- /NAME -->` stands so in results/NAME."""
    text = "".join((RESULTS.parent / page).read_text() for page in PAGES)
    blocks = re.findall(r"<!-- ([\w-]+) -->\n(.*?)<!-- /\1 -->", text, flags=re.DOTALL)
    suites = {"quickstart", "sed-vs-ce", "objectives", "sed_sft_claims", "sft_then_rl", "negative_supervision"}
    assert {name for name, _ in blocks} == {*suites, *SPEED}
    for name, block in blocks:
        if name in SPEED:
            document = json.loads((RESULTS / "speed" / f"{name.removeprefix('speed-')}.json").read_text())
            assert block.strip() == SPEED[name](document)
            continue
        published = (RESULTS / name / README).read_text().replace(f"({FIGURES}/", f"(results/{name}/{FIGURES}/")
        for part in block.strip().split("\n\n"):
            assert part in published, f"README, block {name}: not in results/{name}/{README}"


@pytest.mark.parametrize("folder", PUBLISHED or [NOTHING])
def test_published_folder_regenerates(folder: Path) -> None:
    results = load(folder)
    for name, text in tables(results).items():  # figures.json among them: what the figures show
        assert (folder / name).read_text() == text, name
    drawn = {f"{name}.svg" for name in available(results)}
    assert {path.name for path in (folder / FIGURES).iterdir()} == drawn
