"""Rows, gains and warnings of a chain of stages, from simulated cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import ConfigError
from harness.metrics.stats import interval
from harness.report import chains, notes, rows, verdicts
from harness.report.grids.tables import grids
from harness.report.renderers.text import to_csv, to_markdown
from harness.report.results import Results, load
from tests.support import fake_cells, small
from tests.support.fake_cells import Skill

THEN = {"name": "grpo", "steps": 60}
OBJECTIVES = [{"name": "ce", "then": THEN}, {"name": "sed_sft", "label": "sed", "then": THEN}, "gem"]
DETECTORS = {
    **fake_cells.DETECTORS,
    "ce": (Skill(0.40, 0.05, 2.0), Skill(0.44, 0.05, 1.9)),
    "sed": (Skill(0.50, 0.55, 2.0), Skill(0.94, 0.50, 1.2)),
    "gem": (Skill(0.76, 0.30, 2.0),),
}
GAIN = {"id": "R1", "claim": "RL gains more from SED-SFT", "metric": "AP_gain", "a": "sed", "b": "ce"}
BEFORE = {"id": "R2", "claim": "behind", "metric": "AP", "a": "sed after sft", "b": "sed", "direction": "less"}


def run(folder: Path, **changes: Any) -> Results:
    settings = {"objectives": OBJECTIVES, "seeds": [0, 1, 2], "early_stops": [], "hypotheses": [GAIN, BEFORE]}
    return load(fake_cells.write_run(folder, fake_cells.suite(**settings | changes), detectors=DETECTORS))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run(tmp_path_factory.mktemp("chains"))


def ap(results: Results, label: str, step: int) -> list[float]:
    return [results.points(key, step)["AP"] for key in results.keys("toy", label)]


def test_a_chain_is_its_last_stage_and_has_a_row_before_it(results: Results) -> None:
    by_label = {row.label: row for row in rows.table(results)}
    assert list(by_label)[:6] == ["base", "ce", "sed", "gem", "ce after sft", "sed after sft"]
    assert [by_label[label].step for label in ("sed", "sed after sft", "gem")] == [300, 240, 240]
    for label, step in (("sed", 300), ("sed after sft", 240)):
        assert by_label[label].figures["AP"].estimate == pytest.approx(np.mean(ap(results, "sed", step)))
    assert "sed after sft" not in {line.label for line in rows.category_lines(results)}


def test_gains_are_paired(results: Results) -> None:
    """The estimate is the mean difference over seeds, and each replicate draws the same images for both stages."""
    gains = {row.label: row.figures["AP_gain"] for row in rows.gains(results)}
    assert gains.keys() == {"ce", "sed"}
    expected = np.subtract(ap(results, "sed", 300), ap(results, "sed", 240)).mean()
    assert gains["sed"].estimate == pytest.approx(expected)
    both = [
        np.stack([results.replicates(key, step)["AP"] for key in results.keys("toy", "sed")]) for step in (300, 240)
    ]
    points = np.subtract(ap(results, "sed", 300), ap(results, "sed", 240))
    assert gains["sed"] == interval(points, both[0] - both[1])


def test_hypotheses_may_be_about_gains_and_stages(results: Results) -> None:
    by_id = {finding.hypothesis.id: finding.verdict for finding in verdicts.verdicts(results)}
    gains = {row.label: row.figures["AP_gain"].estimate for row in rows.gains(results)}
    assert by_id["R1"] is not None
    assert by_id["R1"].estimate == pytest.approx(gains["sed"] - gains["ce"])
    assert by_id["R1"].outcome == "supported"
    assert by_id["R2"] is not None
    assert by_id["R2"].estimate == pytest.approx(-gains["sed"])


def test_coverage_and_gain_over_all_cells_of_chains(results: Results) -> None:
    x = [results.points(key, 240)["coverage@4"] for label in ("ce", "sed") for key in results.keys("toy", label)]
    after, before = (ap(results, "ce", step) + ap(results, "sed", step) for step in (300, 240))
    y = np.subtract(after, before)
    dx, dy = np.array(x) - np.mean(x), y - y.mean()
    assert chains.foretold(results).cells == 6
    assert chains.foretold(results).correlation == pytest.approx(
        float((dx * dy).sum() / np.sqrt((dx**2).sum() * (dy**2).sum()))
    )
    assert "Over the 6 cells, coverage@4 after fine-tuning and the gain in AP have" in to_markdown(results)


def test_a_line_through_two_points_is_no_correlation(tmp_path: Path) -> None:
    correlations = chains.foretold(run(tmp_path, seeds=[0], hypotheses=[]))
    assert correlations.cells == 2
    assert np.isnan(correlations.correlation)


def test_collapsed_entropy_is_warned_of(results: Results) -> None:
    """0.05 of its start is, 0.11 is not; what was logged in fine-tuning does not count."""
    assert {(collapse.key.label, collapse.key.seed, collapse.step) for collapse in chains.collapses(results)} == {
        *((label, 1, 250) for label in ("ce", "sed")),
    }
    (warning, _) = (line for line in notes.caption(results) if "collapsed" in line)
    assert warning == (
        "Warning: the samples of toy ce seed 1 have collapsed: 0.04 nats per token at step 250, 0.8 when the last "
        "stage began."
    )


def test_entropy_that_is_not_of_samples_says_nothing(tmp_path: Path) -> None:
    """In continued fine-tuning it is the model's at the targets."""
    chain = {"name": "ce", "then": {"name": "sft", "steps": 60}}
    assert chains.collapses(run(tmp_path, objectives=[chain], hypotheses=[])) == []


