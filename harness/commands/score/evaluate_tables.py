"""Makes the tables that `detmodes evaluate` prints from the result, as it is in the JSON file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]

UNDEFINED = "-"


def tables(result: Json, annotations: str, detections: str, other: str | None = None) -> Group:
    """Yields the names of the files, the figures, and the diagnostics and errors if there are any."""
    version = result["versions"]["hotcoco" if result["engine"] == "fast" else result["engine"]]
    names = {"annotations": annotations, "detections": detections}
    if other is not None:
        names["other"] = f"{other} (difference: detections minus other, on the same resampled images)"
    names["protocol"] = f"{result['protocol']}, engine {result['engine']} ({version})"
    heading = "\n".join(f"{name:<13}{value}" for name, value in names.items())
    parts: list[RenderableType] = [Text(heading, overflow="fold"), _figures(result)]
    if result["generative"]:
        parts += [_generative(result["generative"]), _errors(result["errors"])]
    return Group(*parts)


def _figures(result: Json) -> Table:
    table = Table()
    compare = result.get("compare")
    table.add_column("figure")
    headings = ["value"] + ["95% interval"] * bool(result["intervals"])
    for heading in headings + ["other", "difference", "95% interval"] * (compare is not None):
        table.add_column(heading, justify="right")
    for name, value in result["metrics"].items():
        cells = [number(value)] + [interval(result["intervals"], name)] * bool(result["intervals"])
        if compare is not None:
            difference = number(compare["difference"][name], signed=True)
            cells += [number(compare["metrics"][name]), difference, interval(compare["intervals"], name, signed=True)]
        table.add_row(name, *cells)
    return table


def _generative(figures: Json) -> Table:
    table = Table()
    for heading in ("generative detectors", "value", "meaning"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for row in _generative_rows(figures):
        table.add_row(*row)
    return table


def _generative_rows(figures: Json) -> Iterator[tuple[str, str, str]]:
    never, ties = figures["never_predicted"], figures["constant_score_AP"]
    repeated, nms, calibration = figures["duplicates"], figures["nms"], figures["calibration"]
    yield (
        "never predicted",
        _percent(never["share"]),
        f"{never['count']:,} of {never['categories']:,} annotated categories without any detection",
    )
    yield (
        "AP, random ranking",
        number(ties["mean"]),
        f"{ties['orders']} tie orders: sd {number(ties['sd'])}, from {number(ties['min'])} to {number(ties['max'])}",
    )
    yield (
        "duplicates",
        _percent(repeated["share"]),
        f"{repeated['count']:,} of {repeated['detections']:,} detections repeat an object that is found already",
    )
    yield (
        f"AP after NMS at {nms['iou']:g}",
        number(nms["AP"]),
        f"{nms['removed']:,} suppressed, by category",
    )
    worst = f"largest gap {number(calibration['max_gap'])} of {calibration['bins']} bins"
    yield "calibration error", number(calibration["ece"]), calibration["reason"] or worst


def _errors(by_kind: Json) -> Table:
    table = Table()
    for heading in ("error", "count", "gain in AP50 if fixed"):
        table.add_column(heading, justify="left" if heading == "error" else "right")
    for name, row in by_kind.items():
        table.add_row(name, f"{row['count']:,}", number(row["dAP50"], signed=True))
    return table


def number(value: float | None, signed: bool = False) -> str:
    return UNDEFINED if value is None else f"{value:{'+' if signed else ''}.4f}"


def _percent(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.1%}"


def interval(intervals: Json, name: str, signed: bool = False) -> str:
    """Formats an interval; empty for a figure that has none (recall)."""
    if name not in intervals:
        return ""
    low, high = (number(intervals[name][side], signed) for side in ("low", "high"))
    return escape(f"[{low}, {high}]") if UNDEFINED not in (low, high) else UNDEFINED
