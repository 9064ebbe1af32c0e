"""Files are whole or not there, whoever writes them, and names cannot lead out of their folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.system import files
from harness.system.files import PLAIN_NAME, check_place, clock, partials, remove, replacing, write_text


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_old_text_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_text(path, "old")
    with replacing(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old"
        assert partials(tmp_path) == [partial]
    assert content(tmp_path) == {"record.json": "half"}


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_text(path, "old")

    def interrupted() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert content(tmp_path) == {"record.json": "old"}


def test_a_file_has_the_usual_permissions(tmp_path: Path) -> None:
    """Others who share the folder may read it where the umask says so."""
    (tmp_path / "usual").write_text("")
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_it_is_on_disk_before_it_is_in_place_and_then_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        steps.append(f"sync {'folder' if Path(f'/proc/self/fd/{descriptor}').readlink().is_dir() else 'file'}")
        fsync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_text(tmp_path / "record.json", "new")
    assert steps == ["sync file", "replace", "sync folder"]


def test_a_folder_that_cannot_be_synced_is_no_failure_a_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refused)
    files.sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        write_text(tmp_path / "record.json", "new")
    assert content(tmp_path) == {}


def test_many_writers_of_one_file_do_not_collide(tmp_path: Path) -> None:
    """As long as they write there is one whole text, and in the end no partial one."""
    path, texts = tmp_path / "suite.json", [str(index) * 20_000 for index in range(8)]
    write_text(path, texts[0])
    problems: list[BaseException] = []

    def work(text: str) -> None:
        try:
            for _ in range(10):
                write_text(path, text)
                assert path.read_text() in texts
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_a_partial_file_apart(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_text(path, "old")
    code = f"""
import os, signal
from pathlib import Path
from harness.system.files import replacing
with replacing(Path({str(path)!r})) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert path.read_text() == "old"
    (left,) = partials(tmp_path)
    assert left.read_text() == "half"
    write_text(path, "new")
    assert content(tmp_path) == {"record.json": "new", left.name: "half"}


def test_the_clock_is_that_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "before").touch()
    now = clock(tmp_path)
    (tmp_path / "after").touch()
    assert (tmp_path / "before").stat().st_mtime <= now <= (tmp_path / "after").stat().st_mtime
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after", "before"]


def test_removing_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "folder" / "inner" / "link").symlink_to(tmp_path / "mine")
    for name in ("link", "folder", "nothing"):
        remove(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine" / "file").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "a\0b", "a\nb", ".hidden"])
def test_names_that_lead_elsewhere(name: str) -> None:
    assert not re.match(PLAIN_NAME, name)


@pytest.mark.parametrize("name", ["images.parquet", "model-step80.safetensors", "a..b", "Band_Aid (x)", "größe"])
def test_plain_names(name: str) -> None:
    assert re.match(PLAIN_NAME, name)


def test_a_place_is_checked_before_the_work(tmp_path: Path) -> None:
    check_place(tmp_path / "metrics.json")
    with pytest.raises(ConfigError, match=r"metrics\.json: expected a place in an existing folder"):
        check_place(tmp_path / "none" / "metrics.json")
