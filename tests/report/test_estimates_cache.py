"""What reports keep of large cells: the next one reads it, and never believes what is stale or damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.records import layout
from harness.report import estimates, estimates_cache, results
from harness.report.renderers.text import to_csv, to_markdown
from harness.report.results import load
from tests.support import fake_cells


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two rows of one seed and the oracles, each of them large enough to be kept."""
    monkeypatch.setattr(estimates_cache, "WORTH", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    suite = fake_cells.suite(objectives=["ce"], seeds=[0], early_stops=[], hypotheses=[], sample={"samples": 4})
    return fake_cells.write_run(tmp_path / "run", suite, images=8)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """(step, temperature) of everything that is computed, not read."""
    calls: list[Any] = []
    original = estimates.estimate

    def counted(cell: Any, *where: Any) -> Any:
        calls.append(where[:2])
        return original(cell, *where)

    monkeypatch.setattr(results, "estimate", counted)
    return calls


def report(folder: Path) -> str:
    made = load(folder)
    return to_markdown(made, per_category=True) + to_csv(made)


def test_the_second_report_computes_nothing_and_says_the_same(run: Path, computed: list[Any]) -> None:
    first = report(run)
    assert len(computed) == 6  # ce at three steps, base and two oracles at theirs: each once, whoever asks
    computed.clear()
    assert report(run) == first
    assert computed == []


def test_what_was_kept_is_not_believed_when_damaged(run: Path, computed: list[Any]) -> None:
    first = report(run)
    for path in (run / layout.ESTIMATES).rglob("*.npz"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    computed.clear()
    assert report(run) == first
    assert len(computed) == 6


def test_what_was_kept_of_another_record_is_stale(run: Path, computed: list[Any]) -> None:
    report(run)
    computed.clear()
    (cell,) = (run / "cells").glob("toy-ce-*")
    fake_cells.rewrite(cell, own_peak_mib=1.0)
    assert "peak_memory_mib,1.000000" in report(run)
    assert len(computed) == 3


def test_what_other_code_computed_is_stale(run: Path, computed: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    report(run)
    computed.clear()
    monkeypatch.setattr(estimates_cache, "_code", lambda: "another")
    report(run)
    assert len(computed) == 6


def test_a_folder_that_cannot_be_written_is_kept_elsewhere(run: Path, computed: list[Any], tmp_path: Path) -> None:
    (run / layout.ESTIMATES).write_text("in the way: as good as read-only, for root too")
    first = report(run)
    assert list((tmp_path / "home").rglob("*.npz"))
    computed.clear()
    assert report(run) == first
    assert computed == []


def test_small_cells_are_not_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates_cache, "WORTH", 100_000)
    report(run)
    assert not (run / layout.ESTIMATES).exists()


def test_tables_are_dropped_and_the_report_is_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read again for another step of their cell."""
    monkeypatch.setattr(estimates_cache, "WORTH", 100_000)
    whole, few = load(run), load(run)
    first = to_markdown(whole, per_category=True)
    monkeypatch.setattr(results, "ROWS_HELD", 1)
    assert to_markdown(few, per_category=True) == first
    assert len(whole._tables) == 4
    assert len(few._tables) == 1
