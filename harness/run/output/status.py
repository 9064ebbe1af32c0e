"""Reads the status of a run from its output folder without disturbing it: every cell and its progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import mean
from typing import Literal

from harness import records
from harness.errors import DataError
from harness.records import Record, layout
from harness.run.output import progress
from harness.run.output.progress import Progress
from harness.suite.cells import Cell, listed
from harness.system import locks

State = Literal["finished", "failed", "running", "interrupted", "waiting"]
STATES: tuple[State, ...] = ("finished", "failed", "running", "interrupted", "waiting")


@dataclass(frozen=True, slots=True)
class CellStatus:
    """The state of a cell. interrupted: begun, and no process is computing it; the next run resumes it. waiting: not
    begun.

    owner: host:pid of the process that computes it; progress: the present or last progress; None where there is none.
    seconds_left: estimated for the rest of the cell, 0 when it is done, None without data for an estimate. error: why
    it failed, or why its record is invalid; empty otherwise.
    """

    cell: Cell
    folder: Path
    state: State
    owner: str | None
    progress: Progress | None
    seconds_left: float | None
    error: str
    outcome: str
    """What a finished cell came to, see `outcome`."""


@dataclass(frozen=True, slots=True)
class Status:
    suite: str
    cells: tuple[CellStatus, ...]

    def count(self, state: State) -> int:
        return sum(cell.state == state for cell in self.cells)

    @property
    def seconds_left(self) -> float | None:
        """Estimates the seconds until every cell is done, with as many processes as are at work now (at least one);
        None if unknown."""
        left = [cell.seconds_left for cell in self.cells if cell.state != "failed"]
        estimates = [seconds for seconds in left if seconds is not None]
        return sum(estimates) / max(1, self.count("running")) if len(estimates) == len(left) else None


@dataclass(frozen=True, slots=True)
class _Made:
    """The part of a record that is needed here. status: None where there is no valid record."""

    status: Literal["finished", "failed"] | None = None
    role: str = ""
    seconds: float = 0.0
    error: str = ""
    outcome: str = ""


def read(folder: Path) -> Status:
    """Reads the state of every cell of the suite in an output folder. DataError if it holds no run."""
    suite, planned = listed(folder)
    places_ = [(cell, layout.cell(folder, cell.id, digest)) for cell, digest in planned]
    made = [_made(place, records.record_time(place)) for _, place in places_]
    costs = _costs(made)
    cells_of_run = [_cell(folder, *where, record, costs) for where, record in zip(places_, made, strict=True)]
    return Status(suite.suite, tuple(cells_of_run))


def outcome(record: Record) -> str:
    """Says what a finished cell came to, in a few words: its AP (where the task has boxes) and its time."""
    ap = record.evaluations[-1].metrics.get("AP") if record.evaluations else None
    return f"{'' if ap is None else f'AP {ap:.3f}  '}{record.seconds:.0f} s"


def to_json(status: Status) -> dict[str, object]:
    """Returns JSON values: for each cell its id, its folder's name, and the fields of CellStatus."""
    cells = [
        {
            "cell": item.cell.id,
            "folder": item.folder.name,
            "state": item.state,
            "owner": item.owner,
            "progress": None if item.progress is None else item.progress.model_dump(),
            "seconds_left": item.seconds_left,
            "error": item.error,
        }
        for item in status.cells
    ]
    counts = {state: status.count(state) for state in STATES}
    return {"suite": status.suite, "counts": counts, "seconds_left": status.seconds_left, "cells": cells}


def _cell(output: Path, cell: Cell, folder: Path, made: _Made, costs: dict[str, float]) -> CellStatus:
    owner = locks.owner(output / layout.LOCKS, folder.name)
    state = _state(folder, made.status, owner)
    done = state in ("finished", "failed")
    news = None if done else progress.read_progress(output, folder.name)
    left = 0.0 if done else _left(news, costs.get(cell.role))
    owned = None if done or owner is None else str(owner)
    return CellStatus(cell, folder, state, owned, news, left, made.error, made.outcome if state == "finished" else "")


def _state(folder: Path, recorded: Literal["finished", "failed"] | None, owner: locks.Owner | None) -> State:
    """Returns the state. A failed cell may be run again: its present or last owner counts more than the old record."""
    if recorded == "finished":
        return "finished"
    if owner is not None:
        return "running"
    if layout.work(folder).is_dir():
        return "interrupted"
    return "waiting" if recorded is None else "failed"


def _left(news: Progress | None, cost: float | None) -> float | None:
    """Estimates the remaining seconds from the cost of such cells; never less than the current work still takes."""
    spent = 0.0 if news is None else news.spent
    at_hand = None if news is None else news.left
    if cost is None:
        return at_hand
    return max(cost - spent, at_hand or 0.0)


def _costs(made: Sequence[_Made]) -> dict[str, float]:
    """Returns the mean seconds of a cell of each role."""
    seconds: dict[str, list[float]] = {}
    for item in made:
        if item.status == "finished":
            seconds.setdefault(item.role, []).append(item.seconds)
    return {role: mean(values) for role, values in seconds.items()}


@lru_cache(maxsize=4096)
def _made(folder: Path, written: float) -> _Made:
    """Reads a cell's record once for each time that it is written (0: there is none)."""
    if not written:
        return _Made()
    try:
        record = records.read_record(folder)
    except DataError as error:
        return _Made(error=str(error))
    return _Made(record.status, record.role, record.seconds, record.error or "", outcome(record))
