"""A link in a run's folder may lead anywhere: what it leads to is neither shown, published, sent nor removed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from harness import records
from harness.errors import DataError
from harness.records import archive, gallery, layout
from harness.records.gallery import write_gallery
from harness.report.publish import publish
from harness.report.results import load
from harness.run import runner
from harness.run.context import open_context
from harness.run.output import clean
from harness.run.output.mirror import Mirror
from harness.system.files import sha256, write_json
from tests.support import fake_cells, small


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that can be published, gallery included."""
    made = fake_cells.suite(objectives=["ce"], seeds=[0], early_stops=[], hypotheses=[], sample={"samples": 4})
    folder = fake_cells.write_run(tmp_path_factory.mktemp("run"), made, images=4)
    write_gallery(folder, small.benchmark().split("val")[:2], small.benchmark().categories)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def linked(path: Path, elsewhere: Path) -> None:
    """Moves it away and puts a link in its place: the content is right, and only the link is wrong."""
    elsewhere.mkdir(exist_ok=True)
    shutil.move(path, elsewhere / path.name)
    path.symlink_to(elsewhere / path.name)


PLACES = (
    "suite.json",
    "cells.json",
    "cells",
    "cells/toy-ce-*",
    "cells/toy-ce-*/record.json",
    "cells/toy-ce-*/images.parquet",
    "gallery",
    "gallery/index.json",
    "gallery/*.png",
)
VERBS: dict[str, Callable[[Path], object]] = {
    "report": load,
    "publish": lambda run: publish(run, run.with_name("published")),
    "publish --whole": lambda run: publish(run, run.with_name("published"), whole=True),
    "send": lambda run: Mirror("memory://links", run).send(),
    "bring": lambda run: Mirror(f"file://{run}", run.with_name("here")).bring(),
    "bring, by another name": lambda run: Mirror(f"local://{run}", run.with_name("here")).bring(),
    "clean": clean.find,
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("place", PLACES)
def test_no_verb_follows_it(run: Path, tmp_path: Path, verb: str, place: str) -> None:
    path = sorted(run.glob(place))[0]
    linked(path, tmp_path / "elsewhere")
    with pytest.raises(DataError) as caught:
        VERBS[verb](run)
    assert str(caught.value).startswith(f"{path}: is a link, and what it leads to is not read as a part of the run")
    assert "\n" not in str(caught.value)
    assert not run.with_name("published").exists()
    assert not (run.with_name("here") / layout.SUITE).exists()
    assert fsspec.filesystem("memory").find("links") == []


@pytest.mark.parametrize("verb", VERBS)
def test_without_one_every_verb_works(run: Path, verb: str) -> None:
    try:
        VERBS[verb](run)
    finally:
        fsspec.filesystem("memory").store.clear()


def test_the_whole_folder_may_be_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    assert load(tmp_path / "link").missing == []


def test_a_record_that_is_a_link_is_none(run: Path, tmp_path: Path) -> None:
    """`predict` is given the folder of a cell alone."""
    (cell,) = run.glob("cells/toy-ce-*")
    (tmp_path / "cell").symlink_to(cell)
    record = records.read_record(tmp_path / "cell")  # the folder is what the command line names
    linked(cell / "images.parquet", tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"images\.parquet: is a link"):
        records.verify_files(record, cell, ["images.parquet"])
    linked(cell / "record.json", tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"record\.json: is a link"):
        records.read_record(cell)


@pytest.mark.parametrize("place", ["cells/.open_flamingo-x", "cells/.open_flamingo-x/resume", "locks", "progress"])
def test_a_run_writes_through_none(tmp_path: Path, place: str) -> None:
    """A cell's work folder is emptied before the cell is computed: a link there emptied what it led to."""
    mine, output = tmp_path / "mine", tmp_path / "run"
    mine.mkdir()
    (mine / "thesis.json").write_text("years of work")
    (output / place).parent.mkdir(parents=True)
    (output / place).symlink_to(mine)
    with pytest.raises(DataError, match=r": is a link"):
        runner.run(open_context(small.mini_suite(), None, "cpu"), output, "*-base-*")
    assert [path.name for path in mine.iterdir()] == ["thesis.json"]
    assert sorted(path.name for path in output.iterdir()) == [place.partition("/")[0]]


def test_progress_that_leads_elsewhere_is_not_cleaned(run: Path, tmp_path: Path) -> None:
    """Whatever ends in .json there was no cell's progress, and so listed to be removed."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.json").touch()
    (run / layout.PROGRESS).symlink_to(tmp_path / "mine")
    with pytest.raises(DataError, match="progress: is a link"):
        clean.find(run)


def test_an_archive_names_files_beside_its_list_alone(tmp_path: Path) -> None:
    place = tmp_path / archive.FOLDER
    place.mkdir()
    (tmp_path / "secret").touch()
    for content in ({"../secret": sha256(tmp_path / "secret")}, ["x"]):
        write_json(place / archive.DIGESTS, content)
        with pytest.raises(DataError, match=r"files\.json: expected the digests of files beside it"):
            archive.open_archive(tmp_path)


def test_the_names_are_those_that_are_written(run: Path) -> None:
    assert (gallery.FOLDER, archive.FOLDER) == (layout.GALLERY, layout.ARCHIVE)
    assert {path.name for path in run.iterdir()} <= set(layout.NAMES)
