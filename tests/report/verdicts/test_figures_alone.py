"""Hypotheses about the figure of one row, and the figures of training that they may name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import ConfigError
from harness.metrics.stats import interval
from harness.report.power import power_grids
from harness.report.renderers.text import to_csv, to_markdown
from harness.report.results import Results, load
from harness.report.rows import table
from harness.report.verdicts import verdicts
from tests.support import fake_cells, small

SELECTED = {"id": "S1", "claim": "the mask selects", "metric": "selected_share", "a": "sed", "margin": 0.05}
STATED: list[dict[str, Any]] = [
    SELECTED,
    {**SELECTED, "id": "S2", "margin": 0.2},
    {"id": "S3", "claim": "the oracle is right", "metric": "AP", "a": "oracle-uniform", "margin": 0.99},
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("alone")
    return load(fake_cells.write_run(folder, fake_cells.suite(hypotheses=STATED)))


def test_the_figure_itself_is_held_against_the_margin(results: Results) -> None:
    """The mask of the simulated cells selects 0.3 exp(-step / 200), logged every 20 steps up to 240."""
    expected = np.mean([0.3 * np.exp(-step / 200) for step in (200, 220, 240)])
    by_id = {finding.hypothesis.id: finding for finding in verdicts(results)}
    assert [by_id[name].outcome for name in ("S1", "S2", "S3")] == ["supported", "refuted", "supported"]
    for name in ("S1", "S2"):
        verdict = by_id[name].verdict
        assert verdict is not None
        assert verdict.estimate == pytest.approx(expected)
    shares = {row.label: row.figures["selected_share"].estimate for row in table(results)}
    assert shares["sed"] == pytest.approx(expected)
    assert np.isnan([shares["base"], shares["ce"], shares["oracle-uniform"]]).all()


def test_it_is_shown_without_a_second_row(results: Results) -> None:
    text = to_markdown(results)
    assert "| selected_share: sed \\> 0.05 |" in text
    assert "### What the mask selects" in text
    assert "selected_share" in to_csv(results)
    assert power_grids(results)[0].rows[0][1].text == "sed"


def test_the_interval_is_that_of_the_table(tmp_path: Path) -> None:
    alone = {"id": "A", "claim": "it detects", "metric": "AP", "a": "ce", "margin": 0.1}
    made = load(fake_cells.write_run(tmp_path, fake_cells.suite(hypotheses=[alone])))
    (finding,) = verdicts(made)
    (row,) = (row for row in table(made) if row.label == "ce")
    points = [made.points(key, row.step)["AP"] for key in made.keys("toy", "ce")]  # type: ignore[arg-type]
    replicates = np.stack([made.replicates(key, row.step)["AP"] for key in made.keys("toy", "ce")])  # type: ignore[arg-type]
    assert finding.verdict is not None
    assert row.figures["AP"] == interval(np.array(points), replicates)
    assert (finding.verdict.low, finding.verdict.high) == pytest.approx((row.figures["AP"].low, row.figures["AP"].high))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"a": ""}, "hypotheses.0: expected a and b, a alone, or predictor and rows"),
        ({"at": "equal_AP"}, "hypotheses.0: at: expected b, which is read at the AP of a"),
        ({"metric": "AP_gain"}, "hypothesis S1: AP_gain: expected a row with then, got sed"),
        ({"a": "toy/sed"}, "hypothesis S1: unknown model label 'toy'"),
        ({"a": "sedd"}, "hypothesis S1: unknown row 'sedd', did you mean 'sed'"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], expected: str) -> None:
    objectives = [{"name": "sed_sft", "label": "sed", "mask": "none"}]
    with pytest.raises(ConfigError) as raised:
        small.mini_suite(objectives=objectives, hypotheses=[{**SELECTED, **change}])
    assert any(f"mini.yaml: {expected}" in problem for problem in raised.value.problems), raised.value.problems
