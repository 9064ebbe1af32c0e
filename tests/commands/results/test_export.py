"""`detmodes export`: evaluating and measuring what was exported gives the figures that the cell's record has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.formats.coco_document import document_of
from benchmarks.readers.annotations import Style, load
from detmodes import evaluate, measure
from harness import records
from harness.commands import app
from harness.commands.results.export import export
from harness.errors import ConfigError, DataError
from harness.metrics.detection.rules import Protocol
from harness.run import runner
from harness.run.context import open_context
from tests.benchmarks.cases import random_case
from tests.support import small


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped base, untrained, on a few images: greedy, three samples at 1, and three at 0.5."""
    suite = small.mini_suite(
        benchmark={"name": "shapes", **small.SETTINGS, "domain": "cluttered", "val_images": 6},
        models=[{"name": "open_flamingo"}],
        objectives=[],
        sample={"samples": 3, "temperatures": [0.5], "max_tokens": 40},
    )
    folder = tmp_path_factory.mktemp("export")
    (record,) = runner.run(open_context(suite, None, "cpu"), folder, "*base*")
    assert record.status == "finished"
    (path,) = (folder / "cells").iterdir()
    return path


def run(*arguments: object) -> None:
    app.app(["export", *map(str, arguments)], standalone_mode=False)


@pytest.fixture
def exported(cell: Path, tmp_path: Path) -> Path:
    """A folder with annotations, detections and samples."""
    truth = ("--annotations", tmp_path / "val.json")
    run(cell, "--to", "coco", "--output", tmp_path / "detections.json", *truth)
    run(cell, "--to", "jsonl", "--output", tmp_path / "samples.jsonl")
    return tmp_path


def test_evaluating_the_detections_gives_the_cells_figures(cell: Path, exported: Path) -> None:
    figures = records.read_record(cell).evaluations[-1].metrics
    assert 0 < (figures["AP"] or 0) < 1
    document = evaluate(exported / "val.json", exported / "detections.json")
    assert {name: document["metrics"][name] for name in figures} == figures


def test_measuring_the_samples_gives_the_cells_figures(cell: Path, exported: Path) -> None:
    evaluation = records.read_record(cell).evaluations[-1]
    document = measure(exported / "samples.jsonl", exported / "val.json")
    half, one = document["temperatures"]
    assert (half["temperature"], one["temperature"]) == (0.5, 1.0)
    assert one["figures"] == evaluation.diversity
    assert one["consensus"]["metrics"] == evaluation.consensus
    assert document["greedy"]["metrics"] == evaluation.metrics
    from_folder = measure(cell, exported / "val.json")
    assert document["temperatures"] == from_folder["temperatures"]
    assert document["greedy"] == from_folder["greedy"]


def test_the_file_of_samples_is_as_its_page_says(exported: Path) -> None:
    lines = [json.loads(line) for line in (exported / "samples.jsonl").read_text().splitlines()]
    numbers = {(line["temperature"], line["sample"]) for line in lines}
    assert numbers == {(0.0, 0), *((t, k) for t in (0.5, 1.0) for k in range(3))}
    assert len(lines) == 6 * 7
    assert all(set(mention) <= {"name", "bbox", "score"} for line in lines for mention in line["mentions"])


def test_without_a_file_it_is_written_to_stdout(cell: Path, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(cell, "--to", "coco")
    assert capsys.readouterr().out == (exported / "detections.json").read_text()


def test_a_step_that_was_not_evaluated_is_refused(cell: Path) -> None:
    with pytest.raises(ConfigError, match="--step: expected one of 0, got 3"):
        list(export(cell, "coco", 3))


def test_what_is_no_cell_or_was_changed_is_refused(cell: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no record here"):
        list(export(tmp_path, "coco"))
    copy = tmp_path / "copy"
    shutil.copytree(cell, copy)
    with (copy / "detections.parquet").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(DataError, match=r"detections\.parquet: missing, or not the file"):
        list(export(copy, "coco"))


def test_a_published_cell_has_no_samples(cell: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(cell, copy)
    content: dict[str, Any] = json.loads((copy / "record.json").read_text())
    del content["files"]["samples.parquet"]
    (copy / "record.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"has no samples\.parquet \(published cells have no samples"):
        list(export(copy, "jsonl"))


@pytest.mark.parametrize(("protocol", "style"), [("lvis", "lvis"), ("coco", "coco")])
def test_annotations_that_were_written_are_read_as_they_were(tmp_path: Path, protocol: Protocol, style: Style) -> None:
    """With crowd regions, areas, and federated fields, which COCO does not write: there they follow."""
    written, _ = random_case(3, protocol)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(document_of(written, style)))
    again = load(path, tmp_path, style)
    assert again.says_synonyms
    assert again.areas == written.areas
    assert {i: regions for i, regions in again.crowds.items() if regions} == {
        i: regions for i, regions in written.crowds.items() if regions
    }
    assert [e.instances for e in again.examples] == [e.instances for e in written.examples]
    assert [c.names for c in again.categories] == [c.names for c in written.categories]
    if style == "lvis":
        assert [e.negative for e in again.examples] == [e.negative for e in written.examples]
        assert [e.not_exhaustive for e in again.examples] == [e.not_exhaustive for e in written.examples]
