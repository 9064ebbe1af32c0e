"""How far a cell is, in a file that other processes may read: DIR/progress/<cell>.json, see
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
"""Seconds between two writings."""


class Progress(StrictModel):
    """kind, done, total, note: the work in hand, as a Watch is told of it. left: seconds that this work (not the whole
    cell) still takes at its speed so far, None before there is one. spent: seconds that the cell has taken,
    earlier attempts included."""

    kind: str
    done: int
    total: int
    note: str
    left: float | None
    spent: float


def read_progress(output: Path, name: str) -> Progress | None:
    """None for a cell that has written none, or nothing that can be read."""
    with suppress(OSError, ValidationError, UnicodeDecodeError):
        return Progress.model_validate_json(_path(output, name).read_text())
    return None


def remove_progress(output: Path, name: str) -> None:
    _path(output, name).unlink(missing_ok=True)


def _path(output: Path, name: str) -> Path:
    return output / PROGRESS / f"{name}.json"


class ProgressWriter:
    """A Watch that also writes the progress of the cell that is computed, and passes everything on to another."""

    def __init__(self, watch: Watch, output: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._watch, self._output, self._clock = watch, output, clock
        self._name = ""

    @contextmanager
    def during(self, name: str, check: Callable[[], None]) -> Iterator[None]:
        """The block computes this cell, or goes on with it. `check` is called with every writing: it raises what must
        stop the work."""
        earlier = read_progress(self._output, name)
        (self._output / PROGRESS).mkdir(exist_ok=True)
        self._name, self._check, self._kind = name, check, ""
        self._written = 0.0
        self._started = self._clock() - (0.0 if earlier is None else earlier.spent)
        try:
            yield
        finally:
            self._name = ""

    def cell(self, cell: Cell, index: int, total: int, state: str) -> None:
        self._watch.cell(cell, index, total, state)

    def work(self, kind: str, done: int, total: int, note: str = "") -> None:
        self._watch.work(kind, done, total, note)
        if not self._name:
            return
        now = self._clock()
        if kind != self._kind:  # the first news of it: its speed counts from here
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
