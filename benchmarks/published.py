"""Describes the usual layouts of the published data sets: their files, where they are published, and their contents.

A layout names its files relative to a data folder: the one given with --data, or the one in the environment variable
DETMODES_DATA. LVIS uses the pictures of COCO: v0.5 split for split; v1 takes three quarters of its val images from
train2017, so each image's record says (`coco_url`) in which of the two folders it lies.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.readers import captions
from benchmarks.readers.annotations import Annotations, Style, check_images, load
from benchmarks.readers.captions import Captions
from harness.errors import ConfigError, DataError
from harness.system.files import as_url

VARIABLE = "DETMODES_DATA"

_LVIS = "https://dl.fbaipublicfiles.com/LVIS"
_COCO = "http://images.cocodataset.org"
_MINIVAL = "https://huggingface.co/GLIPModel/GLIP/resolve/main/lvis_v1_minival_inserted_image_name.json"
LVIS_PAGE, COCO_PAGE = "https://www.lvisdataset.org/dataset", "https://cocodataset.org/#download"


@dataclass(frozen=True, slots=True)
class File:
    """An annotation file. `path` is relative to the data folder, `url` says where it is published (empty: nowhere).

    images, annotations, categories: how many the published file has; None where that is not known for certain.
    """

    path: str
    url: str = ""
    images: int | None = None
    annotations: int | None = None
    categories: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Two annotation files and the folder of their pictures.

    val_ids   lists of image ids, any one of which can stand in for a missing `val`: it picks from `whole`
    pictures  folder of pictures -> where it is published
    """

    style: Style
    train: File
    val: File
    images: str = "."
    val_ids: tuple[str, ...] = ()
    whole: File | None = None
    page: str = ""
    pictures: Mapping[str, str] = field(default_factory=dict)


_PICTURES = {f"{split}2017": f"{_COCO}/zips/{split}2017.zip" for split in ("train", "val")}
_V1_TRAIN = File("annotations/lvis_v1_train.json", f"{_LVIS}/lvis_v1_train.json.zip", 100_170, 1_270_141, 1203)
_V1_VAL = File("annotations/lvis_v1_val.json", f"{_LVIS}/lvis_v1_val.json.zip", 19_809, 244_707, 1203)
_V1_MINIVAL = File("annotations/lvis_v1_minival_inserted_image_name.json", _MINIVAL, categories=1203)
_V05_TRAIN = File("annotations/lvis_v0.5_train.json", f"{_LVIS}/lvis_v0.5_train.json.zip", categories=1230)
_V05_VAL = File("annotations/lvis_v0.5_val.json", f"{_LVIS}/lvis_v0.5_val.json.zip", 5000, categories=1230)
_COCO_ZIP = f"{_COCO}/annotations/annotations_trainval2017.zip"
_COCO_TRAIN = File("annotations/instances_train2017.json", _COCO_ZIP, 118_287, 860_001, 80)
_COCO_VAL = File("annotations/instances_val2017.json", _COCO_ZIP, 5000, 36_781, 80)

LAYOUTS: dict[str, Layout] = {
    "lvis": Layout("lvis", File("train.json"), File("val.json"), "images"),
    "lvis-v1-val": Layout("lvis", _V1_TRAIN, _V1_VAL, page=LVIS_PAGE, pictures=_PICTURES),
    "lvis-v1-minival": Layout(
        "lvis",
        _V1_TRAIN,
        _V1_MINIVAL,
        val_ids=("annotations/lvis_v1_minival_ids.txt", "annotations/lvis_v1_minival_ids.json"),
        whole=_V1_VAL,
        page=LVIS_PAGE,
        pictures=_PICTURES,
    ),
    "lvis-v0.5-val": Layout("lvis", _V05_TRAIN, _V05_VAL, page=LVIS_PAGE, pictures=_PICTURES),
    "coco-val2017": Layout("coco", _COCO_TRAIN, _COCO_VAL, page=COCO_PAGE, pictures=_PICTURES),
}
"""Split name -> layout. "lvis" is the plain one: any folder in LVIS format."""


