"""Publishing copies what belongs together, and refuses the rest."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.errors import DataError
from harness.report import figures
from harness.report import publish as publish_module
from harness.report.publish import may_show_pictures, publish, tables
from harness.report.renderers.latex import to_latex
from harness.report.renderers.text import to_category_csv, to_csv
from harness.report.results import load
from harness.suite.schema import Suite
from tests.report.complete import only_cell
from tests.report.figures.gallery import WITHOUT_GALLERY, add_gallery
from tests.support import fake_cells

TEXTS = ("README.md", "table.csv", "categories.csv", "figures.json", "suite.json", "cells.json")
ARCHIVE = ("records.jsonl.xz", "images.parquet", "detections.parquet", "gallery.parquet", "files.json")
CELL = ("record.json", "images.parquet", "detections.parquet", "gallery.parquet")
DRAWN = [*(name for name in WITHOUT_GALLERY if name != "category-diversity"), "gallery"]
"""Ten images make no category reportable."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fake_cells.write_run(tmp_path / "run", fake_cells.suite(), images=10)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with publishable pictures, and what a run leaves behind that is not published."""
    run = fake_cells.write_run(tmp_path_factory.mktemp("complete") / "run", fake_cells.suite(), images=10)
    with_pictures(run, True)
    (only_cell(run, "toy-ce-s0-*") / "samples.parquet").write_text("large")
    (run / "cells" / "toy-ce-s0-00000000").mkdir()
    return run


