"""Draws the figures of results as PNG and SVG. Their content comes from `data`, and from `strips` for the gallery."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from harness.report.figures import data, lines, points, strips
from harness.report.figures.style import STYLE, Words, render, save
from harness.report.results import Results

GALLERY = "gallery"

TEXTS = {
    "frontier": "Normalised name diversity at equal AP: along the path from the base through the evaluated steps of "
    "each objective; bands are 95% intervals",
    "ap-vs-diversity": "AP against normalised name diversity: the path of training, and its last step with 95% "
    "intervals",
    "category-diversity": "Normalised name diversity of every reportable category against the number of training "
    "images that have it (seed means); the lines are medians of bins of categories, the base is grey",
    "coverage": "Expected share of the instances that k samples find; bands are 95% intervals",
    "temperature": "Recall, precision and name diversity of samples at several temperatures; bands are 95% intervals",
    "training": "Training: means over seeds, bands from the smallest to the largest",
    "dynamics": "What a fixed probe set shows along training, the base at step 0: means over seeds, bands from the "
    "smallest to the largest",
    GALLERY: "What the samples of the first seed say about some validation images: one colour per sample, dashed where "
    "no instance verifies it; below, in how many samples a name occurs, in italics where it is never verified",
}
"""The caption of each figure."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of figure. data: returns what the figure shows (dataclasses, sequences and dicts by name), empty where
    there is nothing to show. tell: says in words what is seen."""

    data: Callable[[Results], Mapping[str, object]]
    draw: Callable[[Results], Figure]
    tell: Callable[[Results], str] = lambda results: ""


def available(results: Results) -> list[str]:
    """Lists the names of the figures that have something to show."""
    return [name for name, kind in _FIGURES.items() if kind.data(results)]


def drawn(results: Results) -> dict[str, object]:
    """Maps the name of each available figure to the data that it shows, as JSON values: numbers to six decimals,
    undefined ones None."""
    return {name: plain(content) for name, kind in _FIGURES.items() if (content := kind.data(results))}


def plain(value: object) -> object:
    """Converts dataclasses, sequences and dicts to JSON values."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return round(float(value), 6) + 0.0 if math.isfinite(value) else None  # no "-0.0"
    return value


def draw(results: Results, folder: Path, suffixes: Sequence[str] = ("svg", "png")) -> list[Path]:
    """Writes the available figures as files of these kinds; the same results give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in available(results):
        with styled():
            figure = _FIGURES[name].draw(results)
            # Each layout starts from the previous one: the SVG comes first, as it does in `svg`.
            words = Words(name.replace("-", " "), description(results, name))
            paths += [save(figure, folder / f"{name}.{suffix}", words) for suffix in suffixes]
    return paths


def svg(results: Results, name: str) -> str:
    """Renders one of the available figures as SVG, as `draw` writes it."""
    with styled():
        words = Words(name.replace("-", " "), description(results, name))
        return render(_FIGURES[name].draw(results), "svg", words).decode()


def description(results: Results, name: str) -> str:
    """Says what a figure shows and what is seen in it: for those who do not see it."""
    observation = _FIGURES[name].tell(results)
    return f"{TEXTS[name]}. {observation}" if observation else f"{TEXTS[name]}."


@contextmanager
def styled() -> Iterator[None]:
    """Sets the style of all figures; a `$` in a label is printed as `$`."""
    with matplotlib.rc_context(STYLE | {"text.parse_math": False}):
        yield


def _each(find: Callable[[Results, str], object]) -> Callable[[Results], Mapping[str, object]]:
    return lambda results: data.by_model(results, find)


_FIGURES = {
    "frontier": _Kind(_each(data.frontier_lines), lines.draw_frontier, data.ends_in_words),
    "ap-vs-diversity": _Kind(_each(data.trajectories), points.draw_trajectories, data.ends_in_words),
    "category-diversity": _Kind(_each(data.clouds), points.draw_clouds),
    "coverage": _Kind(_each(data.coverage_lines), lines.draw_coverage),
    "temperature": _Kind(_each(data.heat_lines), lines.draw_heat),
    "training": _Kind(_each(data.training_lines), lines.draw_training),
    "dynamics": _Kind(_each(data.probe_lines), lines.draw_dynamics),
    GALLERY: _Kind(strips.panels_by_image, strips.draw_gallery),
}
