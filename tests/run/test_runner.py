"""Cells: computed once, named by their settings, reproducible, and never mistaken for finished when they are not."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from harness import records
from harness.errors import ConfigError, DataError
from harness.inference.device import accelerator_on
from harness.records import Record, gallery, layout
from harness.run import runner
from harness.run.cell import METRICS, compute
from harness.run.context import Context, Planned, open_context
from harness.run.output import status
from harness.run.output.watch import Silence
from harness.suite.cells import Cell
from harness.suite.schema import Suite
from harness.system import files, locks
from harness.system.interrupts import Interrupted
from harness.system.provenance.versions import PACKAGES
from harness.types import Projection
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small

CELLS = ["base-s0", "ce-s0", "sed-s0", "oracle-uniform-s0", "oracle-collapsed-s0"]
VARYING = {"timings", "own_peak_mib"}


def context(**changes: Any) -> Context:
    return open_context(small.mini_suite(**changes), None, "cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of the mini suite. Tests that change something copy it first."""
    folder = tmp_path_factory.mktemp("run")
    runner.run(context(), folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def cell_folder(output: Path, label: str) -> Path:
    (folder,) = (output / "cells").glob(f"open_flamingo-{label}-s0-*")
    return folder


def times(output: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in output.glob("cells/*/record.json")}


def same(record: Record) -> dict[str, Any]:
    """A record without what differs between two runs of the same cell."""
    content = record.model_dump(exclude=VARYING)
    times = {"seconds", "waiting"}
    content["curve"] = [{key: value for key, value in row.items() if key not in times} for row in content["curve"]]
    content["files"] = {name: digest for name, digest in content["files"].items() if name != METRICS}  # has seconds too
    return content


# ---- a run -------------------------------------------------------------------------------------------------------


def test_every_cell_leaves_a_finished_record_with_its_files(finished: Path) -> None:
    recorded = {path.name: records.read_record(path) for path in (finished / "cells").iterdir()}
    assert sorted(recorded) == sorted(p.folder.name for p in runner.plan(context(), finished))
    for name, record in recorded.items():
        assert (record.status, record.error) == ("finished", None)
        files = {path.name for path in (finished / "cells" / name).iterdir()}
        assert files == {records.RECORD, *record.files}
        assert {f"{table}.parquet" for table in records.TABLES} <= files
        records.verify_files(record, finished / "cells" / name, list(record.files))
        assert record.digest == records.digest_of(record.cell)
        assert name.endswith(record.digest[:8])


def test_records_hold_what_identifies_a_result(finished: Path) -> None:
    base, ce, sed = (records.read_record(cell_folder(finished, label)) for label in ("base", "ce", "sed"))
    assert (base.role, base.steps, base.curve, base.cell.train) == ("base", (0,), (), None)
    assert (ce.role, ce.steps, ce.threshold) == ("trained", (2, 3), None)
    assert [row["step"] for row in ce.curve] == [1, 3]
    assert (base.collision_rate, ce.collision_rate) == (None, 0.0)  # 3 batches of 4 of the 24 images
    assert sed.threshold is not None
    assert 0 < sed.threshold < 1
    assert sed.cell.objective == {
        "name": "sed_sft",
        "top_k": 5,
        "quantile": 0.5,
        "weight": 5.0,
        "mask": "base",
    }
    assert ce.score_source == "category"
    assert ce.image_ids == tuple(e.image_id for e in small.benchmark().split("val"))
    assert [c.id for c in ce.categories] == [c.id for c in small.benchmark().categories]
    assert ce.data == small.benchmark().describe()
    assert ce.evaluator["engine"] == "hotcoco"
    assert ce.device["type"] == "cpu"
    assert set(ce.packages) == {"python", *PACKAGES}
    assert "not installed" not in ce.packages.values()
    assert set(ce.code) == {"version", "commit", "dirty"}
    assert set(ce.timings) == {"train", "waiting", "evaluate", "probe"}
    assert ce.evaluations[0].heldout_nll != ce.evaluations[1].heldout_nll


def test_tables_hold_every_evaluation_and_sample(finished: Path) -> None:
    """12 images, 1 + 2 answers, evaluated after steps 2 and 3."""
    samples = pd.read_parquet(cell_folder(finished, "ce") / "samples.parquet")
    assert len(samples) == 2 * 12 * 3
    assert samples["step"].unique().tolist() == [2, 3]


def test_a_row_may_be_trained_otherwise_and_is_probed(tmp_path: Path) -> None:
    changes = {
        "objectives": ["ce", {"name": "ce", "label": "sets", "train": {"targets": "all(2)", "batching": "grouped"}}],
        "train": {"steps": 3, "batch_size": 4, "probe": {"every": 2, "images": 4}},
    }
    made = context(**changes)
    runner.run(made, tmp_path, only="open_flamingo-*")
    ce, sets = (records.read_record(cell_folder(tmp_path, label)) for label in ("ce", "sets"))
    assert ce.cell.train is not None
    assert sets.cell.train == ce.cell.train | {"targets": "all(2)", "batching": "grouped"}
    assert (ce.collision_rate, sets.collision_rate) == (0.0, 1.0)
    assert [row["step"] for row in ce.probe] == [0, 2, 3]
    assert ce.probe[0] == sets.probe[0]  # both start from the base
    assert ce.probe[-1] != sets.probe[-1]
    trained = Counter(c for e in small.benchmark().split("train") for c in {i.category_id for i in e.instances})
    assert {c.id: c.train_images for c in ce.categories if c.train_images} == trained


def test_probing_does_not_change_what_is_trained(finished: Path, tmp_path: Path) -> None:
    train = {**small.mini_suite().train.model_dump(mode="json"), "probe": {"every": 1, "images": 2}}
    runner.run(context(train=train), tmp_path, only="*-ce-*")
    same = [
        records.read_record(cell_folder(folder, "ce")).files["model.safetensors"] for folder in (finished, tmp_path)
    ]
    assert same[0] == same[1]


def test_the_gallery_is_written_with_the_cells(finished: Path) -> None:
    shown = gallery.read_gallery(finished)
    assert shown is not None
    assert len(shown.pictures) == 6
    answers = gallery.samples_by_image(pd.read_parquet(cell_folder(finished, "ce") / records.GALLERY), "gallery")
    assert {picture.image_id for picture in shown.pictures} == answers.keys()
    assert all(answer.samples == 2 for answer in answers.values())


def test_objectives_share_the_base_but_not_the_result(finished: Path) -> None:
    losses = {
        label: [row["loss"] for row in records.read_record(cell_folder(finished, label)).curve]
        for label in ("ce", "sed")
    }
    assert losses["ce"] != losses["sed"]
    weights = {label: records.read_record(cell_folder(finished, label)).files["model.safetensors"] for label in losses}
    assert weights["ce"] != weights["sed"]
    assert "model.safetensors" not in records.read_record(cell_folder(finished, "base")).files


# ---- cache -------------------------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = times(finished)
    monkeypatch.setattr(runner, "compute", lambda *_: pytest.fail("a finished cell was computed again"))
    assert [record.status for record in runner.run(context(), finished)] == ["finished"] * 5
    assert times(finished) == before


def test_another_setting_makes_new_cells_beside_the_old(copy: Path) -> None:
    before = times(copy)
    train = {"steps": 2, "batch_size": 4}
    told = Told()
    (record,) = runner.run(replace(context(train=train), watch=told), copy, "*-ce-*")
    assert record.steps == (2,)
    assert told.outcomes == ["", f"AP {record.evaluations[-1].metrics['AP']:.3f}  {record.seconds:.0f} s"]
    assert set(before) < set(times(copy))
    assert len(times(copy)) == 6
    assert all(times(copy)[name] == time for name, time in before.items())


def test_cells_json_lists_the_whole_suite(copy: Path) -> None:
    suite = context(train={"steps": 2, "batch_size": 4})
    runner.run(suite, copy, "*-ce-*")
    listed = json.loads((copy / "cells.json").read_text())
    assert listed == [item.digest for item in runner.plan(suite, copy)]
    assert Suite.model_validate_json((copy / "suite.json").read_text()) == suite.suite


def test_only_selects_cells(finished: Path) -> None:
    def chosen(pattern: str) -> list[str]:
        return [item.cell.id for item in runner.plan(context(), finished, pattern)]

    assert chosen("*-ce-*") == ["open_flamingo-ce-s0"]
    assert chosen("oracle-*") == ["oracle-uniform-s0", "oracle-collapsed-s0"]
    with pytest.raises(ConfigError, match=r"matches none of: open_flamingo-base-s0, open_flamingo-ce-s0"):
        chosen("nothing")


def test_the_same_cell_elsewhere_gives_the_same_record_and_tables(finished: Path, tmp_path: Path) -> None:
    runner.run(context(), tmp_path, "*-sed-*")
    here, there = cell_folder(tmp_path, "sed"), cell_folder(finished, "sed")
    assert same(records.read_record(here)) == same(records.read_record(there))  # digests of all files included
    for name in records.TABLES:
        pd.testing.assert_frame_equal(
            pd.read_parquet(here / f"{name}.parquet"), pd.read_parquet(there / f"{name}.parquet")
        )


# ---- what an unfinished cell leaves, and who goes on with it ------------------------------------------------------


def hidden(output: Path, label: str) -> Path:
    """The work folder of a cell that was killed after its record was written, with what an earlier attempt left."""
    folder = cell_folder(output, label)
    work = layout.work(folder)
    folder.rename(work)
    (work / layout.RESUME).mkdir()
    (work / "leftover").touch()
    return work


def no_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "compute", lambda *_: pytest.fail("a cell was computed"))


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


