"""Prints what the command line shows: progress, plans, lists and reports."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from harness.records.layout import PROFILE
from harness.report.grids.grid import Grid
from harness.report.results import Results
from harness.run.output.clean import Leftover
from harness.run.output.status import STATES, CellStatus, Status
from harness.run.output.watch import Silence, Watch
from harness.suite.cells import Cell
from harness.suite.permissions import NOTHING, Permissions
from harness.system import profiler
from harness.system.messages import route_messages
from harness.system.terminal import escape_controls, make_console, screen


@contextmanager
def progress(quiet: bool, bars: bool = True) -> Iterator[Watch]:
    """Shows two bars (cells, and the work inside the current one), and prints a line for each cell that is done.
    Warnings and log lines go to the same console; those of libraries only if it is not to be quiet."""
    with _drawn_bars(quiet) as drawn:
        yield Silence() if quiet or not bars else _Bars(drawn)


@contextmanager
def overview(quiet: bool) -> Iterator[Callable[[Status], None]]:
    """Shows the work of several processes: a bar for all cells, one for each cell that is computed, and a line for
    each that is done from now on. Takes the status of the folder, again and again."""
    with _drawn_bars(quiet) as drawn:
        yield (lambda status: None) if quiet else _Overview(drawn)


def _empty_bars() -> Progress:
    return Progress(
        TextColumn("{task.description}", justify="right"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=make_console(stderr=True),
    )


@contextmanager
def _drawn_bars(quiet: bool) -> Iterator[Progress]:
    """Yields bars to be started, which are stopped at the end; messages of libraries appear above them."""
    bars = _empty_bars()
    with route_messages(bars.console, quiet, lambda: bars.live.is_started):
        try:
            yield bars
        finally:
            if bars.live.is_started:
                bars.stop()


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._cells: TaskID = bars.add_task("cells", total=None, note="")
        self._work: TaskID | None = None
        self._kind = ""

    def cell(self, cell: Cell, index: int, total: int, state: str, outcome: str = "") -> None:
        self._bars.start()  # not before: bad input is one line on the screen and no bars
        done = state != "running"
        self._bars.update(self._cells, total=total, completed=index if done else index - 1, note=escape(cell.id))
        if done:
            self._bars.console.print(f"{state:>9}  {escape(cell.id)}  {outcome}".rstrip(), highlight=False)
        self._end()

    def work(self, kind: str, done: int, total: int, note: str = "") -> None:
        if kind != self._kind or self._work is None:
            self._end()
            self._work, self._kind = self._bars.add_task(kind, total=total, note=note), kind
        self._bars.update(self._work, completed=done, note=note)

    def _end(self) -> None:
        if self._work is not None:
            self._bars.remove_task(self._work)
        self._work, self._kind = None, ""


class _Overview:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._all = bars.add_task("cells", total=None, note="")
        self._tasks: dict[Path, TaskID] = {}
        self._done: set[Path] | None = None

    def __call__(self, status: Status) -> None:
        self._bars.start()
        done = {item.folder: item for item in status.cells if item.state in ("finished", "failed")}
        for folder in () if self._done is None else done.keys() - self._done:
            item = done[folder]
            line = f"{item.state:>9}  {escape(item.cell.id)}  {item.outcome}".rstrip()
            self._bars.console.print(line, highlight=False)
        self._done = set(done)
        left = f"about {describe_duration(status.seconds_left)} left" if status.seconds_left else ""
        self._bars.update(self._all, total=len(status.cells), completed=len(done), note=left)
        running = {item.folder: item for item in status.cells if item.state == "running"}
        for folder in self._tasks.keys() - running.keys():
            self._bars.remove_task(self._tasks.pop(folder))
        for item in running.values():
            self._show(item)

    def _show(self, item: CellStatus) -> None:
        if item.folder not in self._tasks:
            self._tasks[item.folder] = self._bars.add_task(escape(item.cell.id), total=None, note="")
        if item.progress is not None:
            note = escape(f"{item.progress.kind} {item.progress.note}".strip())
            self._bars.update(
                self._tasks[item.folder], total=item.progress.total, completed=item.progress.done, note=note
            )


def show_profile(folder: Path) -> None:
    """Shows where the time of a run's cells has gone, as the sum over the cells that were profiled."""
    profiles = profiler.read(folder / PROFILE)
    seconds = profiler.total(profiles.values())
    wall = sum(seconds.values())
    table = Table(title=f"{len(profiles)} profiled cells, {wall:.1f} s")
    for heading in ("phase", "seconds", "share"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase, spent in seconds.items():
        table.add_row(escape(phase), f"{spent:.2f}", f"{spent / wall:.1%}")
    screen().print(table)


def show_status(status: Status) -> None:
    """Shows one row for each cell, and a line for all."""
    table = Table(title=status.suite)
    for heading in ("cell", "state", "progress", "left", "who", "error"):
        table.add_column(heading, justify="right" if heading == "left" else "left")
    for item in status.cells:
        left = "" if item.seconds_left in (None, 0.0) else describe_duration(item.seconds_left or 0.0)
        row = (item.cell.id, item.state, _progress_text(item), left, item.owner or "", item.error)
        table.add_row(*map(escape, row))
    console = screen()
    console.print(table)
    counts = ", ".join(f"{status.count(state)} {state}" for state in STATES if status.count(state))
    total = status.seconds_left
    console.print(f"{counts}{f'; about {describe_duration(total)} left' if total else ''}", highlight=False)


def _progress_text(item: CellStatus) -> str:
    if item.progress is None:
        return ""
    return f"{item.progress.kind} {item.progress.done}/{item.progress.total}"


def describe_duration(seconds: float) -> str:
    """Formats a duration, e.g. 45 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_leftovers(leftovers: Sequence[Leftover], folder: Path) -> None:
    """Shows what would be removed, and how much space that frees."""
    for item in leftovers:
        name = item.path.relative_to(folder)
        print(escape_controls(f"{item.size / 2**20:10.2f} MiB  {name}  ({item.reason})"))
    print(f"{sum(item.size for item in leftovers) / 2**20:10.2f} MiB  in all")


def show_report(folder: Path) -> Results:
    """Prints every table, and returns what they were made from, with every figure computed."""
    from harness.report.renderers import text

    results = text.load(folder)
    screen().print(text.to_console(results, per_category=True))
    return results


def show_summary(folder: Path) -> Results:
    """Prints one table, the verdicts, and where everything else is; returns what they were made from."""
    from harness.report.renderers import text

    results = text.load(folder)
    screen().print(text.to_summary(results))
    screen().print(f"\nEvery table: detmodes report {shlex.quote(str(folder))} --full", markup=False, highlight=False)
    return results


def write(folder: Path, format: Literal["md", "latex", "csv", "html"]) -> Results:
    """Prints the tables as text on standard output."""
    from harness.report.renderers import html, latex, text

    texts: dict[str, Callable[[Results], str]] = {
        "md": lambda results: text.to_markdown(results, per_category=True),
        "latex": latex.to_latex,
        "csv": text.to_csv,
        "html": html.to_html,
    }
    results = text.load(folder)
    sys.stdout.write(texts[format](results))
    return results


def show_grid(grid: Grid, format: Literal["console", "md"]) -> None:
    """Shows one table."""
    from harness.report.renderers import text

    if format == "console":
        screen().print(text.panel(grid))
    else:
        sys.stdout.write(text.markdown(grid))


def show_codebook(
    folder: Path,
    pattern: str | None,
    format: Literal["console", "md", "csv", "json"],
    data: Path | None,
    permissions: Permissions = NOTHING,
) -> None:
    """Shows the errors in a run's answers."""
    from harness.commands.results import codebook
    from harness.report.renderers import text

    table = codebook.read(folder, pattern, data, permissions)
    if format == "console":
        for grid in codebook.grids(table):
            screen().print(text.panel(grid))
        return
    texts = {
        "md": lambda: "\n".join(map(text.markdown, codebook.grids(table))),
        "csv": lambda: codebook.to_csv(table),
        "json": lambda: codebook.to_json(table),
    }
    sys.stdout.write(texts[format]())
