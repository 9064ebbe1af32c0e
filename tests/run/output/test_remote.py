"""Output at a URL: what is brought and sent, in which order, what is left alone, and what a listing cannot do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from harness import records
from harness.errors import ConfigError, DataError
from harness.records import RECORD, gallery, layout
from harness.report.renderers import text
from harness.run import runner
from harness.run.context import open_context
from harness.run.output import mirror
from harness.run.output.mirror import Mirror, SendingWatch
from harness.suite.cells import cells
from harness.system import files, locks
from tests.support import fake_cells, small

URL = "memory://bucket/runs/mini"
ROOT = "/bucket/runs/mini"
SUITE = fake_cells.suite(seeds=[0])


@pytest.fixture(autouse=True)
def store() -> Iterator[Any]:
    """The memory file system, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A run with a failed cell, a missing one, weights, and what only this machine needs."""
    folder = fake_cells.write_run(tmp_path / "a", SUITE, images=6, failed=[("ce", 0)], missing=[("sed", 0)])
    base = cell(folder, "base")
    (base / "model.safetensors").write_bytes(b"weights")
    record = records.read_record(base)
    fake_cells.rewrite(base, files={**record.files, "model.safetensors": files.sha256(base / "model.safetensors")})
    (folder / gallery.FOLDER).mkdir()
    (folder / gallery.FOLDER / "100.png").write_bytes(b"picture")
    work = layout.work(base)
    (work / layout.RESUME).mkdir(parents=True)
    (work / layout.RESUME / "checkpoint").write_bytes(b"state")
    return folder


def cell(folder: Path, row: str) -> Path:
    """The folder of a row's only cell."""
    (path,) = (folder / layout.CELLS).glob(f"[!.]*{row}-s0-*")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sent(store: Any) -> dict[str, bytes]:
    """What is at the URL, by relative name."""
    return {path.removeprefix(f"{ROOT}/"): store.cat_file(path) for path in store.find(ROOT)}


# ---- there and back ------------------------------------------------------------------------------------------------


def test_all_but_work_is_sent_and_all_but_weights_is_brought(here: Path, tmp_path: Path, store: Any) -> None:
    Mirror(URL, here).send()
    everything = {name: content for name, content in contents(here).items() if layout.RESUME not in name}
    assert sent(store) == everything
    Mirror(URL, tmp_path / "b").bring()
    brought = contents(tmp_path / "b")
    assert {name for name in everything if name not in brought} == {
        f"cells/{cell(here, 'base').name}/model.safetensors"
    }
    for folder in (here / layout.CELLS).glob("[!.]*"):
        assert records.read_record(tmp_path / "b" / layout.CELLS / folder.name) == records.read_record(folder)
    assert text.to_csv(text.load(tmp_path / "b")) == text.to_csv(text.load(here))