def folder(data: Path | None, expected: str) -> Path:
    """Returns the data folder: `data`, or the one in DETMODES_DATA. ConfigError if neither is given; DataError if the
    folder does not exist."""
    root = data or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if root is None:
        raise ConfigError(f"no data; give --data DIR or set {VARIABLE}: {expected}")
    if not root.is_dir():
        raise DataError(f"{as_url(root) or root}: no such folder; expected {expected}")
    return root


def describe(layout: Layout) -> str:
    """Describes the contents of a folder of this layout."""
    if not layout.pictures:
        return (
            f"a folder with {layout.train.path}, {layout.val.path} (LVIS v0.5 or v1 annotations) and {layout.images}/"
        )
    pictures = " and ".join(f"{name}/" for name in layout.pictures)
    return f"a folder with {layout.train.path}, {layout.val.path}, {pictures}"


def read_train(layout: Layout, data: Path) -> Annotations:
    """Reads the training annotations. Raises DataError; for a missing file it says where to get it."""
    return _read(layout, data, layout.train)


def read_val(layout: Layout, data: Path) -> Annotations:
    """Reads the validation annotations: `val`, or those images of `whole` whose ids are in one of `val_ids`.

    Their digest is that of the digest of `whole` and the ids.
    """
    lists = [data / name for name in layout.val_ids if (data / name).exists()]
    if layout.whole is None or not lists or (data / layout.val.path).exists():
        return _read(layout, data, layout.val)
    whole, ids = _read(layout, data, layout.whole), read_ids(lists[0])
    unknown = ids - {example.image_id for example in whole.examples}
    if unknown:
        raise DataError(f"{lists[0]}: expected ids of images of {whole.path.name}, got {min(unknown)}")
    chosen = f"{whole.digest} {sorted(ids)}"
    return replace(whole.subset(ids), digest=hashlib.sha256(chosen.encode()).hexdigest())


def read_ids(path: Path) -> frozenset[int]:
    """Reads image ids from a JSON list, or from a text file with one id per line. DataError, with the place, at
    another value."""
    try:
        text = path.read_text()
        values = json.loads(text) if path.suffix == ".json" else text.split()
    except (OSError, ValueError, RecursionError):
        raise DataError(f"{path}: expected a list of image ids, one per line or as JSON") from None
    if not isinstance(values, list) or not values:
        raise DataError(f"{path}: expected a list of image ids, one per line or as JSON, and at least one")
    return frozenset(_image_id(value, f"{path}: entry {k}") for k, value in enumerate(values))


def _image_id(value: object, where: str) -> int:
    if type(value) is int and value >= 0:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    raise DataError(f"{where}: expected an image id, got {str(value)[:40]!r}")


def _read(layout: Layout, data: Path, file: File) -> Annotations:
    path = data / file.path
    if file.url and not path.exists():
        raise DataError(f"{path}: no such file; {_where_to_get(layout, file)}")
    return load(path, data / layout.images, layout.style)


def _where_to_get(layout: Layout, file: File) -> str:
    target = str(Path(file.path).parent)
    action = "unpack it into" if file.url.endswith(".zip") else "put it into"
    hint = f"download {file.url} and {action} {target}/ (all files: {layout.page})"
    if file is layout.val and layout.val_ids and layout.whole:
        hint += f"; or list image ids of {layout.whole.path} in {layout.val_ids[0]}, one per line"
    return hint


def captions_of(annotations: Path) -> Path:
    """Returns the captions file that belongs to an annotation file: COCO's name for it, else `captions_` before its
    name."""
    name = annotations.name
    return annotations.with_name(
        name.replace("instances", "captions", 1) if "instances" in name else f"captions_{name}"
    )


def read_captions(path: Path, layout: Layout) -> tuple[str, Captions]:
    """Reads captions, see `captions.load`. Raises DataError; for a missing file it says where to get it."""
    if layout.train.url == _COCO_ZIP and not path.exists():
        raise DataError(f"{path}: no such file; download {_COCO_ZIP} and unpack it into {path.parent.name}/")
    return captions.load(path)


def check_pictures(layout: Layout, annotations: Annotations) -> None:
    """Raises DataError naming the first picture that is missing, how many are, and where they are published."""
    try:
        check_images(annotations)
    except DataError as error:
        sources = " and ".join(f"{url} into {name}/" for name, url in layout.pictures.items())
        hint = f"; the pictures are published: unpack {sources}" if sources else ""
        raise DataError(f"{error}{hint}") from None
