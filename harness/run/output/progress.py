"""Writes the progress of a cell into a file for other processes: DIR/progress/<cell>.json, see
harness.run.output.status."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from harness.records.layout import PROGRESS
from harness.run.output.watch import Watch
from harness.suite.cells import Cell
from harness.system.files import write_text
from harness.system.strict import StrictModel

EVERY = 2.0
"""Seconds between two writes."""


class Progress(StrictModel):
    """The progress of a cell. kind, done, total, note: the current work, as passed to a Watch. left: estimated
    seconds for the rest of this work (not the whole cell), None at first. spent: seconds that the cell has taken,
    earlier attempts included."""

    kind: str
    done: int
    total: int
    note: str
    left: float | None
    spent: float


def read_progress(output: Path, name: str) -> Progress | None:
    """Reads the progress of a cell; None where there is no valid file."""
    with suppress(OSError, ValidationError, UnicodeDecodeError):
        return Progress.model_validate_json(_path(output, name).read_text())
    return None


def remove_progress(output: Path, name: str) -> None:
    _path(output, name).unlink(missing_ok=True)


def _path(output: Path, name: str) -> Path:
    return output / PROGRESS / f"{name}.json"


class ProgressWriter:
    """A Watch that writes the progress of the current cell, and passes everything on to another Watch."""

    def __init__(self, watch: Watch, output: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._watch, self._output, self._clock = watch, output, clock
        self._name = ""

    @contextmanager
    def during(self, name: str, check: Callable[[], None]) -> Iterator[None]:
        """Writes progress for this cell while the block computes it. `check` is called with every write: it raises
        what must stop the work."""
        earlier = read_progress(self._output, name)
        (self._output / PROGRESS).mkdir(exist_ok=True)
        self._name, self._check, self._kind = name, check, ""
        self._written = 0.0
        self._started = self._clock() - (0.0 if earlier is None else earlier.spent)
        try:
            yield
        finally:
            self._name = ""

    def cell(self, cell: Cell, index: int, total: int, state: str, outcome: str = "") -> None:
        self._watch.cell(cell, index, total, state, outcome)

    def work(self, kind: str, done: int, total: int, note: str = "") -> None:
        self._watch.work(kind, done, total, note)
        if not self._name:
            return
        now = self._clock()
        if kind != self._kind:  # the first report of this work: its speed counts from here
            self._kind, self._first, self._since = kind, done, now
        elif now - self._written < EVERY:
            return
        self._check()
        self._written = now
        self._write(kind, done, total, note, now)

    def _write(self, kind: str, done: int, total: int, note: str, now: float) -> None:
        moved = done - self._first
        left = (now - self._since) / moved * (total - done) if moved else None
        state = Progress(kind=kind, done=done, total=total, note=note, left=left, spent=now - self._started)
        write_text(_path(self._output, self._name), state.model_dump_json() + "\n")
