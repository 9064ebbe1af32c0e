"""Several processes on one folder: who waits, who takes over, who writes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import records
from harness.records import Record, layout
from harness.run import runner
from harness.run.context import Context, Planned
from harness.system import files, locks
from tests.run.mini_runs import Told, cell_folder, context, no_computing


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
