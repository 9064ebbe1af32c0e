"""Paths of which some steps were evaluated on fewer images: everything beside them is read over the same images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.records import EvaluationInfo
from harness.report.estimates import CellTables, Floats, estimate
from harness.report.paths import interpolate_path, on_same_images
from harness.report.results import Key, Results, load
from harness.report.rows import at_ap_of, compare_rows, sources
from harness.report.verdicts import stated_tests
from harness.suite.train_settings import early_places

QUICKSTART = Path(__file__).parents[2] / "results" / "quickstart"
NUMBER = 100


@pytest.fixture(scope="module")
def results() -> Results:
    """The quickstart, as if CE's steps before the last had been evaluated on NUMBER images."""
    whole = load(QUICKSTART)
    records, tables = dict(whole.records), {}
    for key, record in whole.records.items():
        if key.label != "ce":
            continue
        asked = {record.image_ids[place] for place in early_places(whole.images, NUMBER)}
        old, last = whole.tables(key), record.steps[-1]
        images, detections = (
            frame[(frame["step"] == last) | frame["image_id"].isin(asked)] for frame in (old.images, old.detections)
        )
        records[key] = record.model_copy(update={"evaluations": tuple(map(on_fewer, record.evaluations))})
        tables[key] = CellTables(records[key], images, detections)
        exact = [
            evaluation.model_copy(update={"metrics": {**evaluation.metrics, "AP": ap_of(tables[key], evaluation.step)}})
            for evaluation in records[key].evaluations[:-1]
        ]
        records[key] = record.model_copy(update={"evaluations": (*exact, record.evaluations[-1])})
        tables[key] = replace(tables[key], record=records[key])
    return replace(whole, records=records, cache=None, made={}, _tables=tables, _estimates={})


def on_fewer(evaluation: EvaluationInfo) -> EvaluationInfo:
    return evaluation if evaluation.step == 240 else evaluation.model_copy(update={"images": NUMBER})


def ap_of(tables: CellTables, step: int) -> float:
    return float(estimate(tables, step, 1.0).figures["AP"][0])


def figure(results: Results, key: Key, step: int, name: str) -> Floats:
    """Straight from the tables, [1 + R], the other images counting nothing."""
    counts = np.zeros(results.images)
    counts[early_places(results.images, NUMBER)] = 1
    return estimate(results.tables(key), step, results.temperature, results.weights * counts).figures[name]


def test_fewer_images_are_some_of_more() -> None:
    assert set(early_places(50, 10)) < set(early_places(50, 20))
    assert sorted(early_places(50, 50)) == list(range(50))


def test_a_path_and_what_it_is_compared_with_are_over_its_early_images(results: Results) -> None:
    control = at_ap_of(results, "open_flamingo", "ce", "sed_sft")
    row = next(source for source in sources(results) if source.label == "sed_sft")
    row, control = on_same_images(row, control)
    assert control.at_ap_of is not None
    assert control.base is not None
    assert {source.early_images for source in (row, control, control.at_ap_of, control.base)} == {NUMBER}


def test_the_difference_at_equal_ap_is_made_of_these_images_alone(results: Results) -> None:
    (stated,) = [test for test in stated_tests(results) if test.hypothesis.id == "H3"]
    for place, seed in enumerate(results.suite.seeds):
        ce, sed, base = (Key("open_flamingo", label, seed) for label in ("ce", "sed_sft", "base"))
        steps = [(base, 0), *((ce, step) for step in results.records[ce].steps)]
        ap, diversity = (
            np.stack([figure(results, key, step, name) for key, step in steps]) for name in ("AP", "name_diversity")
        )
        last = results.records[sed].steps[-1]
        target = figure(results, sed, last, "AP")
        expected = figure(results, sed, last, "name_diversity") - interpolate_path(ap, diversity, target)
        np.testing.assert_allclose(stated.test.points[place], expected[0], atol=1e-12)
        np.testing.assert_allclose(stated.test.replicates[place], expected[1:], atol=1e-12)


def test_tables_of_the_last_step_are_over_all_images(results: Results) -> None:
    row = next(source for source in sources(results) if source.label == "ce")
    assert row.early_images is None
    figures = compare_rows(results, row, ["AP"]).figures
    assert figures["AP"].estimate == pytest.approx(
        np.mean([results.points(key, row.step or 0)["AP"] for key in row.cells])
    )
