"""A data set in the format of YOLO: data.yaml with the names of classes and the places of the splits, and one text file
of labels for each image. Figures are COCO's. Sizes are read from the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.formats.labelled_images import assemble
from benchmarks.formats.yolo_txt import read_yolo
from benchmarks.on_disk import COMMON, Loaded, OnDisk, inside
from harness import settings as checks
from harness.errors import ConfigError
from harness.metrics.detection.rules import Protocol


@dataclass(frozen=True, slots=True)
class YoloSettings:
    """file: the YAML file, in the data folder; the others: see benchmarks.on_disk.SplitSettings."""

    file: str = "data.yaml"
    train_images: int | None = None
    val_images: int | None = None
    calibration_images: int = 0
    synonyms: str | None = None

    @property
    def train(self) -> str:
        return f"{self.file}: train"

    @property
    def val(self) -> str:
        return f"{self.file}: val"


class Yolo(OnDisk):
    """The Benchmark protocol over a data set in the format of YOLO."""

    name = "yolo"
    protocol: Protocol = "coco"
    settings: YoloSettings
    SETTINGS: ClassVar = {"file": inside().means("The YAML file with names and splits."), **COMMON}
    DEFAULTS: ClassVar = asdict(YoloSettings())

    @classmethod
    def read_settings(cls, settings: Mapping[str, Any]) -> YoloSettings:
        if problems := checks.problems(cls.name, settings, cls.SETTINGS):
            raise ConfigError(*problems)
        return YoloSettings(**settings)

    def expected(self) -> str:
        """Describes the data folder."""
        return f"a folder with {self.settings.file}, images and labels; the setting file changes that"

    def load(self, folder: Path) -> Loaded:
        """Reads both splits. Ids of categories are the classes of the file."""
        names, splits = read_yolo(folder, self.settings.file)
        train, val = assemble(splits, names)
        return Loaded(train, val)
