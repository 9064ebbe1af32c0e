"""Reads the rows of a detection data set of the package `datasets`: pictures, boxes and categories.

Pictures that are stored in the rows are written into the cache, named by their content; those that are files must lie
in the data folder (or in the cache of `datasets`, where it has put what it downloaded).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.formats.data_folder import DataFolder
from benchmarks.formats.labelled_images import LabelledImage, LabelledObject, LabelledSplit, names_of
from benchmarks.readers.typed_json import printable
from harness.errors import ConfigError, DataError, unknown
from harness.images import read_size
from harness.system.files import cache_root, replacing
from harness.types import Box

MOST_PICTURE_BYTES = 200_000_000


class HfPlace(Protocol):
    """Where the rows are: see benchmarks.hf.HfSettings."""

    @property
    def dataset(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def config(self) -> str | None: ...
    @property
    def train(self) -> str: ...
    @property
    def val(self) -> str: ...
    @property
    def boxes(self) -> str: ...


def read_hf(root: Path, place: HfPlace) -> tuple[dict[int, str], list[LabelledSplit]]:
    """Returns class -> name, and the images of both splits. DataError, one line, for rows that are not as described in
    benchmarks.hf, and for what `datasets` cannot read."""
    import datasets  # late: of the extra `hf`

    loaded = _load(root, place)
    pictures = _Pictures(DataFolder(root if place.revision is None else Path(datasets.config.HF_CACHE_HOME)))
    splits, labels = [], list[list[str] | None]()
    for name in (place.train, place.val):
        if name not in loaded:
            raise ConfigError(unknown("split of the data set", name, loaded))
        rows = loaded[name]
        where = f"{place.dataset}: {name}"
        labels.append(_labels(rows.features, where))
        rows = rows.cast_column("image", datasets.Image(decode=False))
        images = tuple(
            _image(row, f"{where}: row {k}", labels[-1], place.boxes, pictures) for k, row in enumerate(rows)
        )
        splits.append(LabelledSplit(Path(place.dataset) / name, images))
    if labels[0] != labels[1]:
        raise DataError(f"{place.dataset}: expected {place.val} to have the class labels of {place.train}")
    return names_of(splits) if labels[0] is None else dict(enumerate(labels[0])), splits


def _load(root: Path, place: HfPlace) -> Any:
    """Opens the data set; its errors are of many classes."""
    import datasets

    try:
        if place.revision is not None:
            return datasets.load_dataset(place.dataset, place.config, revision=place.revision)
        folder = root if place.dataset == "." else DataFolder(root).find(place.dataset, str(root))
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; on the Hub it needs a revision")
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(str(folder), place.config)
    except (DataError, MemoryError):
        raise
    except Exception as error:
        reason = printable(f"{type(error).__name__}: {error}")
        raise DataError(f"{place.dataset}: expected a data set that `datasets` reads, got {reason}") from None


def _labels(features: Any, where: str) -> list[str] | None:
    """Returns the class labels; None where categories are texts."""
    objects = features.get("objects")
    if "image" not in features or objects is None:
        raise DataError(f"{where}: expected the columns image and objects, got {', '.join(features)}")
    fields = getattr(objects, "feature", objects)  # a list of structs is one too
    if "bbox" not in fields or "category" not in fields:
        raise DataError(f"{where}: objects: expected bbox and category, got {', '.join(fields)}")
    names = getattr(getattr(fields["category"], "feature", fields["category"]), "names", None)
    return None if names is None else list(names)


class _Pictures:
    """Finds or writes the picture of a row."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder, self._cache = folder, cache_root() / "hf-pictures"

    def find(self, image: Any, where: str) -> Path:
        content, path = (image or {}).get("bytes"), (image or {}).get("path")
        if content is None:
            if not path:
                raise DataError(f"{where}: image: expected a picture, got nothing")
            return self._folder.require_inside(Path(path), f"{where}: image")
        if len(content) > MOST_PICTURE_BYTES:
            raise DataError(f"{where}: image: expected at most {MOST_PICTURE_BYTES:,} bytes, got {len(content):,}")
        stored = self._cache / f"{hashlib.sha256(content).hexdigest()}.picture"
        if not stored.is_file():
            self._cache.mkdir(parents=True, exist_ok=True)
            with replacing(stored) as partial:
                partial.write_bytes(content)
        return stored


def _image(
    row: dict[str, Any], where: str, labels: Sequence[str] | None, boxes: str, pictures: _Pictures
) -> LabelledImage:
    path = pictures.find(row["image"], where)
    objects = row["objects"]
    if isinstance(objects, list):  # a list of structs
        objects = {key: [each[key] for each in objects] for key in ("bbox", "category")}
    quads, categories = objects["bbox"] or [], objects["category"] or []
    if len(quads) != len(categories):
        raise DataError(
            f"{where}: objects: expected as many categories as boxes, got {len(categories)} of {len(quads)}"
        )
    pairs = list(zip(quads, categories, strict=True))
    labelled = tuple(_object(*pair, f"{where}: objects[{k}]", labels, boxes) for k, pair in enumerate(pairs))
    width, height = read_size(path)
    return LabelledImage(path, width, height, labelled, json.dumps([boxes, pairs]).encode())


def _object(quad: Any, category: Any, where: str, labels: Sequence[str] | None, boxes: str) -> LabelledObject:
    if not isinstance(quad, list) or len(quad) != 4 or not all(_is_number(side) for side in quad):
        raise DataError(f"{where}: bbox: expected four finite numbers, got {printable(repr(quad))}")
    x, y, w, h = map(float, quad)
    if boxes == "xyxy":
        w, h = w - x, h - y
    if w < 0 or h < 0:
        hint = "" if boxes == "xywh" else " (boxes: xywh is for corner and size)"
        raise DataError(f"{where}: bbox: expected a width and height of at least 0{hint}, got {printable(repr(quad))}")
    if labels is None:
        if not isinstance(category, str) or not category.strip():
            raise DataError(f"{where}: category: expected a class label or a name, got {printable(repr(category))}")
        return LabelledObject(category, Box(x, y, w, h))
    if type(category) is not int or not 0 <= category < len(labels):
        raise DataError(f"{where}: category: expected a class label, got {printable(repr(category))}")
    return LabelledObject(labels[category], Box(x, y, w, h))


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
