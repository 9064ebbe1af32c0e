"""Hypotheses that compare the rows of two models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import ConfigError
from harness.metrics.stats import interval
from harness.report.grids.tables import grids
from harness.report.power import power_grids, prospects, run_sizes, with_hypotheses
from harness.report.renderers.text import markdown
from harness.report.results import Key, Results, load
from harness.report.rows import at_ap_of, stacked
from harness.report.verdicts import stated_tests, verdicts
from harness.suite.schema import Hypothesis
from tests.support import fake_cells, small

STATED: dict[str, Any] = {"claim": "-", "metric": "name_diversity"}
BETWEEN = {**STATED, "id": "B", "a": "big/sed", "b": "toy/ce"}
EQUAL = {**STATED, "id": "E", "a": "big/sed", "b": "toy/ce", "at": "equal_AP"}
BIG = {"name": "toy", "label": "big"}
EACH = {**STATED, "id": "M", "a": "sed", "b": "ce"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two models, of which the second one finds less."""
    folder = tmp_path_factory.mktemp("run")
    stated: dict[str, Any] = {"hypotheses": [BETWEEN, EQUAL, EACH], "early_stops": []}
    weaker = {
        label: [replace(skill, recall=0.6 * skill.recall) for skill in skills] if label in ("ce", "sed") else skills
        for label, skills in fake_cells.DETECTORS.items()
    }
    fake_cells.write_run(folder, fake_cells.suite(models=[BIG], **stated), images=20, detectors=weaker)
    cells = {path: path.read_bytes() for path in folder.glob("cells/big-*/*")}
    fake_cells.write_run(folder, fake_cells.suite(models=["toy", BIG], **stated), images=20)
    for path, content in cells.items():
        path.write_bytes(content)
    return load(folder)


def test_the_difference_is_that_of_the_two_rows_seed_by_seed(results: Results) -> None:
    step = results.steps("big", "sed")[-1]
    points, replicates = [], []
    for seed in (0, 1):
        keys = Key("big", "sed", seed), Key("toy", "ce", seed)
        a, b = (results.points(key, step)["name_diversity"] for key in keys)
        points.append(a - b)
        a_drawn, b_drawn = (results.replicates(key, step)["name_diversity"] for key in keys)
        replicates.append(a_drawn - b_drawn)
    between, _, *each = stated_tests(results)
    assert (between.model, [finding.model for finding in each]) == (None, ["toy", "big"])
    assert between.test.points.tolist() == points
    assert interval(between.test.points, between.test.replicates) == interval(np.array(points), np.array(replicates))
    assert all(not np.allclose(between.test.points, finding.test.points, atol=1e-3) for finding in each)


def test_at_equal_ap_it_is_the_other_models_ap(results: Results) -> None:
    _, equal, *_ = stated_tests(results)
    other = at_ap_of(results, "toy", "ce", "sed", target_model="big")
    row = at_ap_of(results, "toy", "ce", "sed")
    assert other.at_ap_of is not None
    assert (other.model, other.at_ap_of.model) == ("toy", "big")
    b, _ = stacked(results, other, (0, 1), "name_diversity")
    a = [results.points(Key("big", "sed", seed), 240)["name_diversity"] for seed in (0, 1)]
    assert equal.test.points.tolist() == pytest.approx((np.array(a) - b).tolist())
    assert stacked(results, row, (0, 1), "name_diversity")[0].tolist() != b.tolist()
    assert equal.gap is not None


def test_it_counts_once_and_is_shown_without_a_model(results: Results) -> None:
    made = verdicts(results)
    assert [item.hypothesis.id for item in made] == ["B", "E", "M", "M"]
    (grid,) = [text for text in map(markdown, grids(results)) if "Hypotheses" in text]
    assert r"| B | - | name_diversity: big/sed - toy/ce \> 0 |" in grid
    assert "| big: M |" in grid
    titles = [grid.title for grid in power_grids(results)]
    assert any(title.startswith("B: name_diversity of big/sed - toy/ce") for title in titles)
    assert any(title.startswith("M (big): ") for title in titles)


def test_a_planned_hypothesis_names_rows_and_models_of_the_run(results: Results) -> None:
    planned = results.suite.model_copy(update={"hypotheses": (Hypothesis(**BETWEEN),)})
    assert len(prospects(with_hypotheses(results, planned), run_sizes(results)[:1])) == 1
    wrong = results.suite.model_copy(update={"hypotheses": (Hypothesis(**{**BETWEEN, "a": "bgi/sedd"}),)})
    with pytest.raises(ConfigError) as caught:
        with_hypotheses(results, wrong)
    assert [problem.split(";")[0].split(",")[0] for problem in caught.value.problems] == [
        "unknown row of the run 'sedd'",
        "unknown model of the run 'bgi'",
    ]


def test_missing_cells_are_told(tmp_path: Path) -> None:
    suite = fake_cells.suite(models=["toy", BIG], hypotheses=[BETWEEN], early_stops=[])
    made = load(fake_cells.write_run(tmp_path, suite, images=8, missing=[("sed", 1)]))
    (finding,) = verdicts(made)
    assert finding.missing == ("big sed seed 1",)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("smal/ce", "large/ce", "hypothesis H: unknown model label 'smal', did you mean 'small'"),
        ("small/cee", "large/ce", "hypothesis H: unknown row 'cee', did you mean 'ce'"),
        ("small/ce", "ce", "hypothesis H: expected MODEL/ROW for both of a and b, or a row for both, got small/ce, ce"),
    ],
)
def test_mistakes(a: str, b: str, expected: str) -> None:
    models = [{"name": "open_flamingo", "label": label, "weights": "random"} for label in ("small", "large")]
    assert small.mini_suite(models=models, hypotheses=[{**STATED, "id": "H", "a": "small/ce", "b": "large/ce"}])
    with pytest.raises(ConfigError) as caught:
        small.mini_suite(models=models, hypotheses=[{**STATED, "id": "H", "a": a, "b": b}])
    (problem,) = caught.value.problems
    assert problem.removeprefix("mini.yaml: ").startswith(expected)
