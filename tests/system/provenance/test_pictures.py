"""Digests of pictures: what changes them, and what is read for them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from harness.system.provenance import pictures as picture_digests
from harness.system.provenance.pictures import digest_pictures

OLD = 1_700_000_000
"""Seconds: files of the test were written long ago."""


@pytest.fixture(autouse=True)
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read, in a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths: list[str] = []

    def read(path: Path) -> str:
        paths.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(picture_digests, "sha256", read)
    return paths


def pictures(folder: Path, **contents: bytes) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.png").write_bytes(content)
        os.utime(folder / f"{name}.png", (OLD, OLD))
    return [folder / f"{name}.png" for name in contents]


def test_the_digest_by_hand(tmp_path: Path) -> None:
    content = hashlib.sha256(b"abc").hexdigest()
    expected = hashlib.sha256(f"a.png\0{3}\0{content}\n".encode()).hexdigest()
    assert digest_pictures(pictures(tmp_path / "x", a=b"abc")) == expected


def test_order_and_place_do_not_matter_names_and_contents_do(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "x", a=b"one", b=b"two")
    expected = digest_pictures(paths)
    assert digest_pictures(reversed(paths)) == expected
    assert digest_pictures(pictures(tmp_path / "moved", a=b"one", b=b"two")) == expected
    others = [
        pictures(tmp_path / "renamed", a=b"one", c=b"two"),
        pictures(tmp_path / "changed", a=b"one", b=b"owt"),
        pictures(tmp_path / "fewer", a=b"one"),
        [*paths, tmp_path / "x" / "missing.png"],
    ]
    assert len({expected, *map(digest_pictures, others)}) == 5


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, reads: list[str]) -> None:
    paths = pictures(tmp_path / "x", a=b"one", b=b"two")
    expected = digest_pictures(paths)
    assert sorted(reads) == ["a.png", "b.png"]
    assert digest_pictures(paths) == expected
    assert len(reads) == 2
    pictures(tmp_path / "x", b=b"three")
    assert digest_pictures(paths) != expected
    assert reads[2:] == ["b.png"]
    assert digest_pictures(paths[:1]) != expected  # a part of a folder forgets nothing of the rest
    digest_pictures(paths)
    assert len(reads) == 3


def test_a_file_written_just_now_is_read_again(tmp_path: Path) -> None:
    """It may be written once more within the tick of the clock, with the same size."""
    (path,) = pictures(tmp_path / "x", a=b"one")
    os.utime(path)
    first = digest_pictures([path])
    changed = path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(changed, changed))
    assert digest_pictures([path]) != first


def test_a_damaged_cache_costs_time_only(tmp_path: Path, reads: list[str]) -> None:
    paths = pictures(tmp_path / "x", a=b"one")
    expected = digest_pictures(paths)
    (cache,) = (tmp_path / "cache" / "detmodes" / "pictures").iterdir()
    cache.write_text("{")
    assert digest_pictures(paths) == expected
    assert reads == ["a.png", "a.png"]


def test_progress_is_told_to_the_last_file(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    digest_pictures(
        [*pictures(tmp_path / "x", a=b"1", b=b"2"), *pictures(tmp_path / "y", a=b"3")],
        lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
