"""Defines how every figure looks and how it is written."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from PIL import Image

from harness.system.files import replacing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The Okabe-Ito colours, which colour-blind readers can tell apart; black belongs to the base."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
"""Markers for readers of grey prints; eleven, so that no pair of colour and marker repeats before 66 objectives."""
DASHES = ("-", "--", "-.", ":")

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "detmodes",  # ids in an SVG are random without it
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
"""Settings for `matplotlib.rc_context`."""


@dataclass(frozen=True, slots=True)
class Look:
    """The colour of a row, and the marker and dash that distinguish it without colour."""

    colour: str
    marker: str
    dash: str


def look(index: int) -> Look:
    """Returns the look of the suite's objective with this index."""
    return Look(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)])


def shown(label: str) -> str:
    """Returns a label that a legend shows: matplotlib leaves out labels that begin with an underscore."""
    return f" {label}" if label.startswith("_") else label


def legend_below(figure: Figure, panels: Sequence[Axes]) -> Legend:
    """Puts one legend for all panels below them."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    widest = 0.5 + 0.085 * max(map(len, entries))  # inches: handle and gaps, then the text at 9 points
    columns = max(1, min(len(entries), int(figure.get_figwidth() / widest)))
    return figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def render(figure: Figure, suffix: str) -> bytes:
    """Renders a figure as PNG or SVG ("png", "svg"), without date and library version, so that the same figure is the
    same file."""
    metadata = {"Date": None, "Creator": None} if suffix == "svg" else {"Software": None}
    file = io.BytesIO()
    figure.savefig(file, format=suffix, dpi=160, metadata=metadata)
    if suffix == "svg":
        return _pictures_once(file.getvalue().decode()).encode()
    return _few_colours(file) if any(axes.images for axes in figure.axes) else file.getvalue()


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG or SVG by its suffix, completely or not at all."""
    content = render(figure, path.suffix[1:])
    with replacing(path) as partial:
        partial.write_bytes(content)
    return path


def _few_colours(png: io.BytesIO) -> bytes:
    """Reduces a PNG to 192 colours: with pictures, more colours make it several times as large."""
    file = io.BytesIO()
    with Image.open(png) as image:
        few = image.convert("RGB").quantize(192, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(file, "PNG", optimize=True)
    return file.getvalue()


def _pictures_once(svg: str) -> str:
    """Rewrites an SVG so that it embeds each picture once, however often it shows it."""
    pictures: dict[str, str] = {}

    def refer(match: re.Match[str]) -> str:
        attributes = dict(re.findall(r'([\w:]+)="([^"]*)"', match[0]))
        place = attributes.pop("transform", "")
        del attributes["id"]  # matplotlib's: another one for each
        content = " ".join(f'{name}="{value}"' for name, value in attributes.items())
        name = pictures.setdefault(content, f"picture-{len(pictures)}")
        return f'<use xlink:href="#{name}" transform="{place}"/>'

    body, end = re.sub(r"<image\b[^>]*/>", refer, svg).rstrip().removesuffix("</svg>"), "</svg>\n"
    defined = "".join(f'<image id="{name}" {content}/>' for content, name in pictures.items())
    return f"{body}<defs>{defined}</defs>{end}" if pictures else svg
