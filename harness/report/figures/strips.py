"""Draws the gallery: a row of panels per image, with the ground truth first, then the answers of each row of the
suite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from PIL import Image

from harness.errors import DataError
from harness.images import read_rgb
from harness.records import GALLERY, gallery
from harness.records.gallery import Picture, ShownSamples
from harness.report.figures.data import models, rows_of
from harness.report.figures.style import COLOURS, GREY_TEXT
from harness.report.results import Key, Results
from harness.types import Box

PANELS = 36
"""The number of panels that a reader can look at, about: with many rows, fewer images are shown."""
PER_LINE = 6
NAMES = 9
"""Number of names that a panel shows; further ones are counted."""
SIDE = 200
"""Longer side of a drawn picture in pixels: it is shown at less than 2 inches."""
SAMPLE_COLOURS = (*COLOURS, "#B2182B", "#4D4D4D")
"""One for each of eight samples."""

WIDTH, TITLE, TEXT_LINE, GAP = 1.9, 0.2, 0.15, 0.12
"""Sizes in inches: of a panel, its title, a line of text below it, and the space between panels."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A drawn box; sample: the number of its sample (None: ground truth); verified: whether it matches an instance."""

    box: Box
    sample: int | None
    verified: bool


@dataclass(frozen=True, slots=True)
class Named:
    """The number of samples in which a name occurs, and in which it is verified."""

    name: str
    samples: int
    verified: int


@dataclass(frozen=True, slots=True)
class Panel:
    """The boxes and names of one row of the suite for one image; lines: the text below it, (text, is it verified)."""

    title: str
    boxes: tuple[Drawn, ...]
    lines: tuple[tuple[str, bool], ...]
    truth: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """One image and its panels."""

    picture: Picture
    panels: tuple[Panel, ...]


def root(results: Results) -> Path | None:
    """Returns the folder that the results were read from."""
    return next((cell.parent.parent for cell in results.folders.values()), None)


