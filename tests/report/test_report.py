"""Rows, verdicts and texts of runs that never ran (see fake_cells)."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.errors import ConfigError, DataError
from harness.metrics.catalogue import CATEGORY_COLUMNS, MEANINGS, ROLLOUT_COLUMNS, diversity_columns, figure_names
from harness.metrics.samples.aggregate import REPORTABLE
from harness.metrics.stats import Interval, bootstrap_weights, interval
from harness.records import RECORD
from harness.report import figures, rows
from harness.report.equal_ap import equal_ap_rows
from harness.report.grids import grid as grid_parts
from harness.report.grids import tables
from harness.report.renderers import text as report
from harness.report.results import Key, Results
from tests.support import fake_cells

SED_1 = ("sed", 1)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_cells.write_run(tmp_path_factory.mktemp("complete"), fake_cells.suite())


@pytest.fixture(scope="module")
def results(complete: Path) -> Results:
    return report.load(complete)


def one(results: Results, label: str) -> rows.ReportRow:
    return next(row for row in report.table(results) if row.label == label)


def only_cell(folder: Path, pattern: str) -> Path:
    (cell,) = (folder / "cells").glob(pattern)
    return cell


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


# ---- incomplete runs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def incomplete(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("incomplete")
    return report.load(fake_cells.write_run(folder, fake_cells.suite(), failed=[SED_1], missing=[("ce", 0)]))


def test_incomplete_rows_show_it(incomplete: Results) -> None:
    ce, sed = one(incomplete, "ce"), one(incomplete, "sed")
    assert (ce.seeds, ce.missing, ce.failed) == ((1,), (0,), ())
    assert (sed.seeds, sed.missing, sed.failed) == ((0,), (), (1,))
    assert sed.figures["AP"].seeds == 1
    text = report.to_markdown(incomplete)
    assert "| ce | 1 of 2 (missing: 0) |" in text
    assert "| sed | 1 of 2 (failed: 1) |" in text
    assert "- Failed: toy sed seed 1: ValueError: no luck" in text
    assert "- Missing: toy ce seed 0." in text


def test_differences_use_the_seeds_that_both_have(incomplete: Results) -> None:
    changes = {row.label: row for row in rows.differences(incomplete)}
    assert (changes["ce"].seeds, changes["ce"].missing) == ((1,), (0,))
    assert (changes["sed"].seeds, changes["sed"].failed) == ((0,), (1,))


def test_without_the_base_there_is_no_difference_to_it(tmp_path: Path) -> None:
    made = report.load(fake_cells.write_run(tmp_path, fake_cells.suite(), images=8, missing=[("base", 0)]))
    assert [(row.seeds, row.missing, row.figures) for row in rows.differences(made)] == [((), (0, 1), {})] * 3


def test_a_row_at_the_ap_of_one_that_has_failed_has_the_other_seeds(incomplete: Results) -> None:
    row = one(incomplete, "ce_early")
    assert (row.seeds, row.failed) == ((), (1,))  # and seed 0 has no CE


def test_hypotheses_without_their_cells_are_not_tested(incomplete: Results) -> None:
    assert [item.verdict for item in report.verdicts(incomplete)] == [None, None, None]
    assert "not tested (missing: toy sed seed 1 (failed), toy ce seed 0)" in report.to_markdown(incomplete)


def test_untested_hypotheses_count_in_holms_family(tmp_path: Path, results: Results) -> None:
    hypotheses = [item.model_dump() for item in results.suite.hypotheses]
    hypotheses.append({"id": "H4", "claim": "-", "metric": "AP", "a": "ce", "b": "base"})
    partial = report.load(fake_cells.write_run(tmp_path, fake_cells.suite(hypotheses=hypotheses), failed=[SED_1]))
    tested = report.verdicts(partial)[3].verdict
    assert tested is not None
    assert tested.level == pytest.approx(1 - 0.05 / 4)


def test_a_run_without_any_cell(tmp_path: Path) -> None:
    everything = [(label, seed) for label in fake_cells.DETECTORS for seed in (0, 1)]
    empty = report.load(fake_cells.write_run(tmp_path, fake_cells.suite(), missing=everything))
    assert all(not row.figures for row in report.table(empty))
    assert "| base | 0 of 1 (missing: 0) | – | – |" in report.to_markdown(empty)  # noqa: RUF001
    assert figures.available(empty) == []


# ---- what does not belong ----------------------------------------------------------------------------------------


def test_cells_of_older_settings_are_not_looked_at(tmp_path: Path, results: Results) -> None:
    fake_cells.write_run(tmp_path, fake_cells.suite(train={"steps": 480, "eval_at": [60, 120]}))
    fake_cells.write_run(tmp_path, fake_cells.suite())
    assert len(list((tmp_path / "cells").iterdir())) == 11  # four trained cells came twice
    assert report.to_csv(report.load(tmp_path)) == report.to_csv(results)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_cells.write_run(tmp_path_factory.mktemp("small"), fake_cells.suite(), images=8)


@pytest.fixture
def fresh(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "run"))


def test_tables_must_be_those_of_the_record(fresh: Path) -> None:
    cell = only_cell(fresh, "toy-ce-s0-*")
    other = only_cell(fresh, "toy-ce-s1-*")
    (cell / "detections.parquet").write_bytes((other / "detections.parquet").read_bytes())
    with pytest.raises(DataError, match=r"toy-ce-s0.*detections.parquet: missing, or not the file"):
        report.load(fresh)


def test_the_ap_must_follow_from_the_tables(fresh: Path) -> None:
    cell = only_cell(fresh, "toy-ce-s0-*")
    evaluations = json.loads((cell / RECORD).read_text())["evaluations"]
    evaluations[-1]["metrics"]["AP"] += 1e-6
    fake_cells.rewrite(cell, evaluations=evaluations)
    with pytest.raises(DataError, match=r"the tables give AP .* at step 240, record\.json says"):
        report.table(report.load(fresh))


@pytest.mark.parametrize("change", [{"label": "sed"}, {"suite": "other"}, {"model_label": "x"}, {"digest": "0" * 64}])
def test_a_record_of_another_cell(fresh: Path, change: dict[str, str]) -> None:
    fake_cells.rewrite(only_cell(fresh, "toy-ce-s0-*"), **change)
    with pytest.raises(DataError, match=r"record\.json: expected the cell"):
        report.load(fresh)


def test_settings_that_do_not_give_the_digest(fresh: Path) -> None:
    cell = only_cell(fresh, "toy-ce-s0-*")
    info = json.loads((cell / RECORD).read_text())["cell"]
    fake_cells.rewrite(cell, cell={**info, "score": "constant"})
    with pytest.raises(DataError, match=r"record\.json: expected the cell"):
        report.load(fresh)


def test_other_images_are_not_paired(fresh: Path) -> None:
    fake_cells.rewrite(only_cell(fresh, "toy-ce-s0-*"), image_ids=list(range(8)))
    with pytest.raises(DataError, match="evaluated on other images"):
        report.load(fresh)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("suite.json", None, "not found; expected the output folder of a run"),
        ("suite.json", '{"suite": "x"}', "suite.json: field benchmark"),
        ("cells.json", "[]", "expected the digests of the suite's 7 cells"),
        ("cells.json", "{", "expected a JSON list of digests"),
        ("cells.json", None, "expected a JSON list of digests"),
    ],
)
def test_a_folder_that_is_no_run(fresh: Path, name: str, text: str | None, message: str) -> None:
    (fresh / name).unlink()
    if text is not None:
        (fresh / name).write_text(text)
    with pytest.raises(DataError, match=message):
        report.load(fresh)


# ---- text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figure", "signed", "expected"),
    [
        (Interval(0.4123, 0.3913, 0.4333, 3), False, "0.412 ±0.021"),
        (Interval(-0.0001, -0.0101, 0.0099, 3), False, "0.000 ±0.010"),
        (Interval(0.05, 0.0, 0.1, 3), True, "+0.050 ±0.050"),
        (Interval(0.5, math.nan, math.nan, 1), False, "0.500"),
        (Interval(math.nan, math.nan, math.nan, 3), False, report.UNDEFINED),
        (Interval(1234.5678, 1200.0, 1269.0, 3), False, "1,235 ±34"),
    ],
)
def test_format_interval(figure: Interval, signed: bool, expected: str) -> None:
    assert report.format_interval(figure, signed) == expected


def test_csv_holds_every_figure(results: Results) -> None:
    lines = list(csv.DictReader(io.StringIO(report.to_csv(results))))
    assert len(lines) == 6 * (len(figure_names(4)) - len(ROLLOUT_COLUMNS))  # no stage draws samples
    (line,) = (item for item in lines if (item["row"], item["figure"]) == ("sed", "AP50"))
    figure = one(results, "sed").figures["AP50"]
    assert (line["model"], line["step"], line["seeds"]) == ("toy", "240", "2")
    assert [float(line[name]) for name in ("estimate", "low", "high")] == pytest.approx(
        [figure.estimate, figure.low, figure.high], abs=1e-6
    )


def test_undefined_is_empty_in_csv_and_a_dash_in_tables(tmp_path: Path) -> None:
    """A detector that finds nothing verifies nothing: no names to be diverse; its AP is 0, not undefined."""
    blind = fake_cells.DETECTORS | {"base": (fake_cells.Skill(0.0, 1.0),)}
    made = report.load(fake_cells.write_run(tmp_path, fake_cells.suite(), detectors=blind))
    lines = report.to_csv(made).splitlines()
    assert "toy,base,0,name_diversity,,,,1" in lines
    assert "toy,base,0,AP,0.000000,0.000000,0.000000,1" in lines
    shown = [[cell.text for cell in grid.rows[0]] for grid in report.grids(made)]
    assert shown[0] == ["base", "1", *["0.000 ±0.000"] * 5]
    assert shown[1] == ["base", "1", *["0.000 ±0.000"] * 2, report.UNDEFINED, report.UNDEFINED, "0.250 ±0.000"]


# ---- bold: what is best ------------------------------------------------------------------------------------------


def test_the_best_of_each_model_is_bold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`rows.best` counts within the rows that it is given: those of one model."""
    suite = fake_cells.suite(models=["toy", {"name": "toy", "label": "big"}])
    made = report.load(fake_cells.write_run(tmp_path, suite, images=8))

    def second(_: Results, given: list[rows.ReportRow], names: list[str]) -> dict[str, int]:
        assert len({row.model for row in given}) == 1
        return {name: 2 for name in names if name == "AP50"}

    monkeypatch.setattr(tables, "best", second)
    grid = tables.figure_grid(made, "Detection", report.table(made), ("AP", "AP50"))
    best = [(row[0].text, index) for row in grid.rows for index, cell in enumerate(row) if cell.best]
    assert best == [("toy: sed", 3), ("big: sed", 3)]


