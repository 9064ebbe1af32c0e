"""Provides what the benchmarks over annotation files have in common: settings, splits, figures, identity.

This is what `lvis.LVIS` and `pycocotools.coco.COCO` are to the official APIs: the index of annotation files. Those
classes are used where they are the authority, in the reference engines of `benchmarks.evaluators.evaluator`; files are
read by `benchmarks.readers.annotations`, because the official classes validate nothing and keep every record as a dict.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from benchmarks import published
from benchmarks.evaluators import evaluator
from benchmarks.published import LAYOUTS, File, Layout
from benchmarks.readers.annotations import Annotations, left_out, without
from benchmarks.readers.captions import with_captions
from benchmarks.suspicions import warn_of_suspicions
from harness import settings as checks
from harness.errors import ConfigError, DataError, unknown
from harness.metrics.detection.accumulate import Matches
from harness.metrics.detection.rules import Protocol
from harness.settings import Setting
from harness.types import Category, Detection, Detections, Evaluation, Example

FILES = ("train", "val", "images")


@dataclass(frozen=True, slots=True)
class DataSetSettings:
    """split: a name of LAYOUTS; train, val, images: names relative to the data folder, instead of that layout's.

    train_images, val_images: use that many images (None: all); calibration_images: that many images are taken
    out of the train file first. All by the order of `hash_order`.
    captions: whether to read captions too, of the files beside the annotations that `layout.captions_of` names.
    """

    split: str
    train: str
    val: str
    images: str
    train_images: int | None = None
    val_images: int | None = None
    calibration_images: int = 0
    captions: bool = False

    @classmethod
    def read(cls, name: str, settings: Mapping[str, object], splits: Sequence[str]) -> DataSetSettings:
        """Reads settings of a suite file and reports all mistakes at once. `splits`: those allowed, the default
        first."""
        problems = checks.problems(name, settings, _known(splits))
        if "split" in settings and any(key in settings for key in FILES):
            problems.append(f"{name}: expected either split or names of files (train, val, images), got both")
        if problems:
            raise ConfigError(*problems)
        given: dict[str, Any] = {"split": splits[0], **settings}
        usual = LAYOUTS[given["split"]]
        return cls(**{"train": usual.train.path, "val": usual.val.path, "images": usual.images, **given})

    def layout(self) -> Layout:
        """Returns the layout of that split, with the files that the settings name put in their place."""
        usual = LAYOUTS[self.split]
        train = usual.train if self.train == usual.train.path else File(self.train)
        val = usual.val if self.val == usual.val.path else File(self.val)
        published_ones = (train, val, self.images) == (usual.train, usual.val, usual.images)
        pictures = usual.pictures if published_ones else {}  # with other files, COCO's are not needed
        return replace(usual, train=train, val=val, images=self.images, pictures=pictures)


def _known(splits: Sequence[str]) -> dict[str, Setting]:
    """Returns the settings of a data set on disk; a number of images that is null is left out."""
    inside = checks.text("a name relative to the data folder", _inside)
    return {
        "split": checks.named(splits),
        **dict.fromkeys(FILES, inside),
        "train_images": checks.whole(1),
        "val_images": checks.whole(1),
        "calibration_images": checks.whole(0),
        "captions": checks.flag(),
    }


def _inside(name: str) -> bool:
    """Raises ConfigError for a name that leads out of the data folder: a suite of unknown origin may name no other
    files."""
    return name != "" and not Path(name).is_absolute() and ".." not in Path(name).parts


class OnDisk:
    """The Benchmark protocol over two annotation files. A subclass says which, and how they are evaluated."""

    name: str
    splits: tuple[str, ...]
    """Names of LAYOUTS, the default first."""
    protocol: Protocol
    SETTINGS: ClassVar[Mapping[str, Setting]]
    DEFAULTS: ClassVar[Mapping[str, Any]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.SETTINGS = _known(cls.splits)
        cls.DEFAULTS = {"split": cls.splits[0], "calibration_images": 0, "captions": False}

    def __init__(self, settings: Mapping[str, object], data: Path | None = None) -> None:
        self.settings = DataSetSettings.read(self.name, settings, self.splits)
        chosen = self.settings.layout()
        train, val = self._load(chosen, data)
        self._digests = {"train": train.digest, "val": val.digest}
        if self.settings.captions:
            train, val = (self._captioned(name, split, chosen) for name, split in (("train", train), ("val", val)))
        self._splits = divide(self.name, self.settings, train, val)
        self.categories: tuple[Category, ...] = train.categories

    @staticmethod
    def places(settings: Mapping[str, object]) -> list[str]:
        del settings  # files are named within the data folder, which the command line gives
        return []

    @classmethod
    def problems(cls, settings: Mapping[str, object]) -> list[str]:
        try:
            DataSetSettings.read(cls.name, settings, cls.splits)
        except ConfigError as error:
            return list(error.problems)
        return []

    def require_pictures(self) -> None:
        """See harness.protocols.NeedsPictures: the first that is missing is named, with where they are published."""
        for split in self._splits.values():
            published.check_pictures(self.settings.layout(), split)

    def split(self, name: str) -> tuple[Example, ...]:
        """Returns the examples of "train", "val" or "calibration", in the order of the file."""
        return self._split(name).examples

    def evaluate(self, split: str, detections: Sequence[Detection], engine: str = "fast") -> Evaluation:
        """Computes the official figures over the used images of the split, see `evaluator.evaluate`."""
        return evaluator.evaluate(self._split(split), Detections.of(detections), self.protocol, engine)

    def match(self, split: str, detections: Sequence[Detection]) -> Matches:
        """Matches detections for figures that are summed later, see `evaluator.match_detections`."""
        return evaluator.match_detections(self._split(split), Detections.of(detections), self.protocol)

    def without(self, image_ids: Mapping[str, Collection[int]]) -> Self:
        """See harness.protocols.LeavesOut."""
        rest = copy.copy(self)
        rest._splits = without(self._splits, image_ids)
        return rest

    def describe(self) -> dict[str, object]:
        """Describes the data: DataSetSettings, digests of both annotation files, and the images and instances of each
        split."""
        counts = {
            name: {"images": len(split.examples), "instances": sum(len(e.instances) for e in split.examples)}
            for name, split in self._splits.items()
        }
        settings = asdict(self.settings)
        if not self.settings.captions:  # as in records of older code
            del settings["captions"]
        return {
            "name": self.name,
            **settings,
            "categories": len(self.categories),
            "digests": self._digests,
            "counts": counts,
            **left_out(self._splits),
        }

    def named(self, categories: Sequence[Category]) -> tuple[Category, ...]:
        """Returns the categories with all their names: those of the file, unless a subclass adds more."""
        return tuple(categories)

    def _captioned(self, name: str, split: Annotations, chosen: Layout) -> Annotations:
        """Adds captions to the annotations and stores the digest of their file."""
        path = published.captions_of(split.path)
        self._digests[f"{name}_captions"], captions = published.read_captions(path, chosen)
        return with_captions(split, captions, path)

    def _split(self, name: str) -> Annotations:
        if name not in self._splits:
            raise ConfigError(unknown("split", name, self._splits))
        return self._splits[name]

    def _load(self, chosen: Layout, data: Path | None) -> tuple[Annotations, Annotations]:
        folder = published.folder(
            data, f"{published.describe(chosen)}; the settings split, train, val and images change that"
        )
        train, val = published.read_train(chosen, folder), published.read_val(chosen, folder)
        for loaded in (train, val):
            if not loaded.examples:
                raise DataError(f"{loaded.path}: expected at least one image")
            warn_of_suspicions(loaded)
        if set(train.categories) != set(val.categories):
            raise DataError(f"{val.path}: expected the categories of {train.path.name} (ids, names, frequency)")
        categories = self.named(train.categories)
        return replace(train, categories=categories), replace(val, categories=categories)


def hash_order(image_ids: Iterable[int]) -> list[int]:
    """Orders image ids by the SHA-256 of their decimal digits.

    The order is as good as random, and an image keeps its place whatever else is in the file, so a subset of n is
    part of the subset of n + 1.
    """
    return sorted(image_ids, key=lambda image_id: hashlib.sha256(str(image_id).encode()).digest())


def divide(name: str, settings: DataSetSettings, train: Annotations, val: Annotations) -> dict[str, Annotations]:
    """Makes the splits "train", "val" and "calibration" of the settings. ConfigError where there are too few images."""
    train_ids = hash_order(example.image_id for example in train.examples)
    val_ids = hash_order(example.image_id for example in val.examples)
    held_out, rest = train_ids[: settings.calibration_images], train_ids[settings.calibration_images :]
    if not rest:
        expected = f"fewer than the {len(train_ids)} images of {settings.train}"
        raise ConfigError(f"{name}.calibration_images: expected {expected}, got {settings.calibration_images}")
    problems = [
        f"{name}.{which}_images: expected at most the {len(ids)} images available, got {wanted}"
        for which, ids, wanted in (
            ("train", rest, settings.train_images),
            ("val", val_ids, settings.val_images),
        )
        if wanted is not None and wanted > len(ids)
    ]
    if problems:
        raise ConfigError(*problems)
    return {
        "train": train.subset(rest[: settings.train_images]),
        "val": val.subset(val_ids[: settings.val_images]),
        "calibration": train.subset(held_out),
    }
