"""What status says in every state, what clean takes and what it keeps, and that folders of others lead nowhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import records
from harness.commands.console import overview
from harness.errors import DataError
from harness.records import layout
from harness.report.results import load
from harness.run.output import clean, progress, status
from harness.run.output.progress import Progress, ProgressWriter
from harness.run.output.status import CellStatus
from harness.suite.cells import listed
from harness.system import files, locks
from tests.support import fake_cells

NAMES = {"base": 0, "ce": 1, "sed": 2, "oracle-uniform": 3, "oracle-collapsed": 4}
"""Row of the fake suite -> where its only cell is."""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """base and the oracles have finished, ce has failed, sed has not begun."""
    suite = fake_cells.suite(seeds=[0])
    return fake_cells.write_run(tmp_path / "out", suite, images=6, failed=[("ce", 0)], missing=[("sed", 0)])


def at(output: Path, row: str) -> CellStatus:
    return status.read(output).cells[NAMES[row]]


def work_of(output: Path, row: str) -> Path:
    return layout.work(at(output, row).folder)


def begin(output: Path, row: str, **news: Any) -> Path:
    """A work folder, and progress as its owner would write it."""
    folder = work_of(output, row)
    (folder / layout.RESUME).mkdir(parents=True)
    (folder / layout.RESUME / "state").write_text("x" * 1000)
    content = {"kind": "train", "done": 30, "total": 240, "note": "", "left": 70.0, "spent": 10.0} | news
    (output / layout.PROGRESS).mkdir(exist_ok=True)
    path = output / layout.PROGRESS / f"{at(output, row).folder.name}.json"
    path.write_text(Progress.model_validate(content).model_dump_json())
    return folder


@pytest.fixture
def running(output: Path) -> Iterator[Callable[[str], None]]:
    """Has this process compute a cell."""
    taken = []

    def take(row: str) -> None:
        lock = locks.acquire(output / layout.LOCKS, at(output, row).folder.name)
        assert lock is not None
        taken.append(lock)

    yield take
    for lock in taken:
        lock.release()


# ---- states --------------------------------------------------------------------------------------------------------


def test_cells_that_nobody_is_at(output: Path) -> None:
    progress = status.read(output)
    assert [item.state for item in progress.cells] == ["finished", "failed", "waiting", "finished", "finished"]
    assert [item.error for item in progress.cells] == ["", "ValueError: no luck", "", "", ""]
    assert {item.owner for item in progress.cells} == {None}
    assert progress.suite == "fake"
    assert (progress.count("finished"), progress.count("running")) == (3, 0)


def test_a_cell_that_is_computed(output: Path, running: Callable[[str], None]) -> None:
    """Also one that failed before: the old error is shown with it."""
    begin(output, "sed")
    running("sed")
    running("ce")
    sed, ce = at(output, "sed"), at(output, "ce")
    assert (sed.state, ce.state) == ("running", "running")
    assert sed.owner is not None
    assert sed.owner.endswith(f":{os.getpid()}")
    assert sed.progress == Progress(kind="train", done=30, total=240, note="", left=70.0, spent=10.0)
    assert (ce.progress, ce.error) == (None, "ValueError: no luck")


def test_a_cell_that_was_left(output: Path) -> None:
    """Without a lock, and with that of a dead owner."""
    begin(output, "sed")
    begin(output, "ce")
    dead = replace(locks._myself(), started=1)
    lock = output / layout.LOCKS / at(output, "ce").folder.name / dead.file_name
    lock.parent.mkdir(parents=True)
    lock.touch()
    for row in ("sed", "ce"):
        assert (at(output, row).state, at(output, row).owner) == ("interrupted", None)
        news = at(output, row).progress
        assert news is not None
        assert news.done == 30


def test_a_cell_that_workers_finish_is_told_with_what_it_came_to(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that this process computes. The first look tells nothing: what is done then is of an earlier run."""
    everything = status.read(output)
    before = replace(everything, cells=tuple(item for item in everything.cells if item.cell.label != "base"))
    with overview(quiet=False) as show:
        show(before)
        show(everything)
    (cell,) = (item for item in everything.cells if item.cell.label == "base")
    record = records.read_record(cell.folder)
    expected = f"finished  {cell.cell.id}  AP {record.evaluations[-1].metrics['AP']:.3f}  {record.seconds:.0f} s"
    assert [line.strip() for line in capsys.readouterr().err.splitlines() if "finished" in line] == [expected]
    assert [item.outcome for item in everything.cells if item.state == "failed"] == [""]


