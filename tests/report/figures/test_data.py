"""What the figures show, taken from the tables of runs that never ran."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.metrics.recorded import PROBE
from harness.metrics.samples.aggregate import REPORTABLE
from harness.metrics.stats import Interval, interval
from harness.report import estimates, figures
from harness.report.figures import data, lines
from harness.report.figures.data import Line
from harness.report.paths import interpolate_path
from harness.report.results import Key, Results, load
from harness.report.rows import figures_of, path_of, path_source, temperature_lines
from tests.report.figures.gallery import WITHOUT_GALLERY, seed_means
from tests.support import fake_cells


def test_trajectories_are_seed_means_at_every_step(results: Results) -> None:
    by_label = {item.label: item for item in data.trajectories(results, "toy")}
    assert list(by_label) == ["base", "ce", "sed"]
    assert (by_label["base"].steps, by_label["ce"].steps) == ((0,), (60, 120, 240))
    assert by_label["ce"].ap == pytest.approx([seed_means(results, "ce", step, "AP") for step in (60, 120, 240)])
    last = figures_of(results, "toy", "ce", ("name_diversity", "AP"))
    assert by_label["ce"].last == (last["name_diversity"], last["AP"])
    assert by_label["ce"].diversity[-1] == last["name_diversity"].estimate


def test_the_frontier_is_read_off_the_paths(results: Results) -> None:
    """It begins and ends at the smallest and largest mean AP of a row's path, and has the figures of that row there."""
    by_label = {line.label: line for line in data.frontier_lines(results, "toy")}
    assert list(by_label) == ["ce", "sed"]
    line = by_label["sed"]
    path = [
        seed_means(results, label, step, "AP") for label, step in (("base", 0), *(("sed", s) for s in (60, 120, 240)))
    ]
    assert (line.x[0], line.x[-1]) == pytest.approx((min(path), max(path)))
    target = np.full(1001, line.x[5])
    source = path_source(results, "toy", "sed")
    each = [
        interpolate_path(path_of(results, source, s, "AP"), path_of(results, source, s, "name_diversity"), target)
        for s in (0, 1)
    ]
    expected = interval(np.array([of_seed[0] for of_seed in each]), np.array([of_seed[1:] for of_seed in each]))
    assert (line.y[5], line.low[5], line.high[5]) == pytest.approx((expected.estimate, expected.low, expected.high))


def test_coverage_lines_are_the_figures_and_the_oracles_find_everything(results: Results) -> None:
    by_label = {line.label: line for line in data.coverage_lines(results, "toy")}
    assert list(by_label) == ["base", "ce", "sed", "oracle-uniform", "oracle-collapsed"]
    assert all(line.x == (1, 2, 3, 4) for line in by_label.values())
    assert by_label["oracle-uniform"].y == by_label["oracle-collapsed"].y == pytest.approx([1] * 4)
    assert by_label["sed"].y == pytest.approx([seed_means(results, "sed", 240, f"coverage@{k}") for k in (1, 2, 3, 4)])
    third = figures_of(results, "toy", "sed", ["coverage@3"])["coverage@3"]
    assert (by_label["sed"].low[2], by_label["sed"].high[2]) == (third.low, third.high)
    assert list(by_label["sed"].y) == sorted(by_label["sed"].y)  # more samples never find less


def test_heat_lines_are_the_figures_at_each_temperature(results: Results) -> None:
    by_name = data.heat_lines(results, "toy")
    assert list(by_name) == ["recall", "precision", "name_diversity"]
    for name, drawn in by_name.items():
        assert [line.label for line in drawn] == ["base", "ce", "sed"]
        assert all(line.x == (0.5, 1.0, 2.0) for line in drawn)
        expected = [seed_means(results, "sed", 240, name, heat) for heat in (0.5, 1.0, 2.0)]
        assert drawn[2].y == pytest.approx(expected)
    assert len(temperature_lines(results)) == 9


def test_one_temperature_makes_no_curve(tmp_path: Path) -> None:
    made = load(fake_cells.write_run(tmp_path, fake_cells.suite(sample={"samples": 4}), images=5))
    assert data.heat_lines(made, "toy") == {}
    assert "temperature" not in figures.available(made)