def strips(results: Results) -> list[Strip]:
    """Makes the strips of the gallery's images, as many as PANELS allows; empty where there is no gallery, or no cell
    has one."""
    folder = root(results)
    kept_gallery = gallery.read_gallery(folder) if folder is not None else None
    cells = shown_cells(results) if kept_gallery is not None else {}
    answers = {title: results.read_gallery(key) for title, key in cells.items()}
    if kept_gallery is None or not answers:
        return []
    options = {category.names[0]: category.names[1:] for category in results.categories}
    pictures = kept_gallery.pictures[: max(1, PANELS // (len(answers) + 1))]
    return [_strip(picture, answers, options) for picture in pictures]


def panels_by_image(results: Results) -> dict[str, tuple[Panel, ...]]:
    """Maps the id of each image to its panels."""
    return {str(strip.picture.image_id): strip.panels for strip in strips(results)}


def shown_cells(results: Results) -> dict[str, Key]:
    """Maps a title to the first seed that has a gallery, for base and objectives of every model."""
    cells = {}
    for model in models(results):
        for label in rows_of(results):
            key = next(filter(results.has_gallery, results.finished(model, label)), None)
            if key is not None:
                cells[label if len(models(results)) == 1 else f"{model}: {label}"] = key
    return cells


def _strip(picture: Picture, answers: dict[str, dict[int, ShownSamples]], options: dict[str, tuple[str, ...]]) -> Strip:
    absent = [title for title, by_image in answers.items() if picture.image_id not in by_image]
    if absent:
        raise DataError(f"{GALLERY} of {', '.join(absent)}: expected image {picture.image_id}, which the index names")
    others = [answer_panel(title, by_image[picture.image_id]) for title, by_image in answers.items()]
    return Strip(picture, (truth_panel(picture, options), *others))


def truth_panel(picture: Picture, options: dict[str, tuple[str, ...]]) -> Panel:
    """Makes the panel of the ground truth: every category once, with the names that are equally valid."""
    boxes = tuple(Drawn(item.box, None, verified=True) for item in picture.instances)
    names = dict.fromkeys(item.name for item in picture.instances)
    lines = [[name, *(f"  or {other}" for other in options.get(name, ()))] for name in names]
    return Panel("ground truth", boxes, tuple((line, True) for names in lines for line in names), truth=True)


def answer_panel(title: str, answer: ShownSamples) -> Panel:
    boxes = tuple(Drawn(item.box, item.sample, item.verified) for item in answer.mentions)
    lines = [
        (f"{item.samples}/{answer.samples} {_printable(item.name)}", item.verified > 0) for item in counted(answer)
    ]
    return Panel(title, boxes, tuple(lines) or (("nothing", False),))


def _printable(name: str) -> str:
    """Replaces control characters, which a model may write but SVG does not allow."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in name)


def counted(answer: ShownSamples) -> list[Named]:
    """Counts the names of an answer: verified ones first, then by number of samples, then by name."""
    every = {(item.sample, item.name) for item in answer.mentions}
    right = {(item.sample, item.name) for item in answer.mentions if item.verified}
    names = {name for _, name in every}
    counts = [
        Named(name, sum(other == name for _, other in every), sum(other == name for _, other in right))
        for name in names
    ]
    return sorted(counts, key=lambda item: (item.verified == 0, -item.samples, item.name))


# ---- drawing -----------------------------------------------------------------------------------------------------


def draw_gallery(results: Results) -> Figure:
    folder = root(results)
    assert folder is not None
    return draw_strips(strips(results), folder / gallery.FOLDER)


def draw_strips(strips: Sequence[Strip], pictures: Path) -> Figure:
    """Draws the strips; `pictures`: the folder of the picture files."""
    most = max(len(strip.panels) for strip in strips)
    across = math.ceil(most / math.ceil(most / PER_LINE))  # lines of equal length
    lines = [(strip, strip.panels[i : i + across]) for strip in strips for i in range(0, len(strip.panels), across)]
    heights = [_height(strip.picture, panels) for strip, panels in lines]
    width, height = across * (WIDTH + GAP) + GAP, sum(heights) + GAP
    figure = Figure(figsize=(width, height))
    top = height
    for (strip, panels), line_height in zip(lines, heights, strict=True):
        pixels, side = _pixels(pictures / strip.picture.file), _shown_height(strip.picture)
        for column, panel in enumerate(panels):
            left, bottom = GAP + column * (WIDTH + GAP), top - TITLE - side
            axes = figure.add_axes((left / width, bottom / height, WIDTH / width, side / height))
            _draw_panel(axes, panel, strip.picture, pixels)
        top -= line_height
    return figure


def _shown_height(picture: Picture) -> float:
    return min(1.5 * WIDTH, WIDTH * picture.height / picture.width)


def _height(picture: Picture, panels: Sequence[Panel]) -> float:
    """Returns the height of a line of panels in inches."""
    longest = max(min(len(panel.lines), NAMES + 1) for panel in panels)
    return TITLE + _shown_height(picture) + TEXT_LINE * (longest + 0.8) + GAP


def _pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = read_rgb(path)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _draw_panel(
    axes: Axes, panel: Panel, picture: Picture, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> None:
    axes.set_axis_off()
    axes.imshow(pixels, extent=(0, picture.width, picture.height, 0), interpolation="none")
    axes.set(xlim=(0, picture.width), ylim=(picture.height, 0))
    if not panel.truth:  # boxes stand out from a pale picture
        axes.axhspan(0, picture.height, color="white", alpha=0.55, linewidth=0)
    for boxes in _alike(panel.boxes):
        _draw_boxes(axes, boxes)
    axes.set_title(panel.title, size=8, pad=3, loc="left", weight="bold" if panel.truth else "normal")
    for index, (text, verified) in enumerate(_fitting(panel.lines)):
        axes.annotate(
            text,
            (0, 0),
            (1, -72 * TEXT_LINE * (index + 1) - 1),
            xycoords="axes fraction",
            textcoords="offset points",
            size=8,
            color="black" if verified else GREY_TEXT,
            style="normal" if verified else "italic",
        )


def _alike(boxes: Sequence[Drawn]) -> Iterator[list[Drawn]]:
    """Groups boxes that are drawn in the same way: by sample, and by whether they are verified."""
    kinds = dict.fromkeys((drawn.sample, drawn.verified) for drawn in boxes)
    for kind in kinds:
        yield [drawn for drawn in boxes if (drawn.sample, drawn.verified) == kind]


def _draw_boxes(axes: Axes, boxes: Sequence[Drawn]) -> None:
    sample, verified = boxes[0].sample, boxes[0].verified
    corners = [drawn.box.corners for drawn in boxes]
    outlines = np.array([[(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for x0, y0, x1, y1 in corners])
    colour = "black" if sample is None else SAMPLE_COLOURS[sample % len(SAMPLE_COLOURS)]
    made = PathPatch(
        Outline.make_compound_path_from_polys(outlines),  # one path: an SVG repeats the style of each
        fill=False,
        edgecolor=colour,
        linewidth=1.4 if sample is None else 0.9,
        linestyle="-" if verified else (0, (2.0, 1.6)),
    )
    axes.add_artist(made)


def _fitting(lines: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Returns at most NAMES + 1 lines, cut to the width of a panel; omitted lines are counted."""
    chosen = list(lines) if len(lines) <= NAMES + 1 else [*lines[:NAMES], (f"and {len(lines) - NAMES} more", False)]
    widest = round(WIDTH / 0.066)
    return [(text if len(text) <= widest else f"{text[: widest - 1]}…", verified) for text, verified in chosen]
