"""Runs `detmodes pairs`: shows the pairs that a run's cells were trained on (harness.training.stages.pairs), as text
or drawn side by side."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.commands.results.codebook import benchmark_of
from harness.errors import ConfigError, DataError
from harness.metrics.samples.matching import match_sample
from harness.protocols import Benchmark
from harness.records import gallery, verify_files
from harness.report.figures import styled
from harness.report.figures.strips import Drawn, Panel, Strip, draw_strips
from harness.report.figures.style import render
from harness.report.renderers.html import STYLE
from harness.report.results import Key, Results, load
from harness.suite.cells import select_cells
from harness.suite.permissions import NOTHING, Permissions
from harness.system.files import check_place, replacing
from harness.training.stages import pairs
from harness.training.stages.pairs import PAIRS, SIDES
from harness.types import Box, Category, Example, Mention

FILE = f"{PAIRS}.parquet"
SUFFIXES = (".html", ".png")


@dataclass(frozen=True, slots=True)
class Shown:
    """A cell's pairs of the images that are shown; `pairs`: the number of all its pairs."""

    key: Key
    table: pd.DataFrame
    pairs: int


def show(
    folder: Path,
    pattern: str | None,
    images: int,
    output: Path | None,
    data: Path | None,
    permissions: Permissions = NOTHING,
) -> str:
    """Shows the pairs about the first `images` images of every finished cell that has some (and whose id matches
    `pattern`) as text. If `output` is given they are drawn into it, and the text names the file.

    ConfigError where no cell matches, or `output` cannot be written; DataError where the tables are not those of the
    records, or the benchmark is not the one that the cells were trained on.
    """
    if output is not None:
        if output.suffix not in SUFFIXES:
            raise ConfigError(f"--output: expected a name that ends in {' or '.join(SUFFIXES)}, got {output}")
        check_place(output)
    results = load(folder)
    cells = [_shown(results, key, images) for key in _chosen(results, pattern)]
    if output is None:
        return "".join(line for cell in cells for line in _lines(cell))
    benchmark = benchmark_of(folder, results, [cell.key for cell in cells], data, permissions)
    content = _png(cells, benchmark, output) if output.suffix == ".png" else _html(cells, benchmark).encode()
    with replacing(output) as partial:
        partial.write_bytes(content)
    return f"drawn to {output}\n"


def _chosen(results: Results, pattern: str | None) -> list[Key]:
    having = {key: results.folders[key].name.rpartition("-")[0] for key in results.records if _has(results, key)}
    if not having:
        raise ConfigError(f"suite {results.suite.suite}: expected a finished cell with {FILE}, got none")
    return select_cells(having, pattern, "--only")


def _has(results: Results, key: Key) -> bool:
    return FILE in results.records[key].files


def _shown(results: Results, key: Key, images: int) -> Shown:
    folder = results.folders[key]
    if not (folder / FILE).is_file():
        raise DataError(f"{folder}: has no {FILE}; expected the output folder of a run, published cells have none")
    verify_files(results.records[key], folder, [FILE])
    table = pairs.read(folder / FILE)
    first = table["image_id"].drop_duplicates()[:images]
    return Shown(key, table[table["image_id"].isin(first)], len(table))


# ---- as text -------------------------------------------------------------------------------------------------------


def _lines(cell: Shown) -> Iterator[str]:
    yield f"{cell.key}: {cell.pairs} pairs\n"
    for pair in cell.table.to_dict("records"):
        yield f"image {pair['image_id']}\n"
        for side in SIDES:
            text = "".join(c if c.isprintable() else "?" for c in pair[f"{side}_text"])
            yield f"  {_title(pair, side):28}  {text}\n"


def _title(pair: Mapping[Hashable, Any], side: str) -> str:
    """Returns the reward of a sequence, and how many of the model's samples list its names in its order."""
    return f"{side}: reward {pair[f'{side}_reward']:.2f}, {pair[f'{side}_samples']}/{pair['samples']}"


# ---- drawn ---------------------------------------------------------------------------------------------------------


def _png(shown: Sequence[Shown], benchmark: Benchmark, output: Path) -> bytes:
    if len(shown) > 1:
        cells = ", ".join(str(cell.key) for cell in shown)
        raise ConfigError(f"{output}: expected one cell for a picture, got {cells}; give --only, or a page (.html)")
    with TemporaryDirectory() as folder:
        return _drawn(list(_strips(shown[0], benchmark, Path(folder))), Path(folder))


def _html(shown: Sequence[Shown], benchmark: Benchmark) -> str:
    """Makes a page that loads nothing and runs nothing, whatever the sequences contain."""
    body = "".join(
        f"<h2>{escape(str(cell.key))}: {cell.pairs} pairs</h2>\n{_figures(cell, benchmark)}" for cell in shown
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>Pairs: detmodes</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Pairs</h1>
<p>Left the chosen sequence, right the rejected one: its reward, and how many of the model's samples of the image list
the same names in the same order. Boxes that no instance verifies are dashed, their names in italics.</p>
{body}</body>
</html>
"""


def _figures(cell: Shown, benchmark: Benchmark) -> str:
    with TemporaryDirectory() as folder:
        drawn = [_drawn([strip], Path(folder)) for strip in _strips(cell, benchmark, Path(folder))]
    made = []
    for pair, png in zip(cell.table.to_dict("records"), drawn, strict=True):
        texts = "".join(f"<dt>{_title(pair, side)}</dt>\n<dd>{escape(pair[f'{side}_text'])}</dd>\n" for side in SIDES)
        picture = f'<img src="data:image/png;base64,{b64encode(png).decode()}" alt="Both sequences, drawn">'
        caption = f"<figcaption>image {pair['image_id']}</figcaption>"
        made.append(f"<figure>\n{picture}\n{caption}\n<dl>\n{texts}</dl>\n</figure>\n")
    return "".join(made)


def _drawn(strips: Sequence[Strip], folder: Path) -> bytes:
    with styled():
        figure: Figure = draw_strips(strips, folder / gallery.FOLDER)
        return render(figure, "png")


def _strips(cell: Shown, benchmark: Benchmark, folder: Path) -> Iterator[Strip]:
    """Makes one strip for each pair; the pictures are in `folder`."""
    examples = {example.image_id: example for example in benchmark.split("train")}
    used = [examples[image_id] for image_id in cell.table["image_id"].drop_duplicates()]
    gallery.write_gallery(folder, used, benchmark.categories, len(used))
    index = gallery.read_gallery(folder)
    assert index is not None
    pictures = {picture.image_id: picture for picture in index.pictures}
    for pair in cell.table.to_dict("records"):
        example = examples[pair["image_id"]]
        panels = tuple(_panel(pair, side, example, benchmark.categories) for side in SIDES)
        yield Strip(pictures[example.image_id], panels)


def _panel(pair: Mapping[Hashable, Any], side: str, example: Example, categories: Sequence[Category]) -> Panel:
    ids = {name: category.id for category in categories for name in category.names}
    names, boxes = pair[f"{side}_names"], pd.Series(pair[f"{side}_boxes"]).to_numpy(float).reshape(-1, 4)
    mentions = [Mention(name, ids.get(name), Box(*box)) for name, box in zip(names, boxes.tolist(), strict=True)]
    verified = [match.verified for match in match_sample(example, mentions)]
    drawn = tuple(Drawn(m.box, SIDES.index(side), right) for m, right in zip(mentions, verified, strict=True))
    lines = tuple((mention.name, right) for mention, right in zip(mentions, verified, strict=True))
    return Panel(_title(pair, side), drawn, lines or (("nothing", False),))
