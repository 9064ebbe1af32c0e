"""Provides what the benchmarks over files on disk have in common: splits, names, figures, identity.

A subclass says how its files are read (`read_settings`, `load`): benchmarks.annotation_files for LVIS and COCO,
benchmarks.voc and benchmarks.yolo for other formats.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from benchmarks import published
from benchmarks.evaluators import evaluator
from benchmarks.formats.data_folder import DataFolder
from benchmarks.formats.synonyms import add_names, read_names
from benchmarks.readers.annotations import Annotations, check_images, left_out, without
from benchmarks.suspicions import warn_of_suspicions
from harness import settings as checks
from harness.errors import ConfigError, DataError, unknown
from harness.metrics.detection import rules
from harness.metrics.detection.accumulate import Matches
from harness.settings import Setting
from harness.types import Category, Detection, Detections, Evaluation, Example


class SplitSettings(Protocol):
    """What every data set on disk may be told; all are fields of a frozen dataclass.

    train, val: what the splits are read from. train_images, val_images: use that many images (None: all);
    calibration_images: that many images are taken out of train first. All by the order of `hash_order`.
    synonyms: a file with further names of categories (see benchmarks.formats.synonyms).
    """

    @property
    def train(self) -> str: ...
    @property
    def val(self) -> str: ...
    @property
    def train_images(self) -> int | None: ...
    @property
    def val_images(self) -> int | None: ...
    @property
    def calibration_images(self) -> int: ...
    @property
    def synonyms(self) -> str | None: ...


def inside() -> Setting:
    """Describes the name of a file or folder in the data folder: a suite of unknown origin may name no others."""
    return checks.text("a name relative to the data folder", _is_inside)


def _is_inside(name: str) -> bool:
    return name != "" and not Path(name).is_absolute() and ".." not in Path(name).parts


COMMON: Mapping[str, Setting] = {
    "train_images": checks.whole(1),
    "val_images": checks.whole(1),
    "calibration_images": checks.whole(0),
    "synonyms": inside().means("A file with further names of categories."),
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """Both splits as they were read, and digests of what was read beside them."""

    train: Annotations
    val: Annotations
    digests: Mapping[str, str] = field(default_factory=dict)


class OnDisk:
    """The Benchmark protocol over files. A subclass says which, and how they are evaluated."""

    name: str
    protocol: rules.Protocol
    settings: Any
    """Frozen, with the fields of SplitSettings."""
    LATER: tuple[str, ...] = ("synonyms",)
    """Settings that the first records did not have: they are left out of them where they are not used."""
    SETTINGS: ClassVar[Mapping[str, Setting]]
    DEFAULTS: ClassVar[Mapping[str, Any]]

    def __init__(self, settings: Mapping[str, object], data: Path | None = None) -> None:
        self.settings = self.read_settings(settings)
        folder = self.folder(data)
        loaded = self.load(folder)
        for split in (loaded.train, loaded.val):
            if not split.examples:
                raise DataError(f"{split.path}: expected at least one image")
            warn_of_suspicions(split)
        if set(loaded.train.categories) != set(loaded.val.categories):
            expected = f"the categories of {loaded.train.path.name} (ids, names, frequency)"
            raise DataError(f"{loaded.val.path}: expected {expected}")
        self._digests = {"train": loaded.train.digest, "val": loaded.val.digest, **loaded.digests}
        self.categories = self._named(loaded.train.categories, folder)
        train, val = (replace(split, categories=self.categories) for split in (loaded.train, loaded.val))
        self._splits = divide(self.name, self.settings, train, val)

    @classmethod
    def read(cls, settings: Mapping[str, object], data: Path | None = None) -> Loaded:
        """Reads both splits and asks nothing of them, for whoever looks for all that is wrong with a folder."""
        reader = cls.__new__(cls)
        reader.settings = cls.read_settings(settings)
        return reader.load(reader.folder(data))

    @classmethod
    def read_settings(cls, settings: Mapping[str, object]) -> SplitSettings:
        """Reads the settings of a suite file. ConfigError with all mistakes."""
        raise NotImplementedError

    def expected(self) -> str:
        """Describes the data folder, for whoever gave none."""
        raise NotImplementedError

    def folder(self, data: Path | None) -> Path:
        """Returns the data folder. ConfigError where none is given."""
        return published.folder(data, self.expected())

    def load(self, folder: Path) -> Loaded:
        """Reads both splits. DataError, one line, at the first mistake."""
        raise NotImplementedError

    @staticmethod
    def places(settings: Mapping[str, object]) -> list[str]:
        del settings  # files are named within the data folder, which the command line gives
        return []

    @classmethod
    def problems(cls, settings: Mapping[str, object]) -> list[str]:
        try:
            cls.read_settings(settings)
        except ConfigError as error:
            return list(error.problems)
        return []

    def require_pictures(self) -> None:
        """See harness.protocols.NeedsPictures: the first that is missing is named."""
        for split in self._splits.values():
            check_images(split)

    def split(self, name: str) -> tuple[Example, ...]:
        """Returns the examples of "train", "val" or "calibration", in the order of the file."""
        return self.annotations(name).examples

    def evaluate(self, split: str, detections: Sequence[Detection], engine: str = "fast") -> Evaluation:
        """Computes the official figures over the used images of the split, see `evaluator.evaluate`."""
        return evaluator.evaluate(self.annotations(split), Detections.of(detections), self.protocol, engine)

    def match(self, split: str, detections: Sequence[Detection]) -> Matches:
        """Matches detections for figures that are summed later, see `evaluator.match_detections`."""
        return evaluator.match_detections(self.annotations(split), Detections.of(detections), self.protocol)

    def without(self, image_ids: Mapping[str, Collection[int]]) -> Self:
        """See harness.protocols.LeavesOut."""
        rest = copy.copy(self)
        rest._splits = without(self._splits, image_ids)
        return rest

    def describe(self) -> dict[str, object]:
        """Describes the data: settings, digests of all that was read, and the images and instances of each split."""
        counts = {
            name: {"images": len(split.examples), "instances": sum(len(e.instances) for e in split.examples)}
            for name, split in self._splits.items()
        }
        settings = asdict(self.settings)
        for later in self.LATER:
            if not settings[later]:
                del settings[later]
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

    def _named(self, categories: Sequence[Category], folder: Path) -> tuple[Category, ...]:
        """Adds the names of the file that the settings give, in place of those that a subclass would add."""
        if self.settings.synonyms is None:
            return self.named(categories)
        self._digests["synonyms"], table = read_names(DataFolder(folder), self.settings.synonyms)
        return add_names(categories, table, folder / self.settings.synonyms)

    def annotations(self, name: str) -> Annotations:
        """Returns the annotations of a split, crowd regions and areas included."""
        if name not in self._splits:
            raise ConfigError(unknown("split", name, self._splits))
        return self._splits[name]


def hash_order(image_ids: Iterable[int]) -> list[int]:
    """Orders image ids by the SHA-256 of their decimal digits.

    The order is as good as random, and an image keeps its place whatever else is in the file, so a subset of n is
    part of the subset of n + 1.
    """
    return sorted(image_ids, key=lambda image_id: hashlib.sha256(str(image_id).encode()).digest())


def divide(name: str, settings: SplitSettings, train: Annotations, val: Annotations) -> dict[str, Annotations]:
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