@pytest.fixture(scope="module")
def published(complete: Path) -> Path:
    target = complete.parent / "results" / "fake"
    assert publish(complete, target) == []
    return target


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time."""
    monkeypatch.setattr("harness.report.publish.draw", lambda results, folder, suffixes: [])


def with_pictures(run: Path, publishable: object) -> Path:
    add_gallery(run, images=10)
    for cell in (run / "cells").iterdir():
        fake_cells.rewrite(cell, data={"pictures_may_be_published": publishable})
    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_publishes_records_tables_and_figures(published: Path) -> None:
    """All cells in one archive; drawings as SVG alone, for LaTeX and PNG are made when they are wanted."""
    assert content(published).keys() == {
        *TEXTS,
        *(f"archive/{name}" for name in ARCHIVE),
        *(f"gallery/{name}" for name in ("index.json", "100.png", "101.png")),
        *(f"figures/{name}.svg" for name in DRAWN),
    }
    assert not list(published.parent.glob(".*"))


@pytest.mark.usefixtures("undrawn")
def test_whole_cells_are_published_if_wanted(complete: Path, published: Path, tmp_path: Path) -> None:
    """With their boxes and scores, and the same tables; what is published so can be put into an archive later."""
    cells = [path for path in (complete / "cells").iterdir() if not path.name.endswith("-00000000")]
    assert len(cells) == 7
    publish(complete, tmp_path / "whole", whole=True)
    names = content(tmp_path / "whole")
    assert names.keys() >= {f"cells/{cell.name}/{name}" for cell in cells for name in CELL}
    assert not [name for name in names if name.startswith("archive/")]
    for cell in cells:
        for name in CELL[1:]:
            assert names[f"cells/{cell.name}/{name}"] == (cell / name).read_bytes()
    assert {name: names[name] for name in TEXTS} == {name: content(published)[name] for name in TEXTS}
    publish(tmp_path / "whole", tmp_path / "again")
    parts = [f"archive/{name}" for name in ARCHIVE]
    assert {name: content(tmp_path / "again")[name] for name in parts} == {
        name: content(published)[name] for name in parts
    }
    with pytest.raises(DataError, match="an archive is published without --whole"):
        publish(published, tmp_path / "none", whole=True)


def test_what_is_published_regenerates(complete: Path, published: Path) -> None:
    """Tables byte for byte, figures by the data they draw."""
    copies, originals = load(published), load(complete)
    for name, text in tables(copies).items():
        assert (published / name).read_text() == text
    assert to_latex(copies) == to_latex(originals)
    made = {"table.csv": to_csv, "categories.csv": to_category_csv}
    assert {name: (published / name).read_text() for name in made} == {name: of(originals) for name, of in made.items()}
    drawn = json.loads((published / "figures.json").read_text())
    assert drawn == json.loads(json.dumps(figures.drawn(originals)))
    assert list(drawn) == figures.available(copies) == DRAWN


def test_readme_says_how_to_reproduce(published: Path) -> None:
    text = (published / "README.md").read_text()
    assert text.startswith("# fake\n")
    commit = fake_cells.CODE["commit"]
    assert f"```\ngit checkout {commit}\ndetmodes run fake --seeds 0,1 --device cpu\n```" in text
    assert all(f"(figures/{name}.svg)" in text for name in DRAWN)
    assert "| H1 | SED keeps more |" in text
    assert Suite.model_validate_json((published / "suite.json").read_text()) == fake_cells.suite()


def test_publishing_twice_changes_nothing(complete: Path, published: Path, tmp_path: Path) -> None:
    before = content(published)
    publish(complete, published)
    assert content(published) == before
    publish(published, tmp_path / "again")  # what was published is all that publishing needs
    assert content(tmp_path / "again") == before


@pytest.mark.usefixtures("undrawn")
def test_pictures_that_are_not_ours_are_left_out_and_it_says_so(run: Path, published: Path, tmp_path: Path) -> None:
    """A folder that had pictures loses them."""
    shutil.copytree(published, tmp_path / "fake")
    (line,) = publish(with_pictures(run, False), tmp_path / "fake")
    assert line.startswith("the gallery is left out: ")
    names = content(tmp_path / "fake")
    assert not [name for name in names if "gallery" in name and not name.endswith("gallery.parquet")]
    assert b"gallery.svg" not in names["README.md"]


@pytest.mark.parametrize(("first", "expected"), [(True, True), (False, False), ("yes", False), (None, False)])
def test_every_record_must_allow_the_pictures(complete: Path, first: object, expected: bool) -> None:
    results = load(complete)
    for index, (key, record) in enumerate(results.records.items()):
        allowed = {"pictures_may_be_published": True if index else first}
        results.records[key] = record.model_copy(update={"data": allowed})
    assert may_show_pictures(results) is expected


def test_a_gallery_that_is_not_the_records_is_not_published(run: Path, tmp_path: Path) -> None:
    (only_cell(run, "toy-ce-s0-*") / "gallery.parquet").write_bytes(b"other")
    with pytest.raises(DataError, match=r"gallery\.parquet: missing, or not the file"):
        publish(run, tmp_path / "fake")
    assert not (tmp_path / "fake").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_new_result_replaces_the_old_one(published: Path, tmp_path: Path) -> None:
    target = tmp_path / "fake"
    shutil.copytree(published, target)
    publish(fake_cells.write_run(tmp_path / "other", fake_cells.suite(seeds=[7]), images=10), target)
    assert {key.seed for key in load(target).records if key.label == "ce"} == {7}


def test_missing_cells_are_not_published(tmp_path: Path) -> None:
    run = fake_cells.write_run(tmp_path / "run", fake_cells.suite(), images=10, missing=[("ce", 1)])
    with pytest.raises(DataError, match="cells are missing: toy ce seed 1;"):
        publish(run, tmp_path / "fake", allow_failed=True)
    assert not (tmp_path / "fake").exists()


@pytest.mark.usefixtures("undrawn")
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


def test_several_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    """Each moves a folder of its own into one place, again and again; what is there at the end is whole."""
    target = tmp_path / "published"

    def place(number: int) -> None:
        for turn in range(20):
            work = tmp_path / f"{number}-{turn}"
            work.mkdir()
            for name in ("a", "b"):
                (work / name).write_text(f"{number}-{turn}")
            publish_module._replace(work, target)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(place, range(3)))
    assert [path.name for path in tmp_path.iterdir()] == ["published"]
    first, second = (path.read_text() for path in target.iterdir())
    assert first == second
