"""Makes the tables that `detmodes measure` prints from the result, as it is in the JSON file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.commands.score.evaluate_tables import interval, number
from harness.metrics.catalogue import FREQUENCIES

Json = Mapping[str, Any]

AP_FIGURES = ("AP", "AP50", "AP75", "APr", "APc", "APf")


def tables(document: Json) -> Group:
    """Yields the files; then the figures of one temperature, or the curve over several; and AP."""
    rows = document["temperatures"]
    parts: list[RenderableType] = [Text(_heading(document), overflow="fold")]
    if len(rows) == 1:
        parts += [_category_table(document, rows[0]), _image_table(rows[0]), _ap_table(document, rows[0])]
    else:
        parts += [_curve(document, rows), _notes(document, rows)]
    return Group(*parts)


def _heading(document: Json) -> str:
    truth, sampled = document["annotations"], document["samples"]
    step = "" if sampled["step"] is None else f", step {sampled['step']}"
    temperatures = ", ".join(f"{t:g}" for t in sampled["temperatures"])
    return "\n".join(
        (
            f"annotations  {truth['path']} ({truth['images']:,} images, {truth['instances']:,} instances)",
            f"samples      {sampled['path']} (K = {sampled['K']} at temperature {temperatures}{step})",
        )
    )


# ---- one temperature ---------------------------------------------------------------------------------------------


def _category_table(document: Json, row: Json) -> Table:
    """Makes a table of the means over categories, with the ends of the curves over k."""
    samples, frequencies = document["samples"]["K"], FREQUENCIES if document["protocol"] == "lvis" else ()
    table = _table("per category", "mean", *_interval_heading(row["intervals"]), *frequencies, "categories")
    for name, count in row["defined_for"].items():
        if "@" in name and name.partition("@")[2] not in ("1", str(samples)):
            continue
        by_frequency = [number(row["figures"][f"{name}/{group}"]) for group in frequencies]
        table.add_row(name, *_figure(row, name), *by_frequency, f"{count:,}")
    return table


def _image_table(row: Json) -> Table:
    """Makes a table of what is not about a category: sequences, then faults."""
    table = _table("per image", "value", *_interval_heading(row["intervals"]))
    for name in _image_figures(row):
        table.add_row(name, *_figure(row, name))
    return table


def _image_figures(row: Json) -> list[str]:
    return [name for name in row["figures"] if name.partition("/")[0] not in row["defined_for"]]


def _ap_table(document: Json, row: Json) -> RenderableType:
    blocks = {"greedy": document["greedy"], "consensus": row["consensus"], "gain": row["gain"]}
    shown = {name: block for name, block in blocks.items() if block is not None and block["metrics"] is not None}
    if not shown:
        return _notes(document, [row])
    headings = [heading for name, block in shown.items() for heading in (name, *_interval_heading(block["intervals"]))]
    table = _table("detection", *headings)
    for figure in AP_FIGURES:
        if figure in next(iter(shown.values()))["metrics"]:
            table.add_row(figure, *(cell for name, block in shown.items() for cell in _ap_cells(block, figure, name)))
    return Group(table, _notes(document, [row]))


def _ap_cells(block: Json, figure: str, name: str) -> Iterator[str]:
    signed = name == "gain"
    yield number(block["metrics"][figure], signed)
    if block["intervals"]:
        yield interval(block["intervals"], figure, signed)


def _notes(document: Json, rows: Sequence[Json]) -> Text:
    """Explains why there is no AP, if there is none."""
    reasons = {"greedy answer": document["greedy"]["reason"]}
    reasons |= {f"consensus at temperature {row['temperature']:g}": row["consensus"]["reason"] for row in rows}
    return Text("\n".join(f"no AP of the {what}: {reason}" for what, reason in reasons.items() if reason))


# ---- several temperatures ----------------------------------------------------------------------------------------


def _curve(document: Json, rows: Sequence[Json]) -> Table:
    """Makes a table with one column for each temperature, as there are more figures than fit across a screen.
    Everything else is in the JSON file."""
    samples = document["samples"]["K"]
    names = (
        *("recall", f"coverage@{samples}", "distinct_names", "normalised_name_diversity"),
        *(name for name in _image_figures(rows[0]) if name not in ("unique_sequences", "distinct_1", "distinct_2")),
    )
    table = _table("figure", *(f"T = {row['temperature']:g}" for row in rows))
    for name in names:
        table.add_row(name, *(number(row["figures"][name]) for row in rows))
    if document["greedy"]["metrics"] is not None:
        table.add_row("AP of the greedy answer", *[number(document["greedy"]["metrics"]["AP"])] * len(rows))
    table.add_row("AP of the consensus", *(number((row["consensus"]["metrics"] or {}).get("AP")) for row in rows))
    return table


def _table(first: str, *headings: str) -> Table:
    table = Table()
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _interval_heading(intervals: Json) -> list[str]:
    return ["95% interval"] * bool(intervals)


def _figure(row: Json, name: str) -> Iterator[str]:
    yield number(row["figures"][name])
    if row["intervals"]:
        yield interval(row["intervals"], name)