def test_a_record_that_is_none_is_told(output: Path) -> None:
    (at(output, "base").folder / records.RECORD).write_text("{")
    item = at(output, "base")
    assert item.state == "waiting"
    assert "record.json: field (file): Invalid JSON" in item.error


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"suite\.json: not found; expected the output folder of a run"):
        status.read(tmp_path)


# ---- time left -----------------------------------------------------------------------------------------------------


def test_time_left_comes_from_finished_cells_of_the_role(tmp_path: Path) -> None:
    """Trained cells of 100 s and 140 s give 120 s. One that has had 30 s has 90 s to go; one that has had more than
    120 s what its work in hand still takes; one that waits 120 s. Two at a time: (90 + 7 + 120) / 2."""
    suite = fake_cells.suite(seeds=[0, 1, 2])
    missing = [("ce", 2), ("sed", 1), ("sed", 2)]
    output = fake_cells.write_run(tmp_path / "out", suite, images=6, missing=missing)
    cells = {item.cell.id: item.folder for item in status.read(output).cells}
    trained = [cells[name] for name in ("toy-ce-s0", "toy-ce-s1", "toy-sed-s0")]
    for folder, seconds in zip(trained, (80.0, 120.0, 100.0), strict=True):
        fake_cells.rewrite(folder, timings={"train": seconds, "waiting": 50.0, "evaluate": 20.0})
        os.utime(folder / records.RECORD, ns=(1, 1))
    (output / layout.PROGRESS).mkdir()
    news = {"kind": "train", "done": 3, "total": 9, "note": ""}
    for name, spent, left in (("toy-ce-s2", 30.0, None), ("toy-sed-s1", 150.0, 7.0)):
        text = Progress.model_validate(news | {"left": left, "spent": spent}).model_dump_json()
        (output / layout.PROGRESS / f"{cells[name].name}.json").write_text(text)
        assert locks.acquire(output / layout.LOCKS, cells[name].name)
    progress = status.read(output)
    left_of = {item.cell.id: item.seconds_left for item in progress.cells if item.state not in ("finished", "failed")}
    assert left_of == {"toy-ce-s2": 90.0, "toy-sed-s1": 7.0, "toy-sed-s2": 120.0}
    assert progress.seconds_left == (90 + 7 + 120) / 2


def test_without_a_finished_cell_the_work_in_hand_is_all_there_is(output: Path) -> None:
    begin(output, "sed", left=70.0)
    assert at(output, "sed").seconds_left == 70.0
    begin(output, "ce", left=None)
    assert at(output, "ce").seconds_left is None
    assert status.read(output).seconds_left is None


# ---- what owners write ---------------------------------------------------------------------------------------------


class Told:
    """A Watch that notes what it is told."""

    def __init__(self) -> None:
        self.works: list[tuple[str, int, int, str]] = []

    def cell(self, *_: object) -> None: ...

    def work(self, kind: str, done: int, total: int, note: str = "") -> None:
        self.works.append((kind, done, total, note))


def test_a_recorder_writes_now_and_then_and_passes_everything_on(tmp_path: Path) -> None:
    """Steps of 0.5 s, written every 2 s, from step 100 on (a cell that goes on): at 104 after 2 s it has made 4 steps,
    the other 136 take 68 s. Another kind of work is written at once, without a speed yet. 30 s were spent before."""
    now = 0.0
    told, checks = Told(), []
    recorder = ProgressWriter(told, tmp_path, lambda: now)
    (tmp_path / layout.PROGRESS).mkdir()
    before = Progress(kind="train", done=99, total=240, note="", left=None, spent=30.0)
    (tmp_path / layout.PROGRESS / "cell.json").write_text(before.model_dump_json())
    passed_on = []
    recorder.work("outside", 1, 2)
    with recorder.during("cell", lambda: checks.append(now)):
        for step in range(100, 106):
            recorder.work("train", step, 240, f"loss {step}")
            passed_on.append(progress.read_progress(tmp_path, "cell"))
            now += 0.5
        recorder.work("evaluate at 105", 0, 12)
    first = Progress(kind="train", done=100, total=240, note="loss 100", left=None, spent=30.0)
    later = Progress(kind="train", done=104, total=240, note="loss 104", left=68.0, spent=32.0)
    assert passed_on == [first] * 4 + [later] * 2
    assert progress.read_progress(tmp_path, "cell") == Progress(
        kind="evaluate at 105", done=0, total=12, note="", left=None, spent=33.0
    )
    assert checks == [0.0, 2.0, 3.0]
    assert len(told.works) == 8
    progress.remove_progress(tmp_path, "cell")
    progress.remove_progress(tmp_path, "cell")
    assert progress.read_progress(tmp_path, "cell") is None


