"""LVIS, or any data set in its format: two annotation files and a folder of images.

This is what `lvis.LVIS` is to the official API: the index of an annotation file. That class itself is used
where it is the authority, in the reference engine of `benchmarks.evaluator`; files are read by
`benchmarks.annotations`, because the official class validates nothing and keeps every record as a dict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks import evaluator
from benchmarks.annotations import Annotations, check_images, load
from harness.errors import ConfigError, DataError, unknown
from harness.types import Category, Detection, Evaluation, Example

LAYOUT = (
    "a folder with train.json, val.json (LVIS v0.5 or v1 annotations) and images/; "
    "the settings train, val and images give them other names"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """train, val, images: names relative to the data folder.

    train_images, val_images: use that many images (None: all); calibration_images: that many images are taken
    out of the train file first. All by the order of `hash_order`.
    """

    train: str = "train.json"
    val: str = "val.json"
    images: str = "images"
    train_images: int | None = None
    val_images: int | None = None
    calibration_images: int = 0

    @classmethod
    def read(cls, settings: Mapping[str, object]) -> Settings:
        """Settings of a suite file, every mistake reported at once."""
        known = [field.name for field in fields(cls)]
        problems = [f"lvis: {unknown('setting', key, known)}" for key in settings if key not in known]
        problems += [_problem(key, value) for key, value in settings.items() if key in known]
        if any(problems):
            raise ConfigError(*filter(None, problems))
        return cls(**settings)  # type: ignore[arg-type]  # just checked


def _problem(key: str, value: object) -> str:
    """What is wrong with the value of a known setting; empty if nothing."""
    if key in ("train", "val", "images"):
        good, expected = isinstance(value, str) and value != "", "a name relative to the data folder"
    else:
        low = 0 if key == "calibration_images" else 1
        good, expected = type(value) is int and value >= low, f"an integer of at least {low}"
    return "" if good else f"lvis.{key}: expected {expected}, got {value!r}"


class Lvis:
    """The Benchmark protocol over an LVIS-format data set."""

    name = "lvis"

    def __init__(self, settings: Mapping[str, object], data: Path | None = None) -> None:
        self.settings = Settings.read(settings)
        train, val = _load(self.settings, data)
        self._digests = {"train": train.digest, "val": val.digest}
        self._splits = _split(self.settings, train, val)
        for split in self._splits.values():
            check_images(split)
        self.categories: tuple[Category, ...] = train.categories

    @staticmethod
    def problems(settings: Mapping[str, object]) -> list[str]:
        try:
            Settings.read(settings)
        except ConfigError as error:
            return list(error.problems)
        return []

    def split(self, name: str) -> tuple[Example, ...]:
        """Examples of "train", "val" or "calibration", in the order of the file."""
        return self._split(name).examples

    def evaluate(self, split: str, detections: Sequence[Detection], engine: str = "fast") -> Evaluation:
        """The official figures over the images of the split that are used, see `evaluator.evaluate`."""
        return evaluator.evaluate(self._split(split), detections, engine)

    def describe(self) -> dict[str, object]:
        """Settings, digests of both annotation files, and how many images and instances each split has."""
        counts = {
            name: {"images": len(split.examples), "instances": sum(len(e.instances) for e in split.examples)}
            for name, split in self._splits.items()
        }
        return {
            "name": self.name,
            **asdict(self.settings),
            "categories": len(self.categories),
            "digests": self._digests,
            "counts": counts,
        }

    def _split(self, name: str) -> Annotations:
        if name not in self._splits:
            raise ConfigError(unknown("split", name, self._splits))
        return self._splits[name]


def hash_order(image_ids: Iterable[int]) -> list[int]:
    """Image ids in the order of the SHA-256 of their decimal digits.

    As good as random, and an image keeps its place whatever else is in the file: a subset of n is part of
    the subset of n + 1.
    """
    return sorted(image_ids, key=lambda image_id: hashlib.sha256(str(image_id).encode()).digest())


def _load(settings: Settings, data: Path | None) -> tuple[Annotations, Annotations]:
    if data is None:
        raise ConfigError(f"benchmark lvis: no data; give --data DIR, {LAYOUT}")
    if not data.is_dir():
        raise DataError(f"{data}: no such folder; expected {LAYOUT}")
    train, val = (load(data / name, data / settings.images) for name in (settings.train, settings.val))
    for loaded in (train, val):
        if not loaded.examples:
            raise DataError(f"{loaded.path}: expected at least one image")
    if set(train.categories) != set(val.categories):
        raise DataError(f"{val.path}: expected the categories of {train.path.name} (ids, names, frequency)")
    return train, val


def _split(settings: Settings, train: Annotations, val: Annotations) -> dict[str, Annotations]:
    train_ids = hash_order(example.image_id for example in train.examples)
    val_ids = hash_order(example.image_id for example in val.examples)
    held_out, rest = train_ids[: settings.calibration_images], train_ids[settings.calibration_images :]
    if not rest:
        expected = f"fewer than the {len(train_ids)} images of {settings.train}"
        raise ConfigError(f"lvis.calibration_images: expected {expected}, got {settings.calibration_images}")
    problems = [
        f"lvis.{name}_images: expected at most the {len(ids)} images available, got {wanted}"
        for name, ids, wanted in (
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