def test_clouds_are_the_reportable_categories_by_training_count(results: Results) -> None:
    clouds = {cloud.label: cloud for cloud in data.clouds(results, "toy")}
    assert list(clouds) == ["base", "ce", "sed"]
    keys = results.finished("toy", "sed")
    estimated = [estimates.estimate(results.tables(key), 240, 1.0) for key in keys]
    each, support = [estimate.categories["name_diversity"][0] for estimate in estimated], estimated[0].support
    drawn = [i for i in range(5) if support[i] >= REPORTABLE and len(fake_cells.CATEGORIES[i].names) > 1]
    assert 2 <= len(drawn) < 4  # of the four that leave a choice of the name, at least one is too rare to report
    expected = {1000 // (i + 1) ** 2: (each[0][i] + each[1][i]) / 2 for i in drawn}
    assert clouds["sed"].train_images == tuple(sorted(expected))
    assert clouds["sed"].diversity == pytest.approx([expected[count] for count in sorted(expected)])


def test_medians_of_bins_by_hand() -> None:
    """Nine points, four a bin at least: two bins of five and four. Medians of x 1..5 and 6..9: 3 and 7.5; of y
    (5, 1, 4, 2, 3) and (9, 6, 8, 7): 3 and 7.5. Three points are one bin."""
    made = data.middle("a", (1, 2, 3, 4, 5, 6, 7, 8, 9), (5, 1, 4, 2, 3, 9, 6, 8, 7))
    assert made == Line("a", (3, 7.5), (3, 7.5))
    assert data.middle("a", (1, 2, 9), (4, 6, 5)) == Line("a", (2,), (5,))
    many = tuple(map(float, range(100)))
    assert len(data.middle("a", many, many).x) == 8


def test_unknown_training_counts_draw_no_clouds(results: Results) -> None:
    """As in records of older code."""
    older = {
        key: record.model_copy(
            update={"categories": tuple(item.model_copy(update={"train_images": None}) for item in record.categories)}
        )
        for key, record in results.records.items()
    }
    assert data.clouds(replace(results, records=older), "toy") == []


def test_training_lines_are_seed_means_of_what_was_logged(results: Results) -> None:
    logs = [results.records[Key("toy", "sed", seed)].curve for seed in (0, 1)]
    by_name = data.training_lines(results, "toy")
    line = next(line for line in by_name["p_y"] if line.label == "sed")
    assert list(zip(line.x, line.y, strict=True)) == [
        (a["step"], (a["p_y"] + b["p_y"]) / 2) for a, b in zip(*logs, strict=True)
    ]
    assert [line.label for line in by_name["selected"]] == ["sed"]
    assert by_name["heldout_nll"][0].x == (0, 60, 120, 240)


def test_probe_lines_are_seed_means_where_every_seed_saw_something(results: Results) -> None:
    first, second = (results.records[Key("toy", "sed", seed)] for seed in (0, 1))
    by_name = data.probe_lines(results, "toy")
    assert list(by_name) == [measure.name for measure in PROBE]
    line = next(line for line in by_name["name_diversity"] if line.label == "sed")
    assert line.x == (0, 60, 120, 180, 240)
    pairs = zip(first.probe, second.probe, strict=True)
    assert line.y == pytest.approx([(a["name_diversity"] + b["name_diversity"]) / 2 for a, b in pairs])
    blind = tuple(row | {"name_diversity": None} if row["step"] == 60 else row for row in second.probe)
    partly = replace(
        results, records=results.records | {Key("toy", "sed", 1): second.model_copy(update={"probe": blind})}
    )
    line = next(line for line in data.probe_lines(partly, "toy")["name_diversity"] if line.label == "sed")
    assert line.x == (0, 120, 180, 240)


def test_paths_leave_out_what_is_undefined() -> None:
    across = [Line("a", (1, 2, 3), (0.1, math.nan, 0.3)), Line("b", (1,), (math.nan,))]
    up = [Line("a", (1, 2, 3), (0.7, 0.8, 0.9)), Line("b", (1,), (0.5,))]
    assert lines.paths(across, up) == [Line("a", (0.1, 0.3), (0.7, 0.9))]


def test_the_data_are_json_values(results: Results) -> None:
    made = figures.drawn(results)
    assert list(made) == [*WITHOUT_GALLERY, "gallery"]
    assert figures.plain((Interval(math.nan, 1 / 3, -1e-9, 2), {"a": [True, None]})) == [
        {"estimate": None, "low": 0.333333, "high": 0.0, "seeds": 2},
        {"a": [True, None]},
    ]
