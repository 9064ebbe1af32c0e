"""Defines how every figure looks and how it is written."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any
from xml.sax.saxutils import escape

import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from PIL import Image

from harness.system.files import replacing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA3377", "#8A6D00", "#332288")
"""Colours that colour-blind readers can tell apart, with a contrast of 3 to 1 or more on white; black is the base's."""
GREY = "#949494"
"""The colour of rows that stand behind the emphasised ones."""
PALE = "#b8b8b8"
"""The colour of a line that another one may lie upon."""
GREY_TEXT = "#707070"
"""Of what is written in grey: with a contrast of 4.5 to 1."""
OTHERS = "other rows"
ACROSS = 4
"""Panels in a line, at most."""
LINE_HEIGHT = 0.18
"""Inches between the names of two rows, about."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
"""Markers for readers of grey prints; eleven, so that no pair of colour and marker repeats before 66 objectives."""
DASHES = ("-", "--", "-.", ":")

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "detmodes",  # ids in an SVG are random without it
    "svg.fonttype": "none",  # text that can be searched, read aloud and scaled
    "font.sans-serif": ["DejaVu Sans", "Verdana"],  # Verdana is as wide; an SVG repeats the list with every text
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
    title: str = ""
    """What the row is called in words, if the suite says so."""
    behind: bool = False
    """Whether the row stands behind the emphasised ones: a thin grey line."""


def within_share(value: float, low: float, high: float) -> tuple[float, float]:
    """Returns an interval of a share, cut where no share can be: at 0 and 1, or at an estimate that lies beyond."""
    return max(low, min(0.0, value)), min(high, max(1.0, value))


def look(index: int) -> Look:
    """Returns the look of the emphasised row with this index."""
    return Look(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)])


def looks(titles: Mapping[str, str], emphasised: Sequence[str]) -> dict[str, Look]:
    """Returns the look of each row: its own where it is emphasised, a thin grey line elsewhere. titles: by label, what
    rows are called in words, or empty."""
    return {
        label: replace(look(emphasised.index(label)) if label in emphasised else BEHIND, title=title)
        for label, title in titles.items()
    }


BEHIND = Look(GREY, "", "-", behind=True)


def shown(label: str, look: Look | None = None) -> str:
    """Returns what a legend shows for a row: its title, or its label; matplotlib leaves out what begins with an
    underscore."""
    text = (look.title if look is not None else "") or label
    return f" {text}" if text.startswith("_") else text


def even_lines(panels: int) -> int:
    """Returns how many panels stand in a line: at most ACROSS, and in all lines about equally many."""
    return math.ceil(panels / math.ceil(panels / ACROSS)) if panels else 1


def keep_panels(panels: npt.NDArray[Any], used: Collection[Axes], x: str) -> None:
    """Removes the panels of a grid, [lines, columns], that are not used, and puts numbers and this label below the
    lowest of each column."""
    for column in panels.T:
        lowest = [axes for axes in column if axes in used][-1:]
        for axes in lowest:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(x)
    for axes in panels.flat:
        if axes not in used:
            axes.remove()


def legend_below(figure: Figure, panels: Sequence[Axes], only: Sequence[str] = ()) -> Legend:
    """Puts one legend for all panels below them, in lines of equal length, OTHERS last; only: these entries alone."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if not only or label in only:
                entries.setdefault(label, handle)
    if OTHERS in entries:
        entries[OTHERS] = entries.pop(OTHERS)
    widest = 0.5 + 0.085 * max(map(len, entries))  # inches: handle and gaps, then the text at 9 points
    most = max(1, min(len(entries), int(figure.get_figwidth() / widest)))
    columns = math.ceil(len(entries) / math.ceil(len(entries) / most))
    return figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], look_of: Mapping[str, Look]) -> None:
    """Writes the name of each row beside the end of its line, apart from each other, in room that it makes on the
    right: in grey where the row stands behind the others. ends: (x, y) of each row."""
    if not ends:
        return
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    gap = (high - low) * LINE_HEIGHT / axes.get_figure(root=True).get_figheight()  # type: ignore[union-attr]
    edge = max(x for x, _ in ends.values())
    longest = max(len(shown(label, look_of[label])) for label in ends)
    width = axes.get_figure(root=True).get_figwidth()  # type: ignore[union-attr]
    axes.set_xlim(left, max(right, edge + (edge - left) * (0.3 + 0.08 * longest) / width))
    ascending = sorted(ends.items(), key=lambda item: item[1][1])
    heights = spread([y for _, (_, y) in ascending], gap, low + gap / 2, high - gap / 2)
    for (label, (x, y)), at in zip(ascending, heights, strict=True):
        look = look_of[label]
        axes.annotate(
            shown(label, look),
            (x, y),
            (edge + (edge - left) * 0.03, at),
            color=GREY_TEXT if look.colour in (GREY, PALE) else look.colour,
            va="center",
            size=7.5 if look.behind else 8.5,
            arrowprops={
                "arrowstyle": "-",
                "color": look.colour,
                "linewidth": 0.5,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 2,
            },
        )


