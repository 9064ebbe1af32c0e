"""Reads data sets of YOLO: a YAML file with the names of classes and the places of the splits, and one text file of
labels for each image, `class x_center y_center width height` a line, in shares of the image.

Of the YAML file `names`, `nc`, `train` and `val` are read. `path` is not followed (the data folder is where the file
lies), and what `download` says is never run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.formats.data_folder import MOST_LIST_BYTES, DataFolder, read_bytes, read_text
from benchmarks.formats.labelled_images import LabelledImage, LabelledObject, LabelledSplit
from benchmarks.readers.typed_json import printable
from harness.errors import ConfigError, DataError
from harness.images import read_size
from harness.types import Box
from harness.yaml_text import read_yaml

ENDINGS = frozenset({".bmp", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"})
"""Of pictures, among those that Ultralytics reads and Pillow does too."""
FIELDS = ("class", "x_center", "y_center", "width", "height")


def read_yolo(root: Path, file: str) -> tuple[dict[int, str], list[LabelledSplit]]:
    """Returns class -> name, and the images of `train` and `val`. DataError, one line, at the first mistake."""
    folder = DataFolder(root)
    path = folder.find(file, str(root))
    try:
        content = read_yaml(read_text(path, "a YAML file of names and splits"), str(path))
    except ConfigError as error:
        raise DataError(str(error)) from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected the keys names, train and val")
    names = _names(content, path)
    return names, [_split(folder, path, content, split, names) for split in ("train", "val")]


def _names(content: dict[Any, Any], path: Path) -> dict[int, str]:
    given = content.get("names")
    pairs = dict(enumerate(given)) if isinstance(given, list) else given
    if not isinstance(pairs, dict) or not pairs:
        raise DataError(f"{path}: names: expected a list of names, or class: name of each")
    names: dict[int, str] = {}
    for key, name in pairs.items():
        if type(key) is not int or key < 0:
            raise DataError(f"{path}: names: expected classes of at least 0, got {printable(repr(key))}")
        if not isinstance(name, str | int | float) or not str(name).strip():
            raise DataError(f"{path}: names: class {key}: expected a name, got {printable(repr(name))}")
        if str(name) in names.values():
            raise DataError(f"{path}: names: expected every name once, got {printable(repr(str(name)))} again")
        names[key] = str(name)
    if content.get("nc") not in (None, len(names)):
        raise DataError(f"{path}: nc: expected {len(names)}, as many as names, got {printable(repr(content['nc']))}")
    return names


def _split(folder: DataFolder, path: Path, content: dict[Any, Any], split: str, names: dict[int, str]) -> LabelledSplit:
    given = content.get(split)
    places: list[Any] = given if isinstance(given, list) else [given]
    where = f"{path}: {split}"
    if not places or not all(isinstance(place, str) and place for place in places):
        raise DataError(f"{where}: expected a folder of images, a list of their names (.txt), or several of these")
    pictures = [picture for place in places for picture in _pictures(folder, place, where)]
    if not pictures:
        raise DataError(f"{where}: expected at least one image in {', '.join(places)}")
    images = tuple(_image(folder, picture, where, names) for picture in pictures)
    return LabelledSplit(folder.root / places[0].removeprefix("../"), images)


def _pictures(folder: DataFolder, place: str, where: str) -> Iterator[Path]:
    """Yields the pictures of a folder in alphabetical order, or of a list in its own."""
    # Roboflow writes ../train/images for a folder beside the file, which Ultralytics reads so too.
    path = folder.find(place.removeprefix("../"), where)
    if path.suffix == ".txt":
        for k, line in enumerate(read_text(path, "a list of images", MOST_LIST_BYTES).splitlines(), start=1):
            if line.strip():
                beside = f"{path.parent.relative_to(folder.root)}/" if line.startswith("./") else ""
                yield folder.find(beside + line.strip(), f"{path}: line {k}")
    elif path.is_dir():
        pictures = (each for each in path.rglob("*") if each.suffix.lower() in ENDINGS and each.is_file())
        yield from (folder.require_inside(each, where) for each in sorted(pictures))
    else:
        raise DataError(f"{where}: no such folder or list: {path}")


def _image(folder: DataFolder, picture: Path, where: str, names: dict[int, str]) -> LabelledImage:
    """Reads an image's size and labels. An image without a file of labels has no objects."""
    width, height = read_size(picture)
    path = folder.require_inside(label_of(folder.root, picture), where)
    label = read_bytes(path, "a file of labels") if path.is_file() else b""
    try:
        lines = label.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected a text") from None
    rows = dict.fromkeys(" ".join(line.split()) for line in lines)  # Ultralytics drops rows that are there twice, too
    places = {" ".join(line.split()): k for k, line in reversed(list(enumerate(lines, start=1)))}
    objects = tuple(_object(row, f"{path}: line {places[row]}", names, width, height) for row in rows if row)
    return LabelledImage(picture, width, height, objects, label)


def label_of(root: Path, picture: Path) -> Path:
    """Returns the file of labels of a picture: `labels` stands where the last `images` stands in its path, else it lies
    beside the picture."""
    parts = list(picture.relative_to(root).parts)
    for k in reversed(range(len(parts) - 1)):
        if parts[k] == "images":
            parts[k] = "labels"
            break
    return root.joinpath(*parts).with_suffix(".txt")


def _object(row: str, where: str, names: dict[int, str], width: int, height: int) -> LabelledObject:
    words = row.split()
    if len(words) != len(FIELDS):
        polygon = " (polygons of segmentation are not read)" if len(words) > len(FIELDS) + 1 else ""
        raise DataError(f"{where}: expected {' '.join(FIELDS)}{polygon}, got {len(words)} values")
    try:
        number, *shares = map(float, words)
    except ValueError:
        raise DataError(f"{where}: expected five numbers, got {printable(repr(row))}") from None
    if number not in names:
        raise DataError(f"{where}: class: expected one of those with a name, got {words[0][:20]}")
    for field, share in zip(FIELDS[1:], shares, strict=True):
        if not (math.isfinite(share) and 0 <= share <= 1):
            raise DataError(f"{where}: {field}: expected a share of the image, from 0 to 1, got {share:g}")
    x, y, w, h = shares
    box = Box((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
    return LabelledObject(names[int(number)], box)