# ---- several processes on one folder -----------------------------------------------------------------------------


class Others:
    """Another process that has the base's cell; `sleep` stands for the waiting for it and runs `acts`, one each."""

    def __init__(self, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = cell_folder(output, "base")
        self.aside = self.folder.with_name("aside")
        self.folder.rename(self.aside)
        lock = locks.acquire(output / layout.LOCKS, self.folder.name)
        assert lock is not None
        self.lock = lock
        self.acts: list[Callable[[], None]] = []
        self.waited = 0
        monkeypatch.setattr(runner, "sleep", self.sleep)

    def sleep(self, _: float) -> None:
        self.waited += 1
        self.acts.pop(0)()

    def finish(self) -> None:
        self.aside.rename(self.folder)
        (self.folder / records.RECORD).touch()
        self.lock.release()

    def fail(self) -> None:
        shutil.rmtree(self.aside / "images.parquet", ignore_errors=True)
        content = json.loads((self.aside / records.RECORD).read_text())
        (self.aside / records.RECORD).write_text(json.dumps({**content, "status": "failed", "error": "theirs"}))
        self.finish()

    def die(self) -> None:
        self.lock.path.rename(self.lock.path.with_name(replace(self.lock.owner, started=1).file_name))


@pytest.fixture
def others(copy: Path, monkeypatch: pytest.MonkeyPatch) -> Others:
    return Others(copy, monkeypatch)


class Told(Silence):
    def __init__(self) -> None:
        self.states: list[str] = []
        self.outcomes: list[str] = []

    def cell(self, cell: Cell, index: int, total: int, state: str, outcome: str = "") -> None:
        self.states.append(f"{state} {cell.id} {index}/{total}")
        self.outcomes.append(outcome)


def test_a_cell_of_another_process_is_waited_for(copy: Path, others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    """All others come first; the record of the other process counts like an own one."""
    no_computing(monkeypatch)
    others.acts = [lambda: None, others.finish]
    waiting = context()
    waiting.watch = told = Told()
    finished = runner.run(waiting, copy, "open_flamingo-*")
    assert [(record.label, record.status) for record in finished] == [(x, "finished") for x in ("base", "ce", "sed")]
    assert told.states == [
        "cached open_flamingo-ce-s0 1/3",
        "cached open_flamingo-sed-s0 2/3",
        "elsewhere open_flamingo-base-s0 3/3",
    ]
    assert others.waited == 2


def test_a_failure_of_another_process_is_not_tried_again_in_the_same_run(
    copy: Path, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        no_computing(patch)
        others.acts = [others.fail]
        since = files.clock(copy)
        time.sleep(0.05)
        (record,) = runner.run(context(), copy, "*-base-*")
        assert (record.status, record.error) == ("failed", "theirs")
        (record,) = runner.run(context(), copy, "*-base-*", since)  # a worker of that run that began late
        assert record.error == "theirs"
    (record,) = runner.run(context(), copy, "*-base-*")  # another run
    assert record.status == "finished"


def test_what_a_dead_process_leaves_is_taken_over(copy: Path, others: Others) -> None:
    others.acts = [others.die]
    taking_over = context()
    taking_over.watch = told = Told()
    (record,) = runner.run(taking_over, copy, "*-base-*")
    assert record.status == "finished"
    assert told.states == ["running open_flamingo-base-s0 1/1", "finished open_flamingo-base-s0 1/1"]
    assert list((copy / layout.LOCKS).iterdir()) == []
    assert list((copy / layout.PROGRESS).iterdir()) == []


def test_who_lost_its_lock_writes_no_record(copy: Path, others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off for longer than the lease while it computed: the cell is another process's now, so it waits for it."""
    others.lock.release()

    def cut_off(_: Context, item: Planned, *__: object) -> Record:
        (lock,) = (copy / layout.LOCKS / item.folder.name).iterdir()
        taken = replace(locks._myself(), token="fedc")
        others.lock = locks.Lock(lock.rename(lock.with_name(taken.file_name)), taken)
        return records.read_record(others.aside)

    monkeypatch.setattr(runner, "compute", cut_off)
    others.acts = [others.finish]
    (record,) = runner.run(context(), copy, "*-base-*")
    assert record == records.read_record(others.folder)
    assert not (layout.work(others.folder) / records.RECORD).exists()
    assert others.waited == 1


def test_a_cell_that_lost_its_lock_stops_when_it_tells_its_progress(
    copy: Path, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    others.lock.release()

    def cut_off(context: Context, item: Planned, *_: object) -> Record:
        (lock,) = (copy / layout.LOCKS / item.folder.name).iterdir()
        lock.rename(others.lock.path)
        context.watch.work("train", 1, 2)
        pytest.fail("it went on")

    monkeypatch.setattr(runner, "compute", cut_off)
    others.acts = [others.finish]
    (record,) = runner.run(context(), copy, "*-base-*")
    assert record.status == "finished"


# ---- failure -----------------------------------------------------------------------------------------------------


def fail_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Projection:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(OpenFlamingo, "hidden", broken)


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


# ---- what a cell's name depends on -------------------------------------------------------------------------------


def digest(cell: str = "open_flamingo-sed-s0", **changes: Any) -> str:
    return planned(cell, **changes).digest


def planned(cell: str, **changes: Any) -> Planned:
    (item,) = runner.plan(context(**changes), Path("runs"), cell)
    return item


SED = {"name": "sed_sft", "label": "sed", "top_k": 5, "quantile": 0.5, "weight": 5.0, "mask": "base"}
CHANGES: list[dict[str, Any]] = [
    {"benchmark": {"name": "shapes", **small.SETTINGS, "seed": 1}},
    {"benchmark": {"name": "shapes", **small.SETTINGS, "calibration_images": 15}},
    {"models": [{"name": "open_flamingo", "weights": "random", "bins": 64}]},
    {"models": [{"name": "open_flamingo"}]},
    {"models": [{"name": "open_flamingo", "weights": "random", "trains": "flamingo"}]},
    {"objectives": [{**SED, "weight": 1.0}]},
    {"objectives": [{**SED, "quantile": 0.4}]},
    {"objectives": [{**SED, "mask": "live"}]},
    {"train": {"steps": 3, "batch_size": 4, "eval_at": [2], "lr": 1e-3}},
    {"train": {"steps": 3, "batch_size": 4, "eval_at": [1]}},
    {"train": {"steps": 3, "batch_size": 4, "eval_at": [2], "targets": "random"}},
    {"sample": {"samples": 2, "max_tokens": 12, "temperature": 0.7}},
    {"sample": {"samples": 2, "max_tokens": 12, "grammar": True}},
    {"score": "name"},
]


def test_every_setting_is_part_of_the_digest() -> None:
    digests = [digest(), *(digest(**change) for change in CHANGES), digest("open_flamingo-sed-s1", seeds=[1])]
    assert len(set(digests)) == len(CHANGES) + 2


def test_names_and_spelt_out_defaults_are_not() -> None:
    """A label, the suite's name, what is kept, other objectives and seeds, and a default written out."""
    same_result: list[dict[str, Any]] = [
        {"suite": "other", "keep": "none", "seeds": [0, 1]},
        {"objectives": [SED]},
        {"models": [{"name": "open_flamingo", "weights": "random", "bins": 65, "config": "tiny"}]},
        {"train": {"steps": 3, "batch_size": 4, "eval_at": [2], "lr": 3.0e-4}},
    ]
    assert {digest(**change) for change in same_result} == {digest()}
    relabelled = planned("open_flamingo-other-s0", objectives=[{**SED, "label": "other"}])
    assert relabelled.digest == digest()
    assert relabelled.folder != planned("open_flamingo-sed-s0").folder


def test_train_settings_do_not_touch_the_base() -> None:
    assert digest("*-base-*", train={"steps": 9}) == digest("*-base-*")


# ---- what is kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("none", set()),
        ("last", {"model.safetensors"}),
        ("all", {"model.safetensors", "model-step1.safetensors", "model-step2.safetensors"}),
    ],
)
def test_keep(keep: str, expected: set[str], tmp_path: Path) -> None:
    train = {"steps": 2, "batch_size": 2, "eval_at": [1]}
    (record,) = runner.run(context(keep=keep, train=train), tmp_path, "*-ce-*")
    assert {name for name in record.files if name.endswith(".safetensors")} == expected
    if keep == "all":
        assert record.files["model-step2.safetensors"] == record.files["model.safetensors"]
        assert record.files["model-step1.safetensors"] != record.files["model.safetensors"]


# ---- devices -----------------------------------------------------------------------------------------------------


def test_without_cuda_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(ConfigError, match="--device cuda: no CUDA device here"):
        accelerator_on("cuda")
    assert accelerator_on("auto").device.type == "cpu"
