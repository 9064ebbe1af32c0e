"""Rows of a run that never ran: its figures, rows at the AP of others, differences, verdicts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.errors import ConfigError
from harness.metrics.catalogue import figure_names
from harness.metrics.stats import Interval, bootstrap_weights, interval
from harness.report import rows
from harness.report.equal_ap import equal_ap_rows
from harness.report.renderers import text as report
from harness.report.results import Key, Results
from tests.report.complete import one
from tests.support import fake_cells

# ---- the table ---------------------------------------------------------------------------------------------------


def test_rows_are_in_the_order_of_the_suite(results: Results) -> None:
    made = report.table(results)
    assert [row.label for row in made] == ["base", "ce", "sed", "ce_early", "oracle-uniform", "oracle-collapsed"]
    assert [row.seeds for row in made] == [(0,), (0, 1), (0, 1), (0, 1), (0,), (0,)]
    assert [row.step for row in made] == [0, 240, 240, None, 0, 0]


def test_every_row_has_every_figure(results: Results) -> None:
    for row in report.table(results):
        assert list(row.figures) == figure_names(samples=4)


def test_oracles_bound_the_figures(results: Results) -> None:
    """The simulated boxes are exact, so AP is 1; one name only is diversity 0, a uniform choice is 1."""
    uniform, collapsed = one(results, "oracle-uniform").figures, one(results, "oracle-collapsed").figures
    assert uniform["AP"] == collapsed["AP"] == Interval(1.0, 1.0, 1.0, 1)
    assert collapsed["name_diversity"] == Interval(0.0, 0.0, 0.0, 1)
    assert collapsed["distinct_names"].estimate == 1
    assert uniform["name_diversity"].estimate == pytest.approx(1, abs=0.1)  # 120 answers


def test_recall_and_its_interval_from_the_raw_table(results: Results) -> None:
    """Recall and its bootstrap computed afresh from images.parquet, category by category."""
    weights = bootstrap_weights(30)
    points, replicates = [], []
    for key in results.keys("toy", "ce"):
        frame = pd.read_parquet(results.folders[key] / "images.parquet")
        frame = frame[(frame["step"] == 240) & (frame["temperature"] == 1) & frame["category_id"].notna()]
        columns = []
        for _, of_category in frame.groupby("category_id"):
            hits, pairs = np.zeros(30), np.zeros(30)
            for _, row in of_category.iterrows():
                hits[row["image_id"] - 100] += sum(row["verified"])
                pairs[row["image_id"] - 100] += 4 * row["instances"]
            with np.errstate(invalid="ignore"):
                columns.append(np.array([hits.sum() / pairs.sum(), *((weights @ hits) / (weights @ pairs))]))
        means = np.nanmean(columns, axis=0)
        points.append(means[0])
        replicates.append(means[1:])
    expected = interval(np.array(points), np.array(replicates))
    actual = one(results, "ce").figures["recall"]
    assert (actual.estimate, actual.low, actual.high) == pytest.approx((expected.estimate, expected.low, expected.high))


def test_columns_by_frequency_average_to_the_total(results: Results) -> None:
    """Of the five categories 2 are frequent, 2 common, 1 rare: the total is their weighted mean."""
    figures = one(results, "ce").figures
    r, c, f = (figures[f"recall/{group}"].estimate for group in "rcf")
    assert figures["recall"].estimate == pytest.approx((r + 2 * c + 2 * f) / 5)


# ---- rows at the AP of others --------------------------------------------------------------------------------------


def read_off(ap: list[float], figure: list[float], target: float) -> float:
    """By hand, segment by segment: the first one that passes the target, else the nearest step."""
    for (x0, y0), (x1, y1) in pairwise(zip(ap, figure, strict=True)):
        if min(x0, x1) <= target <= max(x0, x1):
            return y0 if x0 == x1 else y0 + (y1 - y0) * (target - x0) / (x1 - x0)
    return figure[min(range(len(ap)), key=lambda i: abs(ap[i] - target))]


def test_a_row_at_the_ap_of_another_is_read_off_its_path_in_every_replicate(results: Results) -> None:
    """From base, steps 60, 120 and 240 of CE, the last one among them, at SED's AP: seed by seed, draw by draw."""
    points, replicates = [], []
    for seed in (0, 1):
        ce, target = Key("toy", "ce", seed), results.estimates(Key("toy", "sed", seed), 240).figures["AP"]
        path = [results.estimates(results.keys("toy", "base")[0], 0)]
        path += [results.estimates(ce, step) for step in (60, 120, 240)]
        values = [
            read_off(
                [point.figures["AP"][w] for point in path],
                [point.figures["name_diversity"][w] for point in path],
                target[w],
            )
            for w in range(len(target))
        ]
        points.append(values[0])
        replicates.append(values[1:])
    expected = interval(np.array(points), np.array(replicates))
    row = one(results, "ce_early")
    figure = row.figures["name_diversity"]
    assert (figure.estimate, figure.low, figure.high) == pytest.approx((expected.estimate, expected.low, expected.high))
    assert (row.step, row.title) == (None, "ce_early (at the AP of sed)")


def test_the_control_reaches_its_own_last_step(tmp_path: Path) -> None:
    """The first edition left the last step out: at CE's own AP, CE is as it is at the end."""
    stop = {"label": "early", "objective": "ce", "at_ap_of": "ce"}
    rising = fake_cells.DETECTORS | {"ce": tuple(fake_cells.Skill(recall, 0.5, 1.0) for recall in (0.6, 0.8, 0.98))}
    suite = fake_cells.suite(early_stops=[stop], hypotheses=[])
    made = report.load(fake_cells.write_run(tmp_path, suite, images=60, detectors=rising))
    assert one(made, "early").figures["name_diversity"] == one(made, "ce").figures["name_diversity"]


