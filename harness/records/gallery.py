"""Stores a few validation images and the mentions of the samples, to be shown side by side for every row of a suite.

    DIR/gallery/index.json        which images, and their ground truth
    DIR/gallery/<image id>.png    the pictures, at most SIDE pixels on the longer side
    DIR/cells/*/gallery.parquet   the mentions of a cell's samples (see harness.records.record), for the first seed

The pictures belong to the benchmark, not to a cell: they are absent where they must not be published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
from PIL import Image
from pydantic import Field, ValidationError

from harness.errors import DataError
from harness.images import read_rgb
from harness.records.layout import GALLERY
from harness.system.files import replacing, write_text
from harness.system.strict import StrictModel, first_problem
from harness.types import Box, Category, Example

FOLDER = GALLERY
INDEX = "index.json"
PICTURES = 6
SIDE = 320
"""Longer side of a picture in pixels; smaller images stay as they are."""
CROWDED = 8
"""With more instances than this, boxes hide each other: such images are chosen only where there is no other."""
COLUMNS = ("image_id", "sample", "position", "name", "category_id", "x", "y", "w", "h", "verified")

Positive = Annotated[int, Field(ge=1)]


class ShownObject(StrictModel):
    """An instance of the ground truth: its category's main name and its box, in pixels of the original."""

    name: str
    x: float
    y: float
    w: float
    h: float

    @property
    def box(self) -> Box:
        return Box(self.x, self.y, self.w, self.h)


class Picture(StrictModel):
    """A picture of the gallery. width, height: of the original, which the boxes refer to."""

    image_id: int
    file: Annotated[str, Field(pattern=r"^-?[0-9]+\.png$")]
    width: Positive
    height: Positive
    instances: tuple[ShownObject, ...]


class Gallery(StrictModel):
    """The index file."""

    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class ShownMention:
    """One mention of a sample."""

    sample: int
    name: str
    box: Box
    verified: bool


@dataclass(frozen=True, slots=True)
class ShownSamples:
    """The mentions of K samples about one image, in order of sample and position."""

    samples: int
    mentions: tuple[ShownMention, ...]


def choose_pictures(
    examples: Sequence[Example], categories: Sequence[Category], pictures: int = PICTURES
) -> list[Example]:
    """Chooses the images with most instances whose category has several names, as only these leave a choice; of
    equals the earlier first. Crowded images come last."""
    several = {category.id for category in categories if len(set(category.names)) > 1}

    def rank(example: Example) -> tuple[bool, int]:
        return len(example.instances) > CROWDED, -sum(item.category_id in several for item in example.instances)

    return sorted(examples, key=rank)[:pictures]


def write_gallery(
    folder: Path,
    examples: Sequence[Example],
    categories: Sequence[Category],
    pictures: int = PICTURES,
) -> None:
    """Writes pictures and index of the chosen examples into `folder`/gallery; the same examples give the same bytes.

    Each file is written atomically, the index last. Raises DataError where a picture cannot be read.
    """
    names = {category.id: category.name for category in categories}
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    shown = choose_pictures(examples, categories, pictures)
    kept_pictures = [_picture(example, names) for example in shown]
    for example, picture in zip(shown, kept_pictures, strict=True):
        _write_picture(example.path, place / picture.file)
    write_text(place / INDEX, Gallery(pictures=tuple(kept_pictures)).model_dump_json(indent=1) + "\n")


def _picture(example: Example, names: dict[int, str]) -> Picture:
    instances = tuple(
        ShownObject(name=names[item.category_id], x=item.box.x, y=item.box.y, w=item.box.w, h=item.box.h)
        for item in example.instances
    )
    return Picture(
        image_id=example.image_id,
        file=f"{example.image_id}.png",
        width=example.width,
        height=example.height,
        instances=instances,
    )


def _write_picture(source: Path, target: Path) -> None:
    image = read_rgb(source)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.info.clear()  # colour profiles and dates are not for publication
    with replacing(target) as partial:
        image.save(partial, format="PNG", optimize=True)


def read_gallery(folder: Path) -> Gallery | None:
    """Reads the index of an output (or published) folder; None where it has no gallery.

    Raises DataError if the index is invalid, or a picture is missing.
    """
    path = folder / FOLDER / INDEX
    try:
        gallery = Gallery.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DataError(f"{path}: {first_problem(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    for picture in gallery.pictures:
        if not (path.parent / picture.file).is_file():
            raise DataError(f"{path}: names {picture.file}, expected it beside the index; run the suite again")
    return gallery


def samples_by_image(frame: pd.DataFrame, path: str) -> dict[int, ShownSamples]:
    """Sorts gallery.parquet by image: one row per mention; a sample that mentions nothing has one row without a name.

    path: how errors call the table. Raises DataError if a column is missing or a sample has no row (they are numbered 0
    to K - 1 in every image).
    """
    absent = [name for name in COLUMNS if name not in frame]
    if absent:
        raise DataError(f"{path}: expected the columns {', '.join(COLUMNS)}; {', '.join(absent)} missing")
    samples = int(frame["sample"].max()) + 1 if len(frame) else 0
    by_image = {}
    for image_id, rows in frame.groupby("image_id"):
        if set(rows["sample"]) != set(range(samples)):
            raise DataError(f"{path}: image {image_id}: expected a row of each of {samples} samples")
        named = rows[rows["name"].notna()].sort_values(["sample", "position"])
        by_image[int(str(image_id))] = ShownSamples(
            samples, tuple(_read_mention(row) for row in named.itertuples(index=False))
        )
    return by_image


def _read_mention(row: tuple[object, ...]) -> ShownMention:
    cells = row._asdict()  # type: ignore[attr-defined]
    box = Box(*(float(cells[side]) for side in ("x", "y", "w", "h")))
    return ShownMention(int(cells["sample"]), str(cells["name"]), box, bool(cells["verified"]))


def gallery_frame(tables: Mapping[str, pd.DataFrame], image_ids: Sequence[int], temperature: float) -> pd.DataFrame:
    """Selects the mentions of these images at one temperature (from the tables of one step), samples counted from 0;
    one row without a name for a sample that mentions nothing."""
    samples, mentions = (
        frame[frame["image_id"].isin(image_ids) & (frame["temperature"] == temperature)]
        for frame in (tables["samples"], tables["mentions"])
    )
    keys = ["image_id", "sample"]
    marked = mentions.assign(verified=mentions["instance_id"].notna())
    shown = [*keys, "position", "name", "category_id", "x", "y", "w", "h", "verified"]
    frame = samples[keys].astype("Int64").merge(marked[shown], on=keys, how="left").sort_values([*keys, "position"])
    frame["verified"] = frame["verified"].astype("boolean").fillna(False).astype(bool)
    return frame.assign(sample=frame["sample"] - 1).reset_index(drop=True)
