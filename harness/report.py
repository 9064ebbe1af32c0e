"""Results as text: Markdown, CSV and the screen. The numbers come from harness.rows."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import fill

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.estimates import AP_COLUMNS, FAULT_COLUMNS, diversity_columns, figure_names
from harness.metrics.stats import LEVEL, REPLICATES, Interval
from harness.results import Results, load
from harness.rows import Finding, Row, differences, table, verdicts
from harness.suite import BASE

__all__ = ["Grid", "caption", "grids", "load", "table", "to_console", "to_csv", "to_markdown", "verdicts"]

UNDEFINED = "–"  # noqa: RUF001 (an en dash, as tables have it)
NUMBER_WIDTH = len("+0.412 ±0.021")


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of strings; the first `words` columns are text, the others numbers."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 2


def grids(results: Results) -> list[Grid]:
    """Detection, diversity and faults of every row; differences to the base; hypotheses."""
    rows, samples = table(results), results.samples
    several = len(results.suite.models) > 1
    made = [
        _figure_grid("Detection (greedy answer)", rows, AP_COLUMNS, several),
        _figure_grid(f"Diversity (K = {samples} samples)", rows, diversity_columns(samples), several),
        _figure_grid(f"Faults (K = {samples} samples)", rows, FAULT_COLUMNS, several),
    ]
    changes = differences(results)
    if changes:
        columns = tuple(name for name in diversity_columns(samples) if name != "recall")
        made.append(_figure_grid(f"Difference to {BASE}, paired", changes, columns, several, signed=True))
    if results.suite.hypotheses:
        made.append(_verdict_grid(verdicts(results), several))
    return made


def caption(results: Results) -> list[str]:
    """What one must know to read the tables, one statement a line."""
    finished = list(results.records.values())
    suite, sample = results.suite, results.suite.sample
    lines = [
        f"{results.images:,} validation images; K = {sample.samples} samples at temperature {sample.temperature:g}; "
        f"seeds {', '.join(map(str, suite.seeds))}.",
        f"Scores: {_score_sources(results)}; evaluator {_distinct(' '.join(r.evaluator.values()) for r in finished)}.",
        f"± is half of the {LEVEL:.0%} interval of the seed mean: {REPLICATES:,} bootstrap replicates of the images "
        "(paired between rows) plus the variance between seeds over their number, t with seeds - 1 degrees of "
        f"freedom. {UNDEFINED} is undefined.",
    ]
    if any(len(row.seeds) == 1 for row in table(results)):
        lines.append("With one seed an interval covers the choice of images only, not the spread between seeds.")
    lines.append(
        f"Code: {_distinct(code_text(record.code) for record in finished)}; "
        f"device {_distinct(_device(record.device) for record in finished)}."
    )
    lines += [f"Failed: {key}: {record.error}" for key, record in results.failed.items()]
    if results.missing:
        lines.append(f"Missing: {'; '.join(map(str, results.missing))}.")
    return lines


def to_markdown(results: Results) -> str:
    """Tables, verdicts and caption as GitHub-flavoured Markdown."""
    parts = [f"### {_escape(grid.title)}\n\n{_markdown_table(grid)}" for grid in grids(results)]
    return "\n".join([*parts, *(f"- {_escape(line)}" for line in caption(results))]) + "\n"


def to_csv(results: Results) -> str:
    """Long format: one line per row and figure, every figure there is; undefined ones are empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["model", "row", "step", "figure", "estimate", "low", "high", "seeds"])
    for row in table(results):
        for name in figure_names(results.samples):
            figure = row.figures.get(name, _NOTHING)
            numbers = (f"{x:.6f}" if math.isfinite(x) else "" for x in (figure.estimate, figure.low, figure.high))
            step = "" if row.step is None else row.step
            writer.writerow([row.model, row.label, step, name, *numbers, len(row.seeds)])
    return file.getvalue()


def to_console(results: Results) -> RenderableType:
    """The same tables for a terminal of 120 columns."""
    parts: list[RenderableType] = []
    for grid in grids(results):
        parts += [Text(grid.title, style="bold"), Padding(_rich_table(grid), (0, 0, 1, 0))]
    return Group(*parts, *(Text(line, style="dim") for line in caption(results)))


def code_text(code: dict[str, object]) -> str:
    """ "detmodes 0.1.0, commit 0123456789ab (dirty)" """
    if code.get("commit") is None:
        return f"detmodes {code.get('version')}, no commit"
    dirty = " (dirty: tracked files differ from it)" if code.get("dirty") else ""
    return f"detmodes {code.get('version')}, commit {str(code['commit'])[:12]}{dirty}"


