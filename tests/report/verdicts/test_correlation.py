"""Hypotheses about the correlation of a figure before a chain's last stage with what that stage gains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import ConfigError
from harness.metrics.stats import pearson
from harness.report.power import power_grids
from harness.report.renderers.text import to_markdown
from harness.report.results import Results, load
from harness.report.verdicts import stated_tests, verdicts
from tests.support import fake_cells, small
from tests.support.fake_cells import Skill

THEN = {"name": "grpo", "steps": 60}
LABELS = ("ce", "sed", "gem")
DETECTORS = {
    **fake_cells.DETECTORS,
    "ce": (Skill(0.40, 0.05, 2.0), Skill(0.42, 0.05, 1.9)),
    "gem": (Skill(0.45, 0.35, 2.0), Skill(0.63, 0.30, 1.6)),
    "sed": (Skill(0.50, 0.75, 2.0), Skill(0.94, 0.70, 1.2)),
}
STATED: dict[str, Any] = {
    "id": "R8",
    "claim": "diversity before predicts the gain",
    "metric": "AP_gain",
    "predictor": "name_diversity",
    "rows": [*LABELS],
    "margin": 0.3,
}


SUITE: dict[str, Any] = {
    "objectives": [
        {"name": "ce", "then": THEN},
        {"name": "sed_sft", "label": "sed", "mask": "none", "then": THEN},
        {"name": "gem", "then": THEN},
    ],
    "seeds": [0, 1, 2],
    "early_stops": [],
    "hypotheses": [STATED],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("correlation")
    return load(fake_cells.write_run(folder, fake_cells.suite(**SUITE), images=90, detectors=DETECTORS))


def test_it_is_pearsons_over_rows_seed_by_seed(results: Results) -> None:
    (stated,) = stated_tests(results)
    before = [[results.points(results.keys("toy", label)[seed], 240) for label in LABELS] for seed in range(3)]
    after = [[results.points(results.keys("toy", label)[seed], 300) for label in LABELS] for seed in range(3)]
    expected = [
        np.corrcoef(
            [row["name_diversity"] for row in x], [end["AP"] - row["AP"] for row, end in zip(x, y, strict=True)]
        )
        for x, y in zip(before, after, strict=True)
    ]
    assert stated.test.points == pytest.approx([matrix[0, 1] for matrix in expected])
    assert stated.test.replicates.shape == (3, 1000)
    assert np.isfinite(stated.test.replicates).all()


def test_it_is_judged_and_shown(results: Results) -> None:
    (finding,) = verdicts(results)
    assert finding.verdict is not None
    assert finding.verdict.estimate > 0.9
    assert finding.outcome == "supported"
    line = next(line for line in to_markdown(results).splitlines() if line.startswith("| R8"))
    assert "AP_gain: correlation with name_diversity before, over ce, sed, gem" in line
    assert power_grids(results)[0].rows[0][1].text == "correlation with name_diversity before, over ce, sed, gem"


def test_without_a_cell_it_is_not_tested(tmp_path: Path) -> None:
    folder = fake_cells.write_run(tmp_path, fake_cells.suite(**SUITE), detectors=DETECTORS, missing=[("gem", 1)])
    (finding,) = verdicts(load(folder))
    assert finding.verdict is None
    assert finding.missing == ("toy gem seed 1",)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rows": ["ce", "sed"]}, "hypotheses.0: predictor: expected 3 rows or more in rows, and neither a, b nor at"),
        ({"rows": ["ce", "sed", "sed"]}, "hypotheses.0: predictor: expected 3 rows or more"),
        ({"a": "ce"}, "hypotheses.0: predictor: expected 3 rows or more in rows, and neither a, b nor at"),
        ({"predictor": ""}, "hypotheses.0: expected a and b, a alone, or predictor and rows"),
        ({"predictor": "name_diversty"}, "hypothesis R8: predictor: unknown metric 'name_diversty', did you mean"),
        ({"metric": "AP_gian"}, "hypothesis R8: unknown metric 'AP_gian', did you mean 'AP_gain'"),
        ({"rows": ["ce", "sed", "gemm"]}, "hypothesis R8: rows: unknown row with then 'gemm', did you mean 'gem'"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        small.mini_suite(**{**SUITE, "hypotheses": [{**STATED, **change}]})
    assert any(f"mini.yaml: {expected}" in problem for problem in raised.value.problems), raised.value.problems


def test_pearson_is_undefined_where_nothing_varies() -> None:
    x = np.array([[1.0, 0.1, 3.0, np.nan], [2.0, 0.1, 1.0, 1.0], [4.0, 0.1, 2.0, 0.0]])
    y = np.array([[0.5, 1.0, -3.0, 1.0], [1.0, 2.0, -1.0, 2.0], [2.0, 3.0, -2.0, 3.0]])
    assert pearson(x, y)[[0, 2]] == pytest.approx([1.0, -1.0])
    assert np.isnan(pearson(x, y)[[1, 3]]).all()
    assert pearson(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0])) == pytest.approx(0.0)
