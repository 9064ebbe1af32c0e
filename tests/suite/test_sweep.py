"""A sweep makes a row of each combination of values that a row has a place for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.report.grids.tables import grids
from harness.report.results import load
from harness.suite.cells import cells
from harness.suite.load import set_values
from harness.suite.schema import Suite
from tests.support import fake_cells, small

ROWS: list[Any] = ["ce", {"name": "sed_sft", "label": "sed", "mask": "none", "train": {"clip": 2.0}}]


def swept(sweep: Any, rows: list[Any] | None = None, **changes: Any) -> Suite:
    return small.mini_suite(objectives=ROWS if rows is None else rows, sweep=sweep, **changes)


def problems(sweep: Any, **changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        swept(sweep, **changes)
    return [problem.removeprefix("mini.yaml: ") for problem in caught.value.problems]


def test_a_setting_of_training_is_swept_in_every_row_and_one_of_an_objective_where_there_is_one() -> None:
    suite = swept({"lr": [1e-4, 3e-4], "weight": [1, 5]})
    assert [(row.label, dict(row.train), row.settings) for row in suite.objectives] == [
        ("ce-lr0.0001", {"lr": 1e-4}, {}),
        ("ce-lr0.0003", {"lr": 3e-4}, {}),
        ("sed-lr0.0001-weight1", {"clip": 2.0, "lr": 1e-4}, {"mask": "none", "weight": 1}),
        ("sed-lr0.0001-weight5", {"clip": 2.0, "lr": 1e-4}, {"mask": "none", "weight": 5}),
        ("sed-lr0.0003-weight1", {"clip": 2.0, "lr": 3e-4}, {"mask": "none", "weight": 1}),
        ("sed-lr0.0003-weight5", {"clip": 2.0, "lr": 3e-4}, {"mask": "none", "weight": 5}),
    ]
    assert [(row.made_of, dict(row.values)) for row in suite.swept] == [
        *(("ce", {"lr": lr}) for lr in (1e-4, 3e-4)),
        *(("sed", {"lr": lr, "weight": weight}) for lr in (1e-4, 3e-4) for weight in (1, 5)),
    ]
    ids = [cell.id for cell in cells(suite)]
    assert "open_flamingo-sed-lr0.0003-weight5-s0" in ids
    assert len(ids) == 1 + 6 + 2


def test_a_cell_of_a_sweep_is_that_of_a_row_written_out() -> None:
    by_hand = small.mini_suite(objectives=[{"name": "ce", "label": "x", "train": {"lr": 1e-4}}])
    suite = swept({"lr": [1e-4, 3e-4]})
    model = suite.models[0]
    assert suite.described(model, suite.objectives[0]) == by_hand.described(model, by_hand.objectives[0])
    assert suite.described(model, suite.objectives[0]) != suite.described(model, suite.objectives[1])


def test_one_row_alone_words_and_truth_values() -> None:
    rows = [*ROWS, {"name": "gem", "label": "gem"}]
    suite = swept({"gem.h": ["linear", "logsigmoid"], "gradient_checkpointing": [True, False]}, rows)
    assert [row.label for row in suite.objectives] == [
        *("ce-gradient_checkpointingtrue", "ce-gradient_checkpointingfalse"),
        *("sed-gradient_checkpointingtrue", "sed-gradient_checkpointingfalse"),
        *("gem-hlinear-gradient_checkpointingtrue", "gem-hlinear-gradient_checkpointingfalse"),
        *("gem-hlogsigmoid-gradient_checkpointingtrue", "gem-hlogsigmoid-gradient_checkpointingfalse"),
    ]
    assert [row.made_of for row in suite.swept] == ["ce"] * 2 + ["sed"] * 2 + ["gem"] * 4


def test_what_a_run_writes_is_read_again_as_it_is() -> None:
    suite = swept({"lr": [1e-4, 3e-4]})
    again = Suite.model_validate_json(suite.model_dump_json())
    assert (again, again.swept) == (suite, suite.swept)
    assert small.mini_suite().swept == []


def test_the_command_line_may_sweep() -> None:
    content = set_values({"objectives": ["ce"]}, ["sweep.lr=[1.0e-4, 3.0e-4]"])
    assert content["sweep"] == {"lr": [1e-4, 3e-4]}


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ({"wieght": [1, 5]}, "sweep: unknown setting of any row 'wieght', did you mean 'weight'"),
        ({"gem.beta": [0.5, 0.7]}, "sweep: unknown setting of any row 'gem.beta'"),
        ({"lr": [1e-4]}, "sweep: lr: expected two or more different values, got [0.0001]"),
        ({"lr": [1e-4, 1e-4]}, "sweep: lr: expected two or more different values"),
        ({"lr": 1e-4}, "sweep.lr: "),
        ([1], "sweep: "),
        ({"weight": [1, -5]}, "sed_sft.weight: expected a finite number >= 0, got -5"),
        ({"lr": [1e-4, -1]}, "objectives.ce-lr-1.train.lr: Input should be greater than 0, got -1"),
        ({"eval_images": [2, 4]}, "objectives.ce-eval_images2.train.eval_images: expected in the suite's train alone"),
    ],
)
def test_mistakes(sweep: Any, expected: str) -> None:
    assert any(problem.startswith(expected) for problem in problems(sweep)), problems(sweep)


def test_the_report_has_a_table_by_value(tmp_path: Path) -> None:
    """The figures are those of the rows; the base, the oracles and rows that are not swept are not in it."""
    made = {"sweep": {"weight": [1, 5], "clip": [1.0, 2.0]}, "hypotheses": [], "early_stops": [], "seeds": [0, 1]}
    suite = fake_cells.suite(
        **made,
        objectives=[
            {"name": "ce", "label": "ce-clip1", "train": {"clip": 1.0}},
            {"name": "ce", "label": "ce-clip2", "train": {"clip": 2.0}},
            {"name": "sed_sft", "label": "sed-weight1-clip2", "weight": 1, "train": {"clip": 2.0}},
            {"name": "sed_sft", "label": "own"},
        ],
    )
    skills = fake_cells.DETECTORS
    detectors = {row.label: skills["sed" if row.name == "sed_sft" else "ce"] for row in suite.objectives}
    results = load(fake_cells.write_run(tmp_path, suite, images=10, detectors={**skills, **detectors}))
    everything = {grid.title: grid for grid in grids(results)}
    grid = everything["Sweep of clip, weight"]
    assert grid.headings[:4] == ("row", "clip", "weight", "seeds")
    assert [[cell.text for cell in row[:4]] for row in grid.rows] == [
        ["ce", "1", "–", "2"],  # noqa: RUF001
        ["ce", "2", "–", "2"],  # noqa: RUF001
        ["sed", "2", "1", "2"],
    ]
    whole = everything["Detection (greedy answer)"]
    of_ce = next(row for row in whole.rows if row[0].text == "ce-clip2")
    assert grid.rows[1][grid.headings.index("AP")].text == of_ce[whole.headings.index("AP")].text
    assert not any(title.startswith("Sweep") for title in _titles(tmp_path / "plain"))


def _titles(folder: Path) -> list[str]:
    results = load(fake_cells.write_run(folder, fake_cells.suite(), images=8))
    return [grid.title for grid in grids(results)]