def format_interval(figure: Interval, signed: bool = False) -> str:
    """ "0.412 ±0.021" """
    if math.isnan(figure.estimate):
        return UNDEFINED
    if math.isnan(figure.high):
        return _number(figure.estimate, signed)
    return f"{_number(figure.estimate, signed)} ±{(figure.high - figure.low) / 2:.3f}"


_NOTHING = Interval(math.nan, math.nan, math.nan, 0)


def _number(value: float, signed: bool) -> str:
    rounded = round(value, 3) + 0.0  # no "-0.000"
    return f"{rounded:+.3f}" if signed else f"{rounded:.3f}"


# ---- cells of the tables -----------------------------------------------------------------------------------------


def _figure_grid(title: str, rows: Sequence[Row], names: Sequence[str], several: bool, signed: bool = False) -> Grid:
    body = tuple(
        (
            _named(row.title, row.model, several),
            _seeds(row),
            *(format_interval(row.figures.get(name, _NOTHING), signed) for name in names),
        )
        for row in rows
    )
    return Grid(title, ("row", "seeds", *(name.replace("_", " ") for name in names)), body)


def _named(label: str, model: str, several: bool) -> str:
    return f"{model}: {label}" if several and label != model else label


def _seeds(row: Row) -> str:
    """ "2", or "1 of 2 (failed: 1)": an incomplete mean must not pass for a complete one."""
    total = len(row.source.cells)
    if len(row.seeds) == total:
        return str(total)
    why = [
        f"{word}: {', '.join(map(str, seeds))}"
        for word, seeds in (("failed", row.failed), ("missing", row.missing))
        if seeds
    ]
    return f"{len(row.seeds)} of {total} ({'; '.join(why)})"


def _verdict_grid(findings: Sequence[Finding], several: bool) -> Grid:
    headings = ("id", "claim", "hypothesis", "estimate [interval]", "verdict", "seeds")
    return Grid("Hypotheses (Holm)", headings, tuple(_verdict_row(item, several) for item in findings), words=5)


def _verdict_row(finding: Finding, several: bool) -> tuple[str, ...]:
    stated, verdict = finding.hypothesis, finding.verdict
    sign = ">" if stated.direction == "greater" else "<"
    difference = f"{stated.metric}: {stated.a} - {stated.b} {sign} {stated.margin:g}"
    name = _named(stated.id, finding.model, several)
    if verdict is None:
        return name, stated.claim, difference, UNDEFINED, f"not tested (missing: {', '.join(finding.missing)})", "0"
    if math.isnan(verdict.estimate):
        return name, stated.claim, difference, UNDEFINED, f"{verdict.outcome} (undefined)", str(verdict.seeds)
    low, high = _number(verdict.low, signed=True), _number(verdict.high, signed=True)
    estimate = f"{_number(verdict.estimate, signed=True)} [{low}, {high}] at {100 * verdict.level:.3g}%"
    return name, stated.claim, difference, estimate, verdict.outcome, str(verdict.seeds)


def _score_sources(results: Results) -> str:
    """ "category (oracles: constant)" """

    def of(oracles: bool) -> str:
        return _distinct(r.score_source for r in results.records.values() if (r.role == "oracle") == oracles)

    return of(False) if of(True) in (of(False), UNDEFINED) else f"{of(False)} (oracles: {of(True)})"


def _device(device: dict[str, object]) -> str:
    return " ".join(str(device[key]) for key in ("type", "name", "precision") if key in device)


def _distinct(values: Iterable[str]) -> str:
    """Each different value once, in order: more than one is shown, never hidden."""
    return " / ".join(dict.fromkeys(values)) or UNDEFINED


# ---- rendering ---------------------------------------------------------------------------------------------------


def _markdown_table(grid: Grid) -> str:
    lines = [grid.headings, ["---"] * grid.words + ["---:"] * (len(grid.headings) - grid.words)]
    body = [[_escape(cell) for cell in row] for row in grid.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in [*lines, *body])


def _escape(text: str) -> str:
    """Shows as it is in Markdown; one line."""
    escaped = re.sub(r"([\\`*\[\]|<>~#]|\b_|_\b)", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;")


def _rich_table(grid: Grid) -> Table:
    made = Table(box=None, pad_edge=False, header_style="italic", padding=(0, 2, 0, 0))
    for index, heading in enumerate(grid.headings):
        number = index >= grid.words
        made.add_column(
            Text(fill(heading, NUMBER_WIDTH) if number else heading),
            justify="right" if number else "left",
            no_wrap=index == 0,  # on a narrow screen a figure breaks before its ±, a label is never broken
            overflow="fold",
        )
    for row in grid.rows:
        made.add_row(*map(Text, row))
    return made