def test_progress_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / layout.PROGRESS).mkdir()
    (tmp_path / layout.PROGRESS / "cell.json").write_text('{"kind": 3}')
    assert progress.read_progress(tmp_path, "cell") is None


# ---- clean ---------------------------------------------------------------------------------------------------------


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def old(path: Path) -> Path:
    path.write_text("half")
    moment = files.clock(path.parent) - locks.LEASE - 5
    os.utime(path, (moment, moment))
    return path


def test_clean_takes_what_no_record_needs(output: Path) -> None:
    before = tree(output)
    begin(output, "base")
    other = output / layout.CELLS / ".of-another-suite-s0-01234567"
    other.mkdir()
    lock = output / layout.LOCKS / "dead" / replace(locks._myself(), started=1).file_name
    lock.parent.mkdir(parents=True)
    lock.touch()
    partial = old(output / f".suite.json.0123{files.PARTIAL}")
    news = output / layout.PROGRESS / f"{at(output, 'base').folder.name}.json"
    size = news.stat().st_size
    removable = clean.find(output)
    assert {(str(item.path.relative_to(output)), item.size) for item in removable} == {
        (str(work_of(output, "base").relative_to(output)), 1000),
        (str(other.relative_to(output)), 0),
        (str(news.relative_to(output)), size),
        ("locks/dead", 0),
        (partial.name, 4),
    }
    assert clean.remove(output, removable) == 1000 + size + 4
    assert tree(output) == before | {"locks", "progress"}
    assert clean.find(output) == []


def test_clean_keeps_what_is_needed(output: Path, running: Callable[[str], None]) -> None:
    """The cells themselves, what a cell goes on from, what somebody is at, and what may still be being written."""
    begin(output, "sed")
    begin(output, "ce")
    begin(output, "base")
    running("base")
    (output / f".suite.json.0123{files.PARTIAL}").write_text("half")
    assert clean.find(output, weights=True) == []


def test_what_somebody_begins_before_it_is_removed_stays(output: Path, running: Callable[[str], None]) -> None:
    folder = begin(output, "base")
    removable = clean.find(output)
    running("base")
    assert clean.remove(output, removable) == 0
    assert folder.is_dir()


def test_weights_go_only_when_asked_for_and_tables_stay(output: Path) -> None:
    folder = at(output, "base").folder
    (folder / "model.safetensors").write_bytes(b"w" * 500)
    digests = {path.name: files.sha256(path) for path in folder.iterdir() if path.name != records.RECORD}
    fake_cells.rewrite(folder, files=digests)
    assert clean.find(output) == []
    removable = clean.find(output, weights=True)
    assert [(item.path, item.size) for item in removable] == [(folder / "model.safetensors", 500)]
    assert clean.remove(output, removable) == 500
    assert at(output, "base").state == "finished"
    assert len(load(output).records) == 3


# ---- folders of others ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/../../b.safetensors", ".."])
def test_a_record_cannot_name_files_elsewhere(output: Path, name: str) -> None:
    folder = at(output, "base").folder
    record = json.loads((folder / records.RECORD).read_text())
    fake_cells.rewrite(folder, files={**record["files"], name: "0" * 64})
    with pytest.raises(DataError, match=r"record\.json: field files\..*should match pattern"):
        records.read_record(folder)


@pytest.mark.parametrize("digest", ["/../../x", "..", "0" * 63, "G" * 64, "A" * 64, 5])
def test_a_digest_cannot_lead_elsewhere(output: Path, digest: object) -> None:
    path = output / layout.DIGESTS
    path.write_text(json.dumps([digest, *json.loads(path.read_text())[1:]]))
    with pytest.raises(DataError, match=r"cells\.json: expected the digests of the suite's 5 cells"):
        listed(output)


def test_a_label_cannot_lead_elsewhere(output: Path) -> None:
    path = output / layout.SUITE
    suite = json.loads(path.read_text())
    suite["objectives"][0]["label"] = "../../elsewhere"
    path.write_text(json.dumps(suite))
    with pytest.raises(DataError, match=r"suite\.json: field objectives\.0\.label: String should match pattern"):
        listed(output)


def test_a_link_among_the_leftovers_is_removed_and_not_followed(output: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").touch()
    link = output / layout.CELLS / ".link-01234567"
    link.symlink_to(mine)
    clean.remove(output, clean.find(output))
    assert not link.is_symlink()
    assert (mine / "file").exists()
