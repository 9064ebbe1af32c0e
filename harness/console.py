"""What the command line shows: progress, plans, lists and reports."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rich.console import Console
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

from harness.context import Context, Silence, Watch
from harness.results import Results
from harness.screen import screen
from harness.suite import Cell


@contextmanager
def progress(quiet: bool) -> Iterator[Watch]:
    """Two bars (cells, and the work inside the current one), and a line for each cell that is done."""
    if quiet:
        yield Silence()
        return
    bars = Progress(
        TextColumn("{task.description}", justify="right"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
    try:
        yield _Bars(bars)
    finally:
        if bars.live.is_started:
            bars.stop()


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._cells: TaskID = bars.add_task("cells", total=None, note="")
        self._work: TaskID | None = None
        self._kind = ""

    def cell(self, cell: Cell, index: int, total: int, state: str) -> None:
        self._bars.start()  # not before: bad input is one line on the screen and no bars
        self._bars.update(self._cells, total=total, completed=index - 1, note=escape(cell.id))
        if state in ("finished", "failed"):
            self._bars.update(self._cells, completed=index)
            self._bars.console.print(f"{state:>8}  {escape(cell.id)}", highlight=False)
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


def show_plan(context: Context, folder: Path, only: str | None) -> None:
    """The cells with their settings, and what they will cost on this machine."""
    from harness import cost, runner

    planned = runner.plan(context, folder, only)
    costs = cost.estimate(context, planned)
    table = Table(title=f"{context.suite.suite}: {len(planned)} cells into {folder}")
    for heading in ("cell", "objective", "estimated"):
        table.add_column(heading, justify="right" if heading == "estimated" else "left")
    for item, seconds in zip(planned, costs, strict=True):
        settings = item.info.objective or {}
        shown = " ".join(f"{key}={value}" for key, value in settings.items() if key != "name")
        objective = f"{settings.get('name', '-')} {shown}".strip()
        table.add_row(escape(item.cell.id), escape(objective), "finished" if seconds == 0 else f"{seconds:.0f} s")
    console = screen()
    console.print(table)
    console.print(f"train:     {context.suite.train.model_dump(exclude_none=True)}", soft_wrap=True, highlight=False)
    console.print(f"sample:    {context.suite.sample.model_dump()}", soft_wrap=True, highlight=False)
    console.print(
        f"benchmark: {context.suite.benchmark.name} {context.suite.benchmark.settings}",
        soft_wrap=True,
        highlight=False,
    )
    console.print(f"estimated: {sum(costs) / 60:.1f} minutes on {context.accelerator.device}", highlight=False)


def show_report(folder: Path, per_category: bool = False) -> Results:
    """Prints the tables, and returns what they were made from, with every figure computed."""
    from harness import report

    results = report.load(folder)
    screen().print(report.to_console(results, per_category))
    return results


def write(folder: Path, format: Literal["md", "latex", "csv", "html"]) -> Results:
    """The tables as a text on standard output."""
    from harness import latex, page, report

    texts: dict[str, Callable[[Results], str]] = {
        "md": lambda results: report.to_markdown(results, per_category=True),
        "latex": latex.to_latex,
        "csv": report.to_csv,
        "html": page.to_html,
    }
    results = report.load(folder)
    sys.stdout.write(texts[format](results))
    return results


def show_list(kind: str) -> None:
    """Names, and where they are defined or what they compute."""
    from harness import registry, suite

    if kind == "objectives":
        _list_objectives()
        return
    table = Table()
    if kind == "suites":
        for heading in ("suite", "cells", "what it runs"):
            table.add_column(heading)
        for name in registry.shipped_suites():
            loaded = suite.load(name)
            labels = ", ".join(objective.label for objective in loaded.objectives)
            cells = sum(1 for _ in suite.cells(loaded))
            table.add_row(name, str(cells), f"{loaded.benchmark.name}: {labels}; seeds {list(loaded.seeds)}")
    else:
        table.add_column(kind.removesuffix("s"))
        table.add_column("class")
        for name, reference in registry.names("model" if kind == "models" else "benchmark").items():
            table.add_row(escape(name), escape(reference))
    screen().print(table)


def _list_objectives() -> None:
    """The equation of each in one line, however long, then its settings with their defaults, and its source."""
    from harness import objectives

    console = screen()
    for name, spec in objectives.OBJECTIVES.items():
        settings = ", ".join(
            key if setting.default is None else f"{key}={setting.default}" for key, setting in spec.settings.items()
        )
        console.print(f"[bold]{name:<16}[/bold] {escape(spec.equation)}", soft_wrap=True, highlight=False)
        for line in (f"settings: {settings}" if settings else "", spec.source):
            if line:
                console.print(f"{'':<17}[dim]{escape(line)}[/dim]", soft_wrap=True, highlight=False)