def test_what_is_bold_is_what_the_rows_say(results: Results) -> None:
    made = report.table(results)
    of_model = [row for row in made if row.model == "toy"]
    names = diversity_columns(4)
    expected = rows.best(results, of_model, names)
    assert "distinct_names" in expected  # 0.55 against 0.05 in evenness: no tie
    grid = next(grid for grid in report.grids(results) if grid.title.startswith("Diversity"))
    bold = {(names[index - 2], place) for place, row in enumerate(grid.rows) for index, c in enumerate(row) if c.best}
    assert bold == set(expected.items())


def test_bold_in_markdown_and_on_the_screen(results: Results) -> None:
    best = [cell.text for grid in report.grids(results) for row in grid.rows for cell in row if cell.best]
    assert best
    text, screen = report.to_markdown(results), rendered(results, styles=True)
    assert re.findall(r"\| \*\*(.*?)\*\* (?=\|)", text) == best
    assert all(re.search(rf"\x1b\[1m *{re.escape(cell)}\x1b\[0m", screen) for cell in best)  # padded where it is short
    assert "exclude a tie" in " ".join(report.caption(results))


def test_differences_have_signs_and_no_best(results: Results) -> None:
    (grid,) = (grid for grid in report.grids(results) if grid.title.startswith("Difference to base"))
    cells = [cell for row in grid.rows for cell in row[2:]]
    assert all(cell.text[0] in "+-" for cell in cells)
    assert not any(cell.best for cell in cells)