def test_seconds_are_those_of_the_stage(results: Results) -> None:
    """Fine-tuning takes 0.102 s a step; of 24.48 s at its end and 25.5 s fifteen steps later the last stage has 0.068
    a step."""
    seconds = {row.label: row.figures["step_seconds"].estimate for row in rows.table(results)}
    assert seconds["sed"] == pytest.approx((25.5 - 24.48) / 15)
    assert seconds["sed after sft"] == seconds["gem"] == pytest.approx(0.102)


def test_groups_without_spread_are_those_of_the_last_stage(results: Results) -> None:
    """Logged at its steps 5, 10 and 15: a quarter, a half and three quarters. Fine-tuning draws no samples."""
    shares = {row.label: row.figures["groups_without_spread"].estimate for row in rows.table(results)}
    assert shares["ce"] == shares["sed"] == pytest.approx(0.5)
    assert all(np.isnan(shares[label]) for label in ("base", "gem", "ce after sft", "oracle-uniform"))


def test_what_stages_lead_to_and_what_they_take_side_by_side(results: Results) -> None:
    (grid,) = (grid for grid in grids(results) if grid.title == "Stages side by side")
    headings = ("AP", "hallucination rate", "recall", "name diversity", "coverage@4")
    assert grid.headings == (
        "row",
        "seeds",
        *headings,
        "seconds per step",
        "peak memory (MiB)",
        "groups without spread",
    )
    assert [line[0].text for line in grid.rows][:3] == ["base", "ce", "sed"]


def test_gains_are_in_the_csv(results: Results) -> None:
    lines = [line.split(",") for line in to_csv(results).splitlines()]
    assert {line[1] for line in lines if line[3] == "AP_gain"} == {"ce", "sed"}


def test_without_chains_there_is_nothing_of_them(tmp_path: Path) -> None:
    alone = run(tmp_path, objectives=["ce"], hypotheses=[], seeds=[0])
    assert "AP_gain" not in to_csv(alone)
    assert "Last stage" not in to_markdown(alone)
    assert "side by side" not in to_markdown(alone)
    assert [row.label for row in rows.table(alone)][:3] == ["base", "ce", "oracle-uniform"]


def test_a_gain_is_of_two_chains() -> None:
    chain = [{"name": "ce", "label": "sed", "then": THEN}, "ce"]
    with pytest.raises(ConfigError, match="hypothesis R1: AP_gain: expected two rows with then, got sed, ce"):
        small.mini_suite(objectives=chain, hypotheses=[GAIN])
    wrong = {**GAIN, "metric": "APP_gain"}
    with pytest.raises(ConfigError, match="unknown metric 'APP_gain', did you mean 'AP_gain'"):
        small.mini_suite(objectives=[{"name": "ce", "then": THEN}, chain[0]], hypotheses=[wrong])