def test_the_record_is_sent_last_and_an_old_one_goes_first(
    here: Path, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed record is at the URL, a finished one here: never an old record beside new files."""
    name = cell(here, "base").name
    store.pipe_file(f"{ROOT}/cells/{name}/{RECORD}", (cell(here, "ce") / RECORD).read_bytes())
    calls: list[str] = []
    for method in ("put_file", "rm_file"):
        monkeypatch.setattr(store, method, spied(calls, getattr(store, method)))
    Mirror(URL, here).send_cell(name)
    assert calls[0] == calls[-1] == f"{ROOT}/cells/{name}/{RECORD}"
    assert len(calls) == len(set(calls)) + 1 == 1 + len(list(cell(here, "base").iterdir()))
    assert sent(store)[f"cells/{name}/{RECORD}"] == (cell(here, "base") / RECORD).read_bytes()


def spied(calls: list[str], method: Any) -> Any:
    def call(*arguments: str, **options: Any) -> Any:
        calls.append(arguments[-1])
        return method(*arguments, **options)

    return call


def test_nothing_is_sent_twice(here: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror(URL, here)
    mirror.send()
    calls: list[str] = []
    monkeypatch.setattr(store, "put_file", spied(calls, store.put_file))
    mirror.send()
    again = Mirror(URL, here)
    again.bring()
    again.send_cell(cell(here, "base").name)
    assert calls == []


def test_the_first_finished_record_stays(here: Path, tmp_path: Path, store: Any) -> None:
    """Two machines have computed a cell: each keeps its own, the URL that of the first."""
    other = shutil.copytree(here, tmp_path / "b")
    fake_cells.rewrite(cell(other, "base"), timings={"train": 5.0})
    fake_cells.rewrite(cell(other, "ce"), error="another one")
    Mirror(URL, here).send()
    before = sent(store)
    second = Mirror(URL, other)
    second.bring()
    second.send()
    assert sent(store) == before
    assert records.read_record(cell(other, "base")).timings == {"train": 5.0}
    assert (
        records.read_record(cell(other, "ce")).error == "ValueError: no luck"
    )  # a failure is no result: the latest is shown


@pytest.mark.parametrize("damage", ["changed", "missing", "record"])
def test_a_cell_that_is_not_whole_is_left_there_and_sent_anew(
    here: Path, tmp_path: Path, store: Any, damage: str
) -> None:
    Mirror(URL, here).send()
    name = cell(here, "base").name
    place = f"{ROOT}/cells/{name}"
    if damage == "changed":
        store.pipe_file(f"{place}/images.parquet", b"something else")
    elif damage == "missing":
        store.rm_file(f"{place}/images.parquet")
    else:
        store.pipe_file(f"{place}/{RECORD}", b'{"format": 1, "sta')
    other = Mirror(URL, tmp_path / "b")
    other.bring()
    names = {path.name for path in (tmp_path / "b" / layout.CELLS).iterdir()}
    assert names == {path.name for path in (here / layout.CELLS).glob("[!.]*")} - {name}
    if damage == "record":  # its sender was killed, and goes on
        Mirror(URL, here).send()
        other.bring()
        assert records.read_record(tmp_path / "b" / layout.CELLS / name).status == "finished"


def test_a_cell_that_is_computed_here_is_not_touched(here: Path, tmp_path: Path) -> None:
    Mirror(URL, here).send()
    other, name = Mirror(URL, tmp_path / "b"), cell(here, "base").name
    with locks.held(tmp_path / "b" / layout.LOCKS, name) as lock:
        assert lock is not None
        other.bring()
        assert not (tmp_path / "b" / layout.CELLS / name).exists()
    other.bring()
    assert (tmp_path / "b" / layout.CELLS / name / RECORD).is_file()


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        f"{ROOT}/cells/..",
        f"{ROOT}/cells/../../up",
        "..",
        "/",
        "a\\..\\b",
        f"{ROOT}/cells/.hidden",
        "x\n",
    ],
)
def test_no_listing_leads_out_of_the_folder(
    name: str, here: Path, tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a server lists, cells and pictures go under `cells` and `gallery`, or nowhere."""
    Mirror(URL, here).send()
    before = contents(tmp_path)
    monkeypatch.setattr(store, "ls", lambda *_, **__: [name])
    asked: list[str] = []
    monkeypatch.setattr(store, "cat_file", spied(asked, store.cat_file))
    Mirror(URL, tmp_path / "new" / "b").bring()
    new = {path: content for path, content in contents(tmp_path).items() if path not in before}
    assert set(new) == {f"new/b/{layout.SUITE}", f"new/b/{layout.DIGESTS}"}
    assert not any(".." in path for path in asked)


def test_no_record_leads_out_of_the_folder(here: Path, tmp_path: Path, store: Any) -> None:
    """A record that names a file elsewhere is no record."""
    fake_cells.rewrite(cell(here, "base"), files={"../../../escaped": "0" * 64})
    name = cell(here, "base").name
    store.pipe_file(f"{ROOT}/cells/{name}/{RECORD}", (cell(here, "base") / RECORD).read_bytes())
    Mirror(URL, tmp_path / "b").bring()
    assert contents(tmp_path / "b") == {}


# ---- a run ---------------------------------------------------------------------------------------------------------


def test_a_run_sends_each_cell_when_it_is_done_and_the_next_machine_does_not_compute_it(
    tmp_path: Path, store: Any
) -> None:
    suite, told = small.mini_suite(), Told(store)
    only = "oracle-*"
    first = Mirror(URL, tmp_path / "a")
    made = runner.run(open_context(suite, None, "cpu", SendingWatch(told, first)), first.folder, only)
    assert told.sent_when == [("running", 0), ("finished", 0), ("running", 1), ("finished", 1)]
    assert sum(RECORD in name for name in sent(store)) == 2
    second = Mirror(URL, tmp_path / "b")
    second.bring()
    told.sent_when.clear()
    again = runner.run(open_context(suite, None, "cpu", SendingWatch(told, second)), second.folder, only)
    assert [state for state, _ in told.sent_when] == ["cached", "cached"]
    assert again == made


class Told:
    """A Watch that notes how many cells are at the URL at each piece of news."""

    def __init__(self, store: Any) -> None:
        self.store, self.sent_when = store, list[tuple[str, int]]()

    def cell(self, *news: Any) -> None:
        self.sent_when.append((news[3], sum(RECORD in name for name in sent(self.store))))

    def work(self, kind: str, done: int, total: int, note: str = "") -> None: ...


def test_a_url_that_cannot_be_written_to_ends_a_run_before_its_work_but_not_after(
    here: Path, store: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror, put_file = Mirror(URL, here), store.put_file

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("no such bucket\nor no key")

    monkeypatch.setattr(store, "put_file", refuse)
    with pytest.raises(DataError, match=rf"^{URL}: cannot be reached: PermissionError: no such bucket or no key; what"):
        mirror.send_or_warn()
    monkeypatch.setattr(store, "put_file", put_file)
    mirror.send_or_warn()
    fake_cells.rewrite(cell(here, "ce"), error="again")
    monkeypatch.setattr(store, "put_file", refuse)
    mirror.send_or_warn()
    assert capsys.readouterr().err.startswith(f"detmodes: not sent yet: {URL}: cannot be reached: PermissionError")
    monkeypatch.setattr(store, "put_file", put_file)
    mirror.send_or_warn()  # what could not be sent is not forgotten
    assert b"again" in sent(store)[f"cells/{cell(here, 'ce').name}/{RECORD}"]


def test_the_command_line_takes_a_url(tmp_path: Path) -> None:
    """One process sends, others with caches of their own report and publish."""
    url = f"file://{tmp_path / 'there'}"
    fake_cells.write_run(tmp_path / "a", fake_cells.suite(seeds=[0, 1]), images=12)
    Mirror(url, tmp_path / "a").send()
    table = detmodes(tmp_path / "cache", "report", url, "--format", "csv")
    assert (table.returncode, table.stderr) == (0, "")
    assert table.stdout == text.to_csv(text.load(tmp_path / "a"))
    listed = detmodes(tmp_path / "cache", "status", url)
    assert f"{len(list(cells(fake_cells.suite(seeds=[0, 1]))))} finished" in listed.stdout
    (cached,) = (tmp_path / "cache" / "detmodes" / "urls").iterdir()
    assert cached.name.startswith("there-")


def detmodes(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = (
        f"import os, sys; os.environ['XDG_CACHE_HOME'] = {str(cache)!r}; from harness.commands.app import main; main()"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)


# ---- what a URL is -------------------------------------------------------------------------------------------------


def test_a_folder_is_itself_and_needs_no_mirror(tmp_path: Path) -> None:
    assert mirror.local("runs/x") == Path("runs/x")
    assert mirror.opened(str(tmp_path)) == (tmp_path, None)


def test_two_urls_have_two_folders_and_one_url_has_one() -> None:
    folder = Mirror(URL).folder
    assert folder.parent == files.cache_root() / "urls"
    assert Mirror(f"{URL}/").folder == folder
    assert len({folder, Mirror("memory://bucket/other/mini").folder, Mirror("memory://bucket/runs/Mini").folder}) == 3


def test_a_url_means_the_same_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Mirror("file://out").url == f"file://{tmp_path}/out"


def test_an_empty_url_holds_no_run() -> None:
    with pytest.raises(DataError, match=rf"^{URL}: expected the output of a run, found no suite\.json$"):
        mirror.local(URL)


def test_an_unknown_protocol_is_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^nosuch://x: expected a URL that fsspec can open: Protocol not known: nosuch$"
    ):
        Mirror("nosuch://x")


@pytest.mark.parametrize("url", ["reference://x", "github://x", "generic://x", "tar://no-such-file"])
def test_a_url_that_cannot_be_opened_is_one_line(url: str) -> None:
    """Some file systems want more than a URL, and raise whatever that leads to."""
    with pytest.raises(ConfigError) as caught:
        Mirror(url)
    assert str(caught.value).startswith(f"{url}: expected a URL that fsspec can open: ")
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is where s3fs is not installed."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigError, match=r"^s3://bucket/x: expected a URL .*: Install s3fs to access S3$"):
        Mirror("s3://bucket/x")
