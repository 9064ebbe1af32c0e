"""Provides what the benchmarks over annotation files of LVIS and COCO have in common: settings, layouts, captions.

This is what `lvis.LVIS` and `pycocotools.coco.COCO` are to the official APIs: the index of annotation files. Those
classes are used where they are the authority, in the reference engines of `benchmarks.evaluators.evaluator`; files are
read by `benchmarks.readers.annotations`, because the official classes validate nothing and keep every record as a dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import published
from benchmarks.on_disk import COMMON, Loaded, OnDisk, inside
from benchmarks.published import LAYOUTS, File, Layout
from benchmarks.readers.captions import with_captions
from harness import settings as checks
from harness.errors import ConfigError
from harness.settings import Setting

FILES = ("train", "val", "images")


@dataclass(frozen=True, slots=True)
class DataSetSettings:
    """split: a name of LAYOUTS; train, val, images: names relative to the data folder, instead of that layout's.

    train_images, val_images: use that many images (None: all); calibration_images: that many images are taken
    out of the train file first. All by the order of `hash_order`.
    captions: whether to read captions too, of the files beside the annotations that `layout.captions_of` names.
    synonyms: a file with further names of categories, see benchmarks.formats.synonyms.
    """

    split: str
    train: str
    val: str
    images: str
    train_images: int | None = None
    val_images: int | None = None
    calibration_images: int = 0
    captions: bool = False
    synonyms: str | None = None

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
    return {"split": checks.named(splits), **dict.fromkeys(FILES, inside()), **COMMON, "captions": checks.flag()}


class AnnotationFiles(OnDisk):
    """The Benchmark protocol over two annotation files. A subclass says which, and how they are evaluated."""

    splits: tuple[str, ...]
    """Names of LAYOUTS, the default first."""
    settings: DataSetSettings
    LATER = ("synonyms", "captions")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.SETTINGS = _known(cls.splits)
        cls.DEFAULTS = {"split": cls.splits[0], "calibration_images": 0, "captions": False}

    @classmethod
    def read_settings(cls, settings: Mapping[str, object]) -> DataSetSettings:
        return DataSetSettings.read(cls.name, settings, cls.splits)

    def require_pictures(self) -> None:
        """See harness.protocols.NeedsPictures: the first that is missing is named, with where they are published."""
        for split in self._splits.values():
            published.check_pictures(self.settings.layout(), split)

    def expected(self) -> str:
        """Describes the data folder."""
        layout = published.describe(self.settings.layout())
        return f"{layout}; the settings split, train, val and images change that"

    def load(self, folder: Path) -> Loaded:
        """Reads both files, and those of captions."""
        chosen = self.settings.layout()
        splits = {"train": published.read_train(chosen, folder), "val": published.read_val(chosen, folder)}
        digests: dict[str, str] = {}
        if self.settings.captions:
            for name, split in splits.items():
                path = published.captions_of(split.path)
                digests[f"{name}_captions"], captions = published.read_captions(path, chosen)
                splits[name] = with_captions(split, captions, path)
        return Loaded(splits["train"], splits["val"], digests)
