"""Publishing copies what belongs together, and refuses the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import DataError
from harness.publish import publish
from harness.report import load, to_csv
from harness.suite import Suite
from tests import fake_cells
from tests.test_report import only_cell


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fake_cells.write_run(tmp_path / "run", fake_cells.suite(), images=10)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_publishes_records_tables_and_figures(run: Path, tmp_path: Path) -> None:
    (only_cell(run, "toy-ce-s0-*") / "samples.parquet").write_text("large")
    (run / "cells" / "toy-ce-s0-00000000").mkdir()
    target = tmp_path / "results" / "fake"
    publish(run, target)
    published = content(target)
    cells = [path.relative_to(run) for path in (run / "cells").iterdir() if path.name != "toy-ce-s0-00000000"]
    assert len(cells) == 10
    assert published.keys() == {
        *(str(cell / name) for cell in cells for name in ("record.json", "images.parquet", "detections.parquet")),
        *("README.md", "table.csv", "suite.json", "cells.json"),
        *(f"figures/{name}.{suffix}" for name in ("ap-vs-diversity", "training") for suffix in ("svg", "png")),
    }
    assert published["table.csv"].decode() == to_csv(load(run))
    assert not list(tmp_path.glob("results/.*"))


def test_readme_says_how_to_reproduce(run: Path, tmp_path: Path) -> None:
    publish(run, tmp_path / "fake")
    text = (tmp_path / "fake" / "README.md").read_text()
    assert text.startswith("# fake\n")
    commit = fake_cells.CODE["commit"]
    assert f"```\ngit checkout {commit}\ndetmodes run fake --seeds 0,1 --device cpu\n```" in text
    assert "(figures/training.svg)" in text
    assert "| H1 | SED keeps more |" in text
    assert Suite.model_validate_json((tmp_path / "fake" / "suite.json").read_text()) == fake_cells.suite()


def test_publishing_twice_changes_nothing(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "fake"
    publish(run, target)
    before = content(target)
    publish(run, target)
    assert content(target) == before
    publish(target, tmp_path / "again")  # what was published is all that publishing needs
    assert content(tmp_path / "again") == before


def test_a_new_result_replaces_the_old_one(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "fake"
    publish(run, target)
    other = fake_cells.write_run(tmp_path / "other", fake_cells.suite(seeds=[7]), images=10)
    publish(other, target)
    assert {path.name.split("-s")[-1][0] for path in (target / "cells").iterdir()} == {"7"}


def test_missing_cells_are_not_published(tmp_path: Path) -> None:
    run = fake_cells.write_run(tmp_path / "run", fake_cells.suite(), images=10, missing=[("ce", 1)])
    with pytest.raises(DataError, match="cells are missing: toy ce seed 1;"):
        publish(run, tmp_path / "fake", allow_failed=True)
    assert not (tmp_path / "fake").exists()


def test_failed_cells_are_published_as_failed_or_not_at_all(tmp_path: Path) -> None:
    run = fake_cells.write_run(tmp_path / "run", fake_cells.suite(), images=10, failed=[("ce", 1)])
    with pytest.raises(DataError, match="cells have failed: toy ce seed 1;"):
        publish(run, tmp_path / "fake")
    publish(run, tmp_path / "fake", allow_failed=True)
    text = (tmp_path / "fake" / "README.md").read_text()
    assert "| ce | 1 of 2 (failed: 1) |" in text
    assert list(load(tmp_path / "fake").failed) == list(load(run).failed)


def test_nothing_to_publish(tmp_path: Path) -> None:
    cells = [(label, seed) for label in fake_cells.DETECTORS for seed in (0, 1)]
    run = fake_cells.write_run(tmp_path / "run", fake_cells.suite(), images=10, failed=cells)
    with pytest.raises(DataError, match="every cell has failed"):
        publish(run, tmp_path / "fake", allow_failed=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"code": fake_cells.CODE | {"commit": "f" * 40}}, "code differs: .* commit ffffffffffff in toy ce seed 1;"),
        ({"code": fake_cells.CODE | {"dirty": True}}, "code differs: .*dirty.* in toy ce seed 1;"),
        ({"evaluator": {"engine": "lvis", "version": "0.5.3"}}, "evaluator differs: .* lvis 0.5.3 in toy ce seed 1;"),
    ],
)
def test_one_table_one_code_and_one_evaluator(
    run: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    fake_cells.rewrite(only_cell(run, "toy-ce-s1-*"), **change)
    with pytest.raises(DataError, match=message):
        publish(run, tmp_path / "fake")


def test_foreign_folders_are_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(DataError, match="this holds something else"):
        publish(run, tmp_path / "thesis")
    for inside in (run, run / "published", tmp_path):
        with pytest.raises(DataError, match="expected a folder apart from"):
            publish(run, inside)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"
