"""Cells that have not finished, have failed or were tampered with are never mistaken for finished ones."""

from __future__ import annotations

import errno
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from harness import records
from harness.errors import DataError
from harness.records import Record, layout
from harness.run import runner
from harness.run.cell import compute
from harness.run.context import Context, Planned
from harness.run.output import status
from harness.system import files
from harness.system.interrupts import Interrupted
from tests.run.mini_runs import cell_folder, context, fail_in_training, no_computing, same, times

# ---- what an unfinished cell leaves, and who goes on with it ------------------------------------------------------


def hidden(output: Path, label: str) -> Path:
    """The work folder of a cell that was killed after its record was written, with what an earlier attempt left."""
    folder = cell_folder(output, label)
    work = layout.work(folder)
    folder.rename(work)
    (work / layout.RESUME).mkdir()
    (work / "leftover").touch()
    return work


def test_a_complete_work_folder_is_put_in_place(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what its record does not name."""
    before = records.read_record(cell_folder(copy, "base"))
    work = hidden(copy, "base")
    no_computing(monkeypatch)
    assert runner.run(context(), copy, "*-base-*") == [before]
    assert not work.exists()
    assert {path.name for path in cell_folder(copy, "base").iterdir()} == {records.RECORD, *before.files}


def test_a_work_folder_with_a_damaged_file_is_no_result(copy: Path) -> None:
    before = same(records.read_record(cell_folder(copy, "ce")))
    work = hidden(copy, "ce")
    with (work / "model.safetensors").open("ab") as file:
        file.write(b"x")
    (record,) = runner.run(context(), copy, "*-ce-*")
    assert same(record) == before
    records.verify_files(record, cell_folder(copy, "ce"), list(record.files))


def test_an_interrupted_cell_stays_hidden_and_the_next_run_finds_it_as_it_was(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cell_folder(copy, "base")
    shutil.rmtree(folder)

    def interrupted(_: Context, __: Planned, work: Path, *___: object) -> Record:
        (work / layout.RESUME).mkdir()
        (work / layout.RESUME / "checkpoint").touch()
        (work / f".table.0123{files.PARTIAL}").touch()
        raise Interrupted(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "compute", interrupted)
        with pytest.raises(Interrupted):
            runner.run(context(), copy, "*-base-*")
    assert not folder.exists()
    assert status.read(copy).cells[0].state == "interrupted"
    listings: list[list[str]] = []

    def resumed(context: Context, item: Planned, work: Path, *_: object) -> Record | None:
        listings.append(sorted(str(path.relative_to(work)) for path in work.rglob("*")))
        return compute(context, item, work)

    monkeypatch.setattr(runner, "compute", resumed)
    (record,) = runner.run(context(), copy, "*-base-*")
    assert listings == [["resume", "resume/checkpoint"]]
    assert {path.name for path in folder.iterdir()} == {records.RECORD, *record.files}


def test_a_failed_cell_begins_anew(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(cell_folder(copy, "base"))

    def broken(_: Context, __: Planned, work: Path, *___: object) -> Record:
        (work / layout.RESUME).mkdir()
        raise ValueError("no luck")

    monkeypatch.setattr(runner, "compute", broken)
    (record,) = runner.run(context(), copy, "*-base-*")
    assert (record.status, record.error) == ("failed", "ValueError: no luck")
    assert {path.name for path in cell_folder(copy, "base").iterdir()} == {records.RECORD, layout.ERROR}


def test_a_full_disk_ends_the_run_and_is_no_failure_of_the_cell(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cell_folder(copy, "base")
    shutil.rmtree(folder)

    def full(_: Context, __: Planned, work: Path, *___: object) -> Record:
        (work / layout.RESUME).mkdir()
        raise OSError(errno.ENOSPC, "No space left on device", str(work / "images.parquet"))

    monkeypatch.setattr(runner, "compute", full)
    with pytest.raises(
        DataError, match=r"the disk is full while writing .*images\.parquet .*run the same command again"
    ):
        runner.run(context(), copy, "*-base-*")
    assert not folder.exists()
    assert (layout.work(folder) / layout.RESUME).is_dir()


# ---- failure -----------------------------------------------------------------------------------------------------


def test_a_failing_cell_is_recorded_the_suite_goes_on_and_it_is_run_again(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail_in_training(patch)
        ended = runner.run(context(), tmp_path)
    assert [record.status for record in ended] == ["finished", "failed", "failed", "finished", "finished"]
    folder = cell_folder(tmp_path, "ce")
    failed = records.read_record(folder)
    assert failed.error == "RuntimeError: out of memory"
    assert (failed.evaluations, failed.curve, failed.files) == ((), (), {})
    assert "out of memory" in (folder / "error.txt").read_text()
    assert failed.cell == ended[1].cell

    before = times(tmp_path)
    again = runner.run(context(), tmp_path, "*-ce-*")
    assert [record.status for record in again] == ["finished"]
    assert not (folder / "error.txt").exists()
    changed = {name for name, time in times(tmp_path).items() if before[name] != time}
    assert changed == {folder.name}


def test_a_model_that_cannot_be_tuned_fails_its_cell(tmp_path: Path) -> None:
    models = [{"name": "oracle-uniform", "label": "oracle"}]
    (record,) = runner.run(context(models=models), tmp_path, "oracle-ce-*")
    assert record.status == "failed"
    assert record.error == "ConfigError: model oracle-uniform: cannot be fine-tuned, it has no logits"


def test_a_tampered_record_names_the_field_and_its_cell_is_run_again(copy: Path) -> None:
    folder = cell_folder(copy, "base")
    path = folder / records.RECORD
    original = json.loads(path.read_text())
    broken: list[tuple[str, dict[str, Any]]] = [
        ("status", {**original, "status": "done"}),
        ("cell.seed", {**original, "cell": {**original["cell"], "seed": "zero"}}),
        ("verdict", {**original, "verdict": "supported"}),
        ("evaluations.0.step", {**original, "evaluations": [{**original["evaluations"][0], "step": "last"}]}),
    ]
    for field, content in broken:
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=rf"record\.json: field {field}: "):
            records.read_record(folder)
    path.write_text(json.dumps(original)[:100])
    with pytest.raises(DataError, match=r"record\.json: field \(file\): Invalid JSON"):
        records.read_record(folder)
    path.write_text(json.dumps({**original, "format": records.FORMAT + 1}))
    with pytest.raises(DataError, match=f"expected record format {records.FORMAT}, got {records.FORMAT + 1}"):
        records.read_record(folder)
    (record,) = runner.run(context(), copy, "*-base-*")
    assert same(record) == same(records.read_record(folder)) == same(Record.model_validate(original))


def test_a_changed_or_missing_file_is_noticed(copy: Path) -> None:
    folder = cell_folder(copy, "base")
    record = records.read_record(folder)
    with pytest.raises(DataError, match=r"files: expected model\.safetensors, got"):
        records.verify_files(record, folder, ["model.safetensors"])
    with (folder / "images.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"images\.parquet: missing, or not the file"):
        records.verify_files(record, folder, ["images.parquet"])
    with pytest.raises(DataError, match="no record here"):
        records.read_record(folder.parent)
