"""A part of another package is known by its source."""

from __future__ import annotations

import hashlib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from harness.system.provenance import parts


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of somebody else's and a module, as an installer leaves them."""
    (tmp_path / "theirs" / "deep").mkdir(parents=True)
    for name in ("__init__.py", "model.py", "deep/__init__.py", "deep/layers.py", "notes.txt"):
        (tmp_path / "theirs" / name).write_text(f"# {name}\n")
    (tmp_path / "single.py").write_text("x = 1\n")
    metadata = tmp_path / "their_models-2.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-models\nVersion: 2.1\n")
    (metadata / "entry_points.txt").write_text("[detmodes.adapters]\ntheirs = theirs.model:Theirs\none = single:One\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    parts.digest_source.cache_clear()
    return tmp_path


def digest(module: str) -> str:
    parts.digest_source.cache_clear()
    return parts.digest_source(module)


@pytest.mark.usefixtures("installed")
def test_a_part_says_where_it_comes_from() -> None:
    (point,) = (point for point in entry_points(group="detmodes.adapters") if point.name == "theirs")
    described = parts.describe_part(point)
    assert (described.reference, described.package, described.version) == ("theirs.model:Theirs", "their-models", "2.1")
    assert described.source == digest("theirs.model")


@pytest.mark.usefixtures("installed")
def test_the_digest_of_one_module_by_hand() -> None:
    content = hashlib.sha256(b"x = 1\n").hexdigest()
    assert digest("single") == hashlib.sha256(f"single.py\0{content}\n".encode()).hexdigest()


@pytest.mark.parametrize(
    ("file", "changes"),
    [("model.py", True), ("deep/layers.py", True), ("deep/new.py", True), ("notes.txt", False)],
)
def test_any_python_file_of_the_package_counts(installed: Path, file: str, changes: bool) -> None:
    before = digest("theirs.model")
    (installed / "theirs" / file).write_text("# something else\n")
    assert (digest("theirs.model") != before) == changes


def test_what_has_no_source_is_unknown() -> None:
    assert digest("no_such_module_anywhere") == digest("sys") == parts.UNKNOWN