# ---- which tables there are --------------------------------------------------------------------------------------

OF_NEW_RECORDS = ("self_bleu", "consensus_AP", "consensus_AP50", "consensus_gain", "step_seconds", "peak_memory_mib")


def titles(results: Results) -> list[str]:
    return [grid.title.partition(" (")[0] for grid in report.grids(results)]


def test_tables_in_order(results: Results) -> None:
    assert titles(results) == [
        "Detection",
        "Diversity",
        "By frequency",
        "Faults",
        "Text and clusters",
        "Ways of answering",
        "Consensus of the K = 4 samples beside the greedy answer",
        "Temperature",
        "Cost of training",
        "Difference to base, paired",
        "Difference to ce at equal AP, paired",
        "Hypotheses",
    ]


def test_figures_that_no_row_has_are_left_out(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of older code: no self-BLEU, no consensus, no cost."""
    nothing = dict.fromkeys(OF_NEW_RECORDS, grid_parts.NOTHING)
    old = [replace(row, figures=row.figures | nothing) for row in report.table(results)]
    monkeypatch.setattr(tables, "table", lambda _: old)
    monkeypatch.setattr(results, "made", {})
    assert not {"Consensus of the K = 4 samples beside the greedy answer", "Cost of training"} & set(titles(results))
    (text,) = (grid for grid in report.grids(results) if grid.title.startswith("Text"))
    assert "self-BLEU" not in text.headings
    assert "order distance" in text.headings
    assert not text.note


def test_what_depends_on_the_number_of_samples_says_so(results: Results) -> None:
    assert "| self-BLEU | distinct-1 | distinct-2 | Vendi score |" in report.to_markdown(results)
    assert "Self-BLEU, Vendi score and cluster coverage grow with K" in report.to_markdown(results)


def test_the_gain_of_the_consensus_has_a_sign(results: Results) -> None:
    (grid,) = (grid for grid in report.grids(results) if grid.title.startswith("Consensus"))
    assert grid.headings[2:] == ("AP", "AP50", "consensus AP", "consensus AP50", "consensus gain")
    ce = next(row for row in grid.rows if row[0].text == "ce")
    assert ce[6].text[0] in "+-"
    assert ce[6].value == pytest.approx(ce[4].value - ce[2].value)


def test_one_line_per_row_and_temperature(results: Results) -> None:
    (grid,) = (grid for grid in report.grids(results) if grid.title == "Temperature")
    assert [(row[0].text, row[1].text) for row in grid.rows] == [
        (label, heat) for label in ("base", "ce", "sed") for heat in ("0.5", "1", "2")
    ]
    place = grid.headings.index("recall")
    line = next(row for row in grid.rows if (row[0].text, row[1].text) == ("ce", "1"))
    assert line[place].text == report.format_interval(one(results, "ce").figures["recall"])


def test_categories_on_few_images_are_left_out_of_text(results: Results) -> None:
    """Of the five categories the cross is rare: too few of the 30 images show one."""
    truth = fake_cells.make_examples(30)
    images = [sum(any(i.category_id == c.id for i in e.instances) for e in truth) for c in fake_cells.CATEGORIES]
    assert [count >= REPORTABLE for count in images] == [True, True, True, True, False]
    shown = {grid.title: grid for grid in report.category_grids(results)}
    assert list(shown) == ["Per category: AP", "Per category: recall", "Per category: name diversity"]
    grid = shown["Per category: recall"]
    assert [row[0].text for row in grid.rows] == ["disc", "box", "star", "ring"]
    assert [row[2].value for row in grid.rows] == images[:4]
    assert grid.headings[3:] == ("base", "ce", "sed", "oracle-uniform", "oracle-collapsed")
    everything = {grid.title: grid for grid in report.category_grids(results, everything=True)}
    assert [row[0].text for row in everything["Per category: recall"].rows][-1] == "cross"
    named = [row[0].text for row in everything["Per category: name diversity"].rows]
    assert named == ["disc", "box", "ring", "cross"]  # a star has one name
    assert "Per category" not in report.to_markdown(results)
    assert "### Per category: recall" in report.to_markdown(results, per_category=True)


def test_category_csv_holds_every_category(results: Results) -> None:
    lines = list(csv.DictReader(io.StringIO(report.to_category_csv(results))))
    assert len(lines) == 5 * 5 * len(CATEGORY_COLUMNS)  # rows with cells of their own, categories, figures
    (line,) = (item for item in lines if (item["row"], item["category"], item["figure"]) == ("ce", "cross", "recall"))
    assert (line["frequency"], line["reportable"], line["seeds"]) == ("r", "0", "2")
    points = []
    for key in results.keys("toy", "ce"):
        frame = results.tables(key).images
        of_category = frame[(frame["step"] == 240) & (frame["temperature"] == 1.0) & (frame["category_id"] == 5)]
        assert int(line["images"]) == len(of_category)
        points.append(sum(map(sum, of_category["verified"])) / (4 * of_category["instances"].sum()))
    assert float(line["estimate"]) == pytest.approx(np.mean(points), abs=1e-6)


def test_every_figure_has_a_definition_and_every_definition_a_figure() -> None:
    named = {re.sub(r"@\d+$", "@k", name.partition("/")[0]) for name in figure_names(4)}
    assert set(MEANINGS) == named


@given(numbers=st.integers(1, 40), words=st.integers(1, 4), columns=st.integers(1, 12))
def test_splitting_a_table_keeps_every_column_once(numbers: int, words: int, columns: int) -> None:
    headings = tuple(map(str, range(words + numbers)))
    grid = grid_parts.Grid("t", headings, (tuple(map(grid_parts.GridCell, headings)),), words)
    parts = list(grid_parts.split(grid, columns))
    assert all(part.headings[:words] == headings[:words] for part in parts)
    assert sum((part.headings[words:] for part in parts), ()) == headings[words:]
    assert all(tuple(cell.text for cell in part.rows[0]) == part.headings for part in parts)
    widths = [len(part.headings) - words for part in parts]
    assert max(widths) <= columns
    assert max(widths) - min(widths) <= 1
    assert len(parts) == math.ceil(numbers / columns)
    assert [part.title for part in parts] == ["t", *["t (continued)"] * (len(parts) - 1)]


# ---- captions and labels -----------------------------------------------------------------------------------------


def test_caption_says_what_was_measured(results: Results) -> None:
    text = " ".join(report.caption(results))
    for part in (
        "30 validation images; K = 4 samples at temperature 1; seeds 0, 1.",
        "Scores: category (oracles: constant); evaluator hotcoco 1.3.1.",
        "1,000 bootstrap replicates",
        "commit 0123456789ab;",
    ):
        assert part in text
    assert "With one seed" not in text
    assert "sampled once for all seeds: their intervals cover the choice of images only" in text
    assert "dirty" not in text


def test_caption_of_one_seed_and_dirty_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fake_cells.CODE, "dirty", True)
    text = " ".join(report.caption(report.load(fake_cells.write_run(tmp_path, fake_cells.suite(seeds=[3]), images=8))))
    assert "With one seed an interval covers the choice of images only" in text
    assert "commit 0123456789ab (dirty: tracked files differ from it)" in text


def test_labels_are_shown_as_they_are(tmp_path: Path) -> None:
    label = "<script>|*x*"
    suite = fake_cells.suite(
        objectives=[{"name": "ce", "label": label}],
        early_stops=[],
        hypotheses=[],
        models=[{"name": "m", "label": "[b]m"}],
    )
    made = report.load(
        fake_cells.write_run(
            tmp_path, suite, images=8, detectors=fake_cells.DETECTORS | {label: fake_cells.DETECTORS["ce"]}
        )
    )
    assert r"| \<script\>\|\*x\* |" in report.to_markdown(made)
    assert label in rendered(made)


def rendered(results: Results, per_category: bool = False, styles: bool = False) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.to_console(results, per_category))
    return console.export_text(styles=styles)


def test_the_summary_fits_80_columns_and_has_the_verdicts(results: Results) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.to_summary(results))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    shown = text.split()
    summary, verdicts = tables.summary_grids(results)
    assert summary.headings == ("row", "seeds", "AP", "recall", "coverage@4", "name diversity", "unique name sequences")
    detection = report.grids(results)[0]
    assert [row[2].text for row in summary.rows] == [row[2].text for row in detection.rows]  # AP of every row
    assert verdicts == report.grids(results)[-1]
    for row in summary.rows:
        assert all(part in shown for cell in row for part in cell.text.split())


def test_console_fits_120_columns(results: Results) -> None:
    text = rendered(results, per_category=True)
    assert max(map(len, text.splitlines())) <= 120
    assert "…" not in text
    shown = text.split()
    for grid in report.grids(results) + report.category_grids(results):
        for row in grid.rows:
            assert all(part in shown for cell in row for part in cell.text.split())


def test_several_models_have_their_own_rows_and_share_the_oracles(tmp_path: Path) -> None:
    suite = fake_cells.suite(models=["toy", {"name": "toy", "label": "big"}])
    made = report.load(fake_cells.write_run(tmp_path, suite, images=8))
    assert [(row.model, row.label) for row in report.table(made)] == [
        *((model, label) for model in ("toy", "big") for label in ("base", "ce", "sed", "ce_early")),
        ("oracle-uniform", "oracle-uniform"),
        ("oracle-collapsed", "oracle-collapsed"),
    ]
    assert [(item.hypothesis.id, item.model) for item in report.verdicts(made)[:2]] == [("H1", "toy"), ("H1", "big")]
    assert "| big: ce | 2 |" in report.to_markdown(made)


def test_a_suite_that_trains_nothing_has_no_differences(tmp_path: Path) -> None:
    suite = fake_cells.suite(objectives=[], early_stops=[], hypotheses=[], seeds=[0])
    text = report.to_markdown(report.load(fake_cells.write_run(tmp_path, suite, images=8)))
    assert "Difference to base" not in text
    assert "Bold" not in text
