"""What was read leniently is counted in records and told beside the tables; older records have read nothing so."""

from __future__ import annotations

import json
from pathlib import Path

from harness.records import RECORD
from harness.report.estimates import estimate
from harness.report.renderers import text
from harness.report.results import load
from tests.support import fake_cells

NOTE = "Read leniently (JSON that is not quite as it was trained): up to 12.5% of the mentions."


def one_cell(folder: Path) -> tuple[Path, Path]:
    run = fake_cells.write_run(
        folder,
        fake_cells.suite(objectives=["ce"], seeds=[0], early_stops=[], hypotheses=[], sample={"samples": 4}),
        images=4,
    )
    (cell,) = run.glob("cells/toy-ce-*")
    return run, cell


def test_the_largest_rate_is_told(tmp_path: Path) -> None:
    run, cell = one_cell(tmp_path)
    assert "leniently" not in text.to_markdown(load(run))
    evaluations = json.loads((cell / RECORD).read_text())["evaluations"]
    evaluations[-1]["diversity"]["lenient_rate"] = 1 / 8
    fake_cells.rewrite(cell, evaluations=evaluations)
    assert NOTE in text.caption(load(run))


def test_records_without_the_count_have_none_and_the_same_tables(tmp_path: Path) -> None:
    run, cell = one_cell(tmp_path)
    fake_cells.drop_columns(cell, {}, of_consensus=False)
    before = text.to_csv(load(run))
    fake_cells.drop_columns(cell, {"images": ["lenient"]}, of_consensus=False)
    results = load(run)
    (key,) = results.keys("toy", "ce")
    assert estimate(results.tables(key), 240, 1.0).figures["lenient_rate"].tolist() == [0.0]
    assert text.to_csv(results) == before
