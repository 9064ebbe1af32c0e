"""A detection data set of the package `datasets`: a folder in the data folder, or a repository of the Hub.

A row has `image`, and `objects` with a list of boxes (`bbox`) and of categories (`category`: class labels, or texts).
Rows are data: nothing that comes with them is run. Needs the extra `hf`. Figures are COCO's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import published
from benchmarks.formats.hf_rows import read_hf
from benchmarks.formats.labelled_images import assemble
from benchmarks.on_disk import COMMON, Loaded, OnDisk
from harness import settings as checks
from harness.errors import ConfigError
from harness.metrics.detection.rules import Protocol


@dataclass(frozen=True, slots=True)
class HfSettings:
    """dataset: the data folder itself or a folder in it, or with a revision OWNER/NAME on the Hub; config: of the
    several that one may have; train, val: names of its splits; boxes: x, y, w, h or x0, y0, x1, y1 in pixels; the
    others: see benchmarks.on_disk.SplitSettings."""

    dataset: str = "."
    revision: str | None = None
    config: str | None = None
    train: str = "train"
    val: str = "validation"
    boxes: str = "xywh"
    train_images: int | None = None
    val_images: int | None = None
    calibration_images: int = 0
    synonyms: str | None = None


class Hf(OnDisk):
    """The Benchmark protocol over a data set of the package `datasets`."""

    name = "hf"
    protocol: Protocol = "coco"
    settings: HfSettings
    SETTINGS: ClassVar = {
        "dataset": checks.text("a folder in the data folder, or OWNER/NAME", lambda name: _is_plain(name)),
        "revision": checks.text("a commit or tag", lambda name: name != "").means("Takes it from the Hub, at this."),
        "config": checks.text("a name", lambda name: name != "").means("Of the several that one may have."),
        "train": checks.text("the name of a split"),
        "val": checks.text("the name of a split"),
        "boxes": checks.one_of(("xywh", "xyxy")).means("Corner and size (COCO), or two corners (VOC), in pixels."),
        **COMMON,
    }
    DEFAULTS: ClassVar = asdict(HfSettings())

    @classmethod
    def read_settings(cls, settings: Mapping[str, Any]) -> HfSettings:
        problems = checks.problems(cls.name, settings, cls.SETTINGS)
        if "revision" in settings and "dataset" not in settings:
            problems.append(f"{cls.name}.dataset: expected OWNER/NAME, as there is a revision")
        if problems:
            raise ConfigError(*problems)
        return HfSettings(**settings)

    @staticmethod
    def places(settings: Mapping[str, object]) -> list[str]:
        """A repository is a place; a folder lies in the data folder, which the command line gives."""
        return [f"hub:{settings.get('dataset')}@{settings['revision']}"] if settings.get("revision") else []

    def expected(self) -> str:
        """Describes the data folder."""
        return f"a folder with {self.settings.dataset}/; with the setting revision it is taken from the Hub"

    def folder(self, data: Path | None) -> Path:
        """The data folder, which a repository does not need."""
        if self.settings.revision is None or data is not None or self.settings.synonyms is not None:
            return published.folder(data, self.expected())
        return Path()

    def load(self, folder: Path) -> Loaded:
        """Reads both splits; ids of categories are those of the class labels, from 0."""
        names, splits = read_hf(folder, self.settings)
        train, val = assemble(splits, names)
        return Loaded(train, val)


def _is_plain(name: str) -> bool:
    return name != "" and not Path(name).is_absolute() and ".." not in Path(name).parts and ":" not in name