AT_EQUAL_AP = {"id": "E", "claim": "-", "metric": "name_diversity", "a": "sed", "b": "ce", "at": "equal_AP"}


def test_a_hypothesis_at_equal_ap_and_one_against_an_early_row_are_the_same(tmp_path: Path, results: Results) -> None:
    old = {**AT_EQUAL_AP, "id": "O", "b": "ce_early"}
    del old["at"]
    suite = fake_cells.suite(hypotheses=[AT_EQUAL_AP, old])
    made = report.load(fake_cells.write_run(tmp_path, suite))
    first, second = report.verdicts(made)
    assert first.verdict is not None
    assert second.verdict is not None
    assert (first.verdict.estimate, first.verdict.p) == (second.verdict.estimate, second.verdict.p)
    assert first.gap == second.gap
    assert first.gap is not None
    expected = one(results, "sed").figures["AP"].estimate - one(results, "ce_early").figures["AP"].estimate
    assert first.gap.estimate == pytest.approx(expected)
    (grid,) = (grid for grid in report.grids(made) if grid.title.startswith("Hypotheses"))
    assert grid.headings[4] == "AP gap"
    assert grid.rows[0][2].text == "name_diversity: sed - ce at equal AP > 0"
    assert grid.rows[0][4].text == report.format_interval(first.gap, signed=True)


def test_rows_that_no_step_brings_to_equal_ap_are_not_comparable(tmp_path: Path) -> None:
    """A control that never comes near the row's AP decides nothing, however clear the difference is."""
    far = fake_cells.DETECTORS | {"sed": tuple(fake_cells.Skill(1.0, 0.9, 0.0) for _ in range(3))}
    suite = fake_cells.suite(early_stops=[], hypotheses=[AT_EQUAL_AP])
    made = report.load(fake_cells.write_run(tmp_path, suite, detectors=far))
    (finding,) = report.verdicts(made)
    assert finding.gap is not None
    assert finding.gap.estimate > 0.01
    assert finding.outcome == "not comparable"
    assert "| not comparable |" in report.to_markdown(made)
    (line,) = equal_ap_rows(made)
    assert not line.comparable
    assert line.row.figures["AP"] == finding.gap


def test_the_control_is_plain_ce_at_any_learning_rate(tmp_path: Path) -> None:
    """`tune` writes the rate that it has chosen into each row."""
    for number, (train, controls) in enumerate([({"lr": 1e-3}, {"ce"}), ({"targets": "random"}, set())]):
        ce = {"name": "ce", "label": "ce", "train": train}
        rows_of_suite = [ce, *fake_cells.suite().model_dump(mode="json")["objectives"][1:]]
        suite = fake_cells.suite(objectives=rows_of_suite, early_stops=[], hypotheses=[], seeds=[0])
        made = report.load(fake_cells.write_run(tmp_path / str(number), suite))
        assert {row.control for row in equal_ap_rows(made)} == controls


# ---- differences and verdicts ------------------------------------------------------------------------------------


def test_differences_to_the_base_are_paired(results: Results) -> None:
    changes = {row.label: row.figures for row in rows.differences(results)}
    assert list(changes) == ["ce", "sed", "ce_early"]
    a = [results.replicates(key, 240)["distinct_names"] for key in results.keys("toy", "ce")]
    b = [results.replicates(key, 0)["distinct_names"] for key in results.keys("toy", "base")]
    points = [results.points(key, 240)["distinct_names"] for key in results.keys("toy", "ce")]
    base = [results.points(key, 0)["distinct_names"] for key in results.keys("toy", "base")]
    expected = interval(np.array(points) - np.array(base), np.stack(a) - np.stack(b))
    assert changes["ce"]["distinct_names"] == expected


def test_verdicts_of_the_suite(tmp_path: Path) -> None:
    """Four seeds tell a diversity of 0.05 from one of 0.55; a margin of 0.9 is out of reach."""
    claim = {"claim": "-", "metric": "name_diversity", "a": "sed", "b": "ce"}
    far = {**claim, "id": "far", "margin": 0.9}
    wrong = {**claim, "id": "wrong", "direction": "less"}
    suite = fake_cells.suite(seeds=[0, 1, 2, 3], hypotheses=[{**claim, "id": "right"}, far, wrong])
    made = report.verdicts(report.load(fake_cells.write_run(tmp_path, suite, images=100)))
    outcomes = {item.hypothesis.id: item.verdict.outcome for item in made if item.verdict is not None}
    assert outcomes == {"right": "supported", "far": "refuted", "wrong": "refuted"}
    # Holm: the least extreme of the three p-values, that of the margin, is judged at 5%, the first at 5% / 3
    assert sorted(round(item.verdict.level, 4) for item in made if item.verdict) == [0.95, 0.975, 0.9833]


def test_unknown_metric(tmp_path: Path) -> None:
    hypothesis = {"id": "H1", "claim": "-", "metric": "name_diversty", "a": "sed", "b": "ce"}
    made = report.load(fake_cells.write_run(tmp_path, fake_cells.suite(hypotheses=[hypothesis])))
    with pytest.raises(
        ConfigError, match="hypothesis H1: unknown metric 'name_diversty', did you mean 'name_diversity"
    ):
        report.verdicts(made)
