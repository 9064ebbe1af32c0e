"""Reports of incomplete runs, and of cells that do not belong to the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.errors import DataError
from harness.records import RECORD
from harness.report import figures, rows
from harness.report.renderers import text as report
from harness.report.results import Results
from tests.report.complete import SED_1, one, only_cell
from tests.support import fake_cells

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
