"""Rows, and what is told about them, from simulated cells."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import DataError
from harness.metrics.catalogue import CATEGORY_COLUMNS, COST_COLUMNS, direction, figure_names
from harness.metrics.stats import interval
from harness.report.results import Key, Results, load
from harness.report.rows import best, category_lines, differences, figures_of, table, temperature_lines
from harness.report.verdicts import verdicts
from harness.system import files
from tests.support import fake_cells

HOT = {"label": "ce_hot", "objective": "ce", "temperature": 2.0}


def run(folder: Path, **changes: Any) -> Results:
    return load(fake_cells.write_run(folder, fake_cells.suite(**changes)))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run(tmp_path_factory.mktemp("fake"), resampled=[HOT], seeds=[0, 1, 2])


def test_rows_of_other_cells_come_after_the_objectives(results: Results) -> None:
    titles = [row.title for row in table(results)]
    assert titles == [
        *("base", "ce", "sed", "ce_early (at the AP of sed)", "ce_hot (T = 2)", "oracle-uniform", "oracle-collapsed")
    ]


def test_another_temperature_is_of_the_same_cells(results: Results) -> None:
    """The greedy answer is the same, the samples are not; the simulated detector finds half as much at T = 2."""
    rows = {row.label: row.figures for row in table(results)}
    assert rows["ce_hot"]["AP"] == rows["ce"]["AP"]
    assert rows["ce_hot"]["recall"].estimate == pytest.approx(rows["ce"]["recall"].estimate / 2, abs=0.05)
    lines = {(line.label, line.temperature): line.figures for line in temperature_lines(results)}
    assert lines.keys() == {(label, heat) for label in ("base", "ce", "sed") for heat in (0.5, 1.0, 2.0)}
    assert lines["ce", 1.0]["recall"] == rows["ce"]["recall"]
    assert lines["ce", 2.0]["recall"] == rows["ce_hot"]["recall"]


def test_the_one_base_is_paired_with_every_seed(results: Results) -> None:
    """The difference of each seed to the same cell, and its replicates over the same images."""
    name, (base,), keys = "name_diversity", results.keys("toy", "base"), results.keys("toy", "sed")
    points = np.array([results.points(key, 240)[name] - results.points(base, 0)[name] for key in keys])
    replicates = np.stack([results.replicates(key, 240)[name] - results.replicates(base, 0)[name] for key in keys])
    (change,) = (row for row in differences(results) if row.label == "sed")
    assert change.figures[name] == interval(points, replicates)
    assert change.seeds == (0, 1, 2)


def test_results_with_a_base_for_every_seed_stay_readable(tmp_path: Path) -> None:
    suite = fake_cells.suite(seeds=[0, 1])
    made = load(fake_cells.write_run(tmp_path, suite, images=8, untrained=suite.seeds))
    assert [row.seeds for row in table(made)] == [(0, 1)] * 6
    base, sed = made.keys("toy", "base"), made.keys("toy", "sed")
    pairs = zip(base, sed, strict=True)
    gaps = [made.points(b, 240)["name_diversity"] - made.points(a, 0)["name_diversity"] for a, b in pairs]
    (change,) = (row for row in differences(made) if row.label == "sed")
    assert change.figures["name_diversity"].estimate == pytest.approx(np.mean(gaps))


def test_one_temperature_makes_no_lines(tmp_path: Path) -> None:
    assert temperature_lines(run(tmp_path, sample={"samples": 4})) == []


def test_best_is_told_only_where_a_tie_is_excluded(results: Results) -> None:
    rows = table(results)
    winners = best(results, rows, figure_names(results.samples))
    labels = {name: rows[index].label for name, index in winners.items()}
    assert labels["name_diversity"] == "sed"  # 0.55 evenness against 0.05
    assert labels["step_seconds"] == "ce"  # 2% less, the same in every replicate
    for name, index in winners.items():
        (other,) = (row for row in rows if row.label in ("ce", "sed") and row is not rows[index])
        gap = direction(name) * (rows[index].figures[name].estimate - other.figures[name].estimate)
        assert gap > 0
    # A paired interval that holds 0 leaves both plain.
    keys = {label: results.keys("toy", label) for label in ("ce", "sed")}
    for name in ("AP", "recall", "name_diversity"):
        points = [np.array([results.points(key, 240)[name] for key in keys[label]]) for label in keys]
        replicates = [np.stack([results.replicates(key, 240)[name] for key in keys[label]]) for label in keys]
        gap_interval = interval(points[0] - points[1], replicates[0] - replicates[1])
        assert (name in winners) == (not gap_interval.low <= 0 <= gap_interval.high)


def test_an_incomplete_row_is_never_best(tmp_path: Path) -> None:
    suite = fake_cells.suite(seeds=[0, 1, 2])
    folder = fake_cells.write_run(tmp_path, suite, missing=[("sed", 1)])
    incomplete = load(folder)
    assert best(incomplete, table(incomplete), ["name_diversity"]) == {}  # nothing is left to be better than


def test_categories_average_to_the_table(results: Results) -> None:
    lines = {line.label: line for line in category_lines(results)}
    assert lines.keys() == {"base", "ce", "sed", "oracle-uniform", "oracle-collapsed"}
    rows = {row.label: row.figures for row in table(results)}
    for label, line in lines.items():
        for name in CATEGORY_COLUMNS:
            # of one seed a mean over categories; the mean over seeds commutes with it where none is undefined
            values = [figures[name].estimate for figures in line.figures.values()]
            defined = [value for value in values if not math.isnan(value)]
            assert np.mean(defined) == pytest.approx(rows[label][name].estimate, abs=0.05)
    instances = sum(len({i.category_id for i in e.instances}) for e in fake_cells.make_examples(30))
    assert sum(lines["ce"].support.values()) == instances
    oracle = lines["oracle-uniform"].figures
    assert [round(figures["AP"].estimate, 9) for figures in oracle.values()] == [1.0] * 5
    assert math.isnan(oracle[3]["name_diversity"].estimate)  # star has no other name


def test_figures_of_a_row_elsewhere(results: Results) -> None:
    early = figures_of(results, "toy", "ce", ["AP", "consensus_AP"], step=60)
    assert early["AP"].estimate < table(results)[1].figures["AP"].estimate
    assert math.isnan(early["consensus_AP"].estimate)  # made at the last step alone
    assert figures_of(results, "toy", "base", ["AP"], step=0)["AP"] == table(results)[0].figures["AP"]


def test_cost_comes_from_the_record(results: Results) -> None:
    """ce: 0.1 s a step in the simulated curve, sed 2% more."""
    rows = {row.label: row.figures for row in table(results)}
    assert rows["ce"]["step_seconds"].estimate == pytest.approx(0.1)
    difference = rows["sed"]["log_step_seconds"].estimate - rows["ce"]["log_step_seconds"].estimate
    assert difference == pytest.approx(math.log(1.02))
    assert all(math.isnan(rows["base"][name].estimate) for name in COST_COLUMNS)  # nothing was trained


def test_a_hypothesis_about_cost(tmp_path: Path) -> None:
    stated = {"id": "C", "claim": "2% is under 5%", "metric": "log_step_seconds", "a": "sed", "b": "ce"}
    made = run(tmp_path, hypotheses=[{**stated, "direction": "less", "margin": 0.05}])
    (finding,) = verdicts(made)
    assert finding.verdict is not None
    assert finding.verdict.outcome == "supported"


def test_every_named_figure_is_estimated_and_no_other_is_named(results: Results) -> None:
    names = figure_names(results.samples)
    assert len(set(names)) == len(names)
    assert set(names) <= results.points(Key("toy", "ce", 0), 240).keys()


def test_records_of_older_code_leave_new_figures_undefined(tmp_path: Path) -> None:
    """Their tables know one temperature, no names by sample, no text figures, and no consensus."""
    folder = fake_cells.write_run(tmp_path, fake_cells.suite(sample={"samples": 4}))
    new = [
        *("temperature", "names", "present", "choices", "verified_mentions", "neutral_mentions"),
        *("self_bleu", "distinct_1", "distinct_2", "vendi", "distinct_ways", "way_diversity"),
    ]
    fresh = table(load(folder))
    for cell in (folder / "cells").iterdir():
        fake_cells.drop_columns(cell, {"images": new, "detections": ["temperature"]}, of_consensus=True)
    for before, after in zip(fresh, table(load(folder)), strict=True):
        for name in ("AP", "recall", "name_diversity", "distinct_names", "duplicate_rate", "box_spread"):
            assert after.figures[name] == pytest.approx(before.figures[name], nan_ok=True)
        for name in ("self_bleu", "way_diversity", "consensus_AP", "cluster_coverage", "distinct_names@2", "precision"):
            assert math.isnan(after.figures[name].estimate)


def test_tables_of_another_cell_are_noticed(tmp_path: Path) -> None:
    folder = fake_cells.write_run(tmp_path, fake_cells.suite())
    ce, sed = (next((folder / "cells").glob(f"toy-{label}-s0-*")) for label in ("ce", "sed"))
    for name in ("images.parquet", "detections.parquet"):
        (ce / name).write_bytes((sed / name).read_bytes())
    fake_cells.rewrite(ce, files={path.name: files.sha256(path) for path in ce.glob("*.parquet")})
    with pytest.raises(DataError, match="do not belong together"):
        table(load(folder))


def test_a_peak_of_older_records_is_not_shown(tmp_path: Path) -> None:
    """It depended on what the process had computed before."""
    run = fake_cells.write_run(tmp_path, fake_cells.suite(seeds=[0]), images=8)
    (cell,) = (run / "cells").glob("toy-ce-*")
    assert figures_of(load(run), "toy", "ce", ["peak_memory_mib"])["peak_memory_mib"].estimate == 902.0
    fake_cells.rewrite(cell, own_peak_mib=None, peak_memory_mib=902.0)
    assert np.isnan(figures_of(load(run), "toy", "ce", ["peak_memory_mib"])["peak_memory_mib"].estimate)
