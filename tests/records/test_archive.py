"""An archive holds what tables and figures are made of: less than the cells, and nothing else than they say."""

from __future__ import annotations

import io
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness import records
from harness.errors import DataError
from harness.metrics.catalogue import diversity_columns
from harness.records import archive
from harness.records import tables as record_tables
from harness.records.store import open_store
from harness.report.publish import publish, tables
from harness.report.results import Results, load
from harness.system.files import sha256, write_json
from tests.support import fake_cells


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_cells.write_run(tmp_path_factory.mktemp("archive") / "run", fake_cells.suite(), images=20)


@pytest.fixture(scope="module")
def published(run: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.report.publish.draw", lambda results, folder, suffixes: [])
        publish(run, run.parent / "fake")
    return run.parent / "fake"


def points(results: Results) -> dict[str, dict[str, float]]:
    """Every figure of every cell at every evaluated step."""
    return {
        f"{key} step {step}": results.points(key, step)
        for key, record in results.records.items()
        for step in record.steps
    }


LINE_FIGURES = ("AP", "AP50", "APr", "APc", "APf", "precision", *diversity_columns(4))
"""What lines over training and temperatures show."""


def test_every_figure_of_a_row_is_kept(run: Path, published: Path) -> None:
    """To PRECISION; AP to the last bit. At the steps between, what lines show; of a row that is read along its path,
    every figure. Records are the same."""
    whole, archived = load(run), load(published)
    assert archived.records == whole.records
    between = {
        f"{key} step {step}" for key, record in whole.records.items() for step in record.steps[:-1] if key.label != "ce"
    }
    assert between
    for name, figures in points(whole).items():
        stored = {figure: figures[figure] for figure in LINE_FIGURES} if name in between else figures
        read = {figure: points(archived)[name][figure] for figure in stored}
        assert read == pytest.approx(stored, abs=archive.PRECISION, nan_ok=True)
        assert read["AP"] == figures["AP"]


CHAIN = {"name": "grpo", "steps": 60, "eval_at": [20]}
AT_EQUAL_AP = {"id": "H", "claim": "c", "metric": "box_spread", "a": "gem", "b": "ce", "at": "equal_AP", "margin": 0.1}


def test_tables_of_an_archive_are_those_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a row before its last stage or at another temperature, and of any figure that is read along a path."""
    monkeypatch.setattr("harness.report.publish.draw", lambda results, folder, suffixes: [])
    rows = ["ce", {"name": "sed_sft", "label": "sed", "then": CHAIN}, "gem"]
    hot = {"label": "hot", "objective": "ce", "temperature": 2.0}
    stated = {"early_stops": [], "hypotheses": [AT_EQUAL_AP], "resampled": [hot]}
    suite = fake_cells.suite(objectives=rows, seeds=[0], **stated)
    of_ce, of_sed = fake_cells.DETECTORS["ce"], fake_cells.DETECTORS["sed"]
    skills = fake_cells.DETECTORS | {"gem": of_ce, "sed": (*of_sed, *of_sed[:2])}
    run = fake_cells.write_run(tmp_path / "run", suite, images=12, detectors=skills)
    publish(run, tmp_path / "fake")
    made, expected = tables(load(tmp_path / "fake")), tables(load(run))
    figures, others = (pd.read_csv(io.StringIO(texts.pop("table.csv"))) for texts in (made, expected))
    pd.testing.assert_frame_equal(figures, others, rtol=0, atol=2e-6)  # PRECISION may turn the last digit
    assert made == expected


def test_names_are_left_out_of_all_rows_or_of_none(run: Path) -> None:
    """A row that lost its names is no row of a step between."""
    key, record = next(iter(load(run).records.items()))
    frame = load(run).read_table(key, "images")
    frame.at[0, "names"] = None
    with pytest.raises(TypeError, match="NoneType"):
        record_tables.tables(frame, record.steps[0], float(frame["temperature"][0]), record)


def test_what_nothing_is_made_of_is_left_out(run: Path, published: Path) -> None:
    name = next(iter(load(run).folders.values())).name
    detections = open_store(published).read_table(name, "detections")
    assert set(detections) <= {*archive.RANKED}
    assert not {"score", "x", "y", "w", "h"} & set(detections)
    sizes = [sum(path.stat().st_size for path in folder.rglob("*.parquet")) for folder in (run, published)]
    assert sizes[1] < sizes[0] / 4


def test_an_archive_of_several_row_groups(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large suites are read a few cells at a time: here one, two, ... in turn, and back again."""
    results = load(run)
    names = {folder.name: key for key, folder in results.folders.items()}
    frames = {name: results.read_table(key, "images") for name, key in names.items()}
    monkeypatch.setattr(archive, "GROUP", len(next(iter(frames.values()))) + 1)
    archive.write_archive(
        tmp_path,
        [archive.ArchivedCell(name, results.records[key], {"images": frames[name]}) for name, key in names.items()],
    )
    opened = archive.open_archive(tmp_path)
    assert opened is not None
    for name in (*names, *reversed(names)):
        read = opened.read_table(name, "images")
        pd.testing.assert_frame_equal(
            read[["step", "image_id", "instances", "name_diversity"]].astype(float),
            frames[name][["step", "image_id", "instances", "name_diversity"]].astype(float).reset_index(drop=True),
        )


def test_a_cell_without_rows_has_its_columns(run: Path, tmp_path: Path) -> None:
    """Captions have no detections."""
    results = load(run)
    key, folder = next(iter(results.folders.items()))
    none = results.read_table(key, "detections").iloc[:0]
    cell = archive.ArchivedCell(folder.name, results.records[key], {"detections": none})
    archive.write_archive(tmp_path, [cell])
    read = open_store(tmp_path).read_table(folder.name, "detections")
    assert len(read) == 0
    assert {"step", "image_id", "true_positive"} <= set(read)


def test_cells_of_other_columns_are_refused(run: Path, tmp_path: Path) -> None:
    results = load(run)
    first, second = list(results.folders.items())[:2]
    frames = [results.read_table(first[0], "images"), results.read_table(second[0], "images").drop(columns="names")]
    cells = [
        archive.ArchivedCell(folder.name, results.records[key], {"images": frame})
        for (key, folder), frame in zip((first, second), frames, strict=True)
    ]
    with pytest.raises(DataError, match=r"images\.parquet: expected the columns "):
        archive.write_archive(tmp_path, cells)


def _change_a_row(folder: Path) -> None:
    path = folder / "images.parquet"
    frame = pd.read_parquet(path)
    frame.assign(instances=frame["instances"] + 1).to_parquet(path, index=False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_change_a_row, r"images\.parquet: missing, or not the file"),
        (lambda folder: (folder / "detections.parquet").unlink(), r"detections\.parquet: missing, or not the file"),
        (lambda folder: (folder / "files.json").write_text("{}"), r"files\.json: expected JSON with its digest"),
        (lambda folder: (folder / "records.jsonl.xz").write_bytes(b"x"), r"records\.jsonl\.xz: missing, or not"),
    ],
)
def test_a_damaged_archive_is_one_line(
    published: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    shutil.copytree(published, tmp_path / "fake")
    damage(tmp_path / "fake" / "archive")
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / "fake")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing", r"records\.jsonl\.xz: cannot be read: "),
        (lzma.compress(b'{"cell": "a"}\n'), r"records\.jsonl\.xz: field record: Field required"),
    ],
    ids=["not compressed", "without a record"],  # not the content: gzip notes the second
)
def test_records_of_an_archive_that_are_none(published: Path, tmp_path: Path, content: bytes, message: str) -> None:
    """Though their digest is right: anyone can write one."""
    shutil.copytree(published / "archive", tmp_path / "archive")
    (tmp_path / "archive" / archive.RECORDS).write_bytes(content)
    digests = {archive.RECORDS: sha256(tmp_path / "archive" / archive.RECORDS)}
    write_json(tmp_path / "archive" / archive.DIGESTS, digests)
    with pytest.raises(DataError, match=message):
        archive.open_archive(tmp_path)


def test_a_record_names_the_digests_of_the_whole_tables(run: Path, published: Path) -> None:
    """So whoever has the cells can tell that the archive is about them."""
    for key, folder in load(run).folders.items():
        files = load(published).records[key].files
        records.verify_files(load(published).records[key], folder, list(files))
    assert np.all([len(digest) == 64 for digest in files.values()])
