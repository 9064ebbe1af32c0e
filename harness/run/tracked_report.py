"""Sends the report of a run to an experiment tracker, beside the runs of its cells: every table, and the gallery.

In: the output folder of a run. Out: one more run of the tracker, `report`, with a table for each of the report's, and a
sheet for each picture of the gallery: the annotated objects, then what the first samples of every row said. trackio has
neither tables nor pictures in accelerate's class, and gets none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from harness.images import read_rgb
from harness.records import layout
from harness.records.gallery import FOLDER, Picture, ShownSamples, read_gallery
from harness.report.grids.grid import Grid
from harness.report.grids.tables import grids
from harness.report.renderers.text import markdown
from harness.report.results import Results, load
from harness.run.trackers import Name, Tracker
from harness.types import Box

RUN = "report"
SHOWN_SAMPLES = 4
CAPTION, GAP = 14, 4
"""Pixels above a panel, and between two."""
RIGHT, WRONG, TRUTH = "lime", "red", "yellow"

Named = tuple[str, Box, str]
"""What is drawn: a name, its box, and a colour."""


def send_report(name: Name, suite: str, folder: Path) -> None:
    """Sends the tables and the gallery of a run; a tracker that fails is warned of, as with the log of a cell."""
    if name == "trackio":
        return
    tracker = Tracker(name)
    results = load(folder)
    tracker.attempt(lambda: tracker.start(suite, folder / layout.TRACKERS / RUN, {"suite": suite}))
    tracker.attempt(lambda: _send(name, tracker.run, results, folder))
    tracker.attempt(tracker.finish)


def _send(name: Name, run: Any, results: Results, folder: Path) -> None:
    for grid in grids(results):
        if name == "tensorboard":
            run.tracker.add_text(f"tables/{grid.title}", markdown(grid))
        else:
            run.log_table(f"tables/{grid.title}", columns=list(grid.headings), data=texts_of(grid))
    for picture, sheet in gallery_sheets(results, folder):
        values, tag = np.asarray(sheet), f"gallery/{picture.image_id}"
        if name == "tensorboard":
            run.log_images({tag: values[None]}, step=0, dataformats="NHWC")  # one image: [1, height, width, 3]
        else:
            run.log_images({tag: [values]})


def texts_of(grid: Grid) -> list[list[str]]:
    """Returns the texts of a table, line by line."""
    return [[cell.text for cell in row] for row in grid.rows]


def gallery_sheets(results: Results, folder: Path) -> Iterable[tuple[Picture, Image.Image]]:
    """Yields a sheet for each picture of the gallery; none where the run has no gallery. Rows have the samples of
    their first seed that has some."""
    gallery = read_gallery(folder)
    rows: dict[str, Mapping[int, ShownSamples]] = {}
    for key in results.records:
        row = f"{key.model} {key.label}"
        if row not in rows and results.has_gallery(key):
            rows[row] = results.read_gallery(key)
    for picture in () if gallery is None else gallery.pictures:
        image = read_rgb(folder / FOLDER / picture.file)
        samples = {row: shown[picture.image_id] for row, shown in rows.items() if picture.image_id in shown}
        yield picture, draw_sheet(image, picture, samples)


def draw_sheet(image: Image.Image, picture: Picture, rows: Mapping[str, ShownSamples]) -> Image.Image:
    """Draws the annotated objects, and below them a line of panels for each row: its first samples, boxes of verified
    mentions green, of others red."""
    truth: list[Named] = [(item.name, item.box, TRUTH) for item in picture.instances]
    lines: list[list[tuple[str, list[Named]]]] = [[("annotated", truth)]]
    for row, shown in rows.items():
        panels = []
        for number in range(min(SHOWN_SAMPLES, shown.samples)):
            mentions = [mention for mention in shown.mentions if mention.sample == number]
            named = [(m.name, m.box, RIGHT if m.verified else WRONG) for m in mentions]
            panels.append((f"{row}, sample {number}", named))
        lines.append(panels)
    width, height = image.width + GAP, image.height + CAPTION + GAP
    sheet = Image.new("RGB", (width * max(map(len, lines)), height * len(lines)), "white")
    scale = image.width / picture.width
    for down, panels in enumerate(lines):
        for across, (title, named) in enumerate(panels):
            left, top = across * width, down * height
            _draw_text(sheet, (left, top), title, "black")
            sheet.paste(_with_boxes(image, named, scale), (left, top + CAPTION))
    return sheet


def _with_boxes(image: Image.Image, named: Iterable[Named], scale: float) -> Image.Image:
    copy = image.copy()
    pen = ImageDraw.Draw(copy)
    for name, box, colour in named:
        x0, y0, x1, y1 = (side * scale for side in box.corners)
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour)
        _draw_text(copy, (x0 + 1, y0), name, colour)
    return copy


def _draw_text(image: Image.Image, place: tuple[float, float], text: str, colour: str) -> None:
    ImageDraw.Draw(image).text(place, text, fill=colour, font=ImageFont.load_default(10))
