"""Runs of the mini suite: their cells, and that two of them are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.records import Record
from harness.run import runner
from harness.run.cell import METRICS
from harness.run.context import Context, open_context
from harness.run.output.watch import Silence
from harness.suite.cells import Cell
from harness.types import Projection
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small

CELLS = ["base-s0", "ce-s0", "sed-s0", "oracle-uniform-s0", "oracle-collapsed-s0"]
VARYING = {"timings", "own_peak_mib"}


def context(**changes: Any) -> Context:
    return open_context(small.mini_suite(**changes), None, "cpu")


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


def no_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "compute", lambda *_: pytest.fail("a cell was computed"))


class Told(Silence):
    def __init__(self) -> None:
        self.states: list[str] = []
        self.outcomes: list[str] = []

    def cell(self, cell: Cell, index: int, total: int, state: str, outcome: str = "") -> None:
        self.states.append(f"{state} {cell.id} {index}/{total}")
        self.outcomes.append(outcome)


def fail_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Projection:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(OpenFlamingo, "hidden", broken)