def spread(heights: Sequence[float], gap: float, lowest: float, highest: float) -> list[float]:
    """Returns ascending heights moved apart by at least a gap, as little as possible (least squares), none of them
    below the lowest, and none above the highest where there is room for all."""
    blocks: list[list[float]] = []  # of neighbours that touch: heights, less a gap for each one below
    for place, height in enumerate(heights):
        blocks.append([height - place * gap])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    levels = [fmean(block) for block in blocks for _ in block]
    top = highest - (len(levels) - 1) * gap
    return [max(lowest, min(level, top)) + place * gap for place, level in enumerate(levels)]


def label_points(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    look_of: Mapping[str, Look],
    size: tuple[float, float],
    bars: Sequence[tuple[float, float, float]] = (),
) -> None:
    """Writes the name of each emphasised row right of its point (x, y), left of it where there is no room, or as far
    right as there is, so far above that it covers no bar and no other name. Comes last, as it takes the limits of the
    axes as they are.

    size: of the panel in inches, about. bars: where each horizontal line to be avoided begins and ends, and its height.
    """
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    inch, gap = (right - left) / size[0], (high - low) * LINE_HEIGHT / size[1]
    taken = [(*bar, 0.6 * gap) for bar in bars]  # begin, end, height, how far a name stays away
    highest = high
    for label, (x, y) in sorted(points.items(), key=lambda item: item[1][1]):
        if look_of[label].behind:
            continue
        name = shown(label, look_of[label]).strip()
        width, height = 0.075 * len(name) * inch, y + gap / 2
        start = x + 0.08 * inch
        if start + width > right:
            start = x - 0.08 * inch - width
        if start < left:
            start = max(left, right - width)
        for begin, end, other, away in sorted(taken, key=lambda item: item[2]):
            if begin < start + width and start < end and abs(height - other) < away:
                height = other + away
        taken.append((start, start + width, height, gap))
        highest = max(highest, height + gap)
        at, side = (start, "left") if start > x else (start + width, "right")
        axes.text(at, height, name, color=look_of[label].colour, ha=side, va="center", size=8.5, zorder=6)
    axes.set_ylim(low, highest)


@dataclass(frozen=True, slots=True)
class Words:
    """What a figure is called, and what is seen in it: for those who do not see it, and for search engines."""

    title: str
    description: str


def render(figure: Figure, suffix: str, words: Words | None = None) -> bytes:
    """Renders a figure as PNG or SVG ("png", "svg"; an SVG with its words), without date and library version, so that
    the same figure is the same file."""
    metadata = {"Date": None, "Creator": None} if suffix == "svg" else {"Software": None}
    file = io.BytesIO()
    figure.savefig(file, format=suffix, dpi=160, metadata=metadata)
    if suffix == "svg":
        return _with_words(_rounded(_pictures_once(file.getvalue().decode())), words).encode()
    return _few_colours(file) if any(axes.images for axes in figure.axes) else file.getvalue()


def save(figure: Figure, path: Path, words: Words | None = None) -> Path:
    """Writes a figure as PNG or SVG by its suffix, completely or not at all."""
    content = render(figure, path.suffix[1:], words)
    with replacing(path) as partial:
        partial.write_bytes(content)
    return path


def _with_words(svg: str, words: Words | None) -> str:
    """Puts title and description into an SVG, as its first elements."""
    if words is None:
        return svg
    start = svg.index(">", svg.index("<svg")) + 1
    told = f"\n <title>{escape(words.title)}</title>\n <desc>{escape(words.description)}</desc>"
    return svg[:start] + told + svg[start:]


def _rounded(svg: str) -> str:
    """Rounds the coordinates of paths, texts and marks to hundredths of a point, which makes a file shorter."""

    def shorten(match: re.Match[str]) -> str:
        return re.sub(
            r"-?\d+\.\d{3,}(?:e-\d+)?", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), match[0]
        )

    return re.sub(r' (?:d|x|y)="[^"]*"', shorten, svg)


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
