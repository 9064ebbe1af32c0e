"""Pascal VOC, or any data set in its format: one XML file for each image, and lists of the images of each split.

The usual layout is that of the development kit, in the folder VOC2012 or the like: ImageSets/Main/train.txt and val.txt
(names without ending, one a line), Annotations/NAME.xml and JPEGImages/. `train` and `val` may name other lists, or
folders in which pictures and XML files lie side by side. Objects marked `difficult` are not trained on, and a detection
of one is neither right nor wrong. Figures are COCO's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.formats.data_folder import MOST_LIST_BYTES, DataFolder, read_text
from benchmarks.formats.labelled_images import LabelledImage, LabelledSplit, assemble, names_of
from benchmarks.formats.voc_xml import read_voc
from benchmarks.on_disk import COMMON, Loaded, OnDisk, inside
from benchmarks.readers.picture_files import PictureFolder
from harness import settings as checks
from harness.errors import ConfigError, DataError
from harness.metrics.detection.rules import Protocol


@dataclass(frozen=True, slots=True)
class VocSettings:
    """train, val: lists or folders; annotations, images: folders of the lists' XML files and pictures; first_pixel: see
    `read_voc`; the others: see benchmarks.on_disk.SplitSettings. All names are relative to the data folder."""

    train: str = "ImageSets/Main/train.txt"
    val: str = "ImageSets/Main/val.txt"
    annotations: str = "Annotations"
    images: str = "JPEGImages"
    first_pixel: int = 1
    train_images: int | None = None
    val_images: int | None = None
    calibration_images: int = 0
    synonyms: str | None = None


class Voc(OnDisk):
    """The Benchmark protocol over a data set in the format of Pascal VOC."""

    name = "voc"
    protocol: Protocol = "coco"
    settings: VocSettings
    SETTINGS: ClassVar = {
        "train": inside().means("A list of images, or a folder of images and XML files."),
        "val": inside().means("The same, to evaluate on."),
        "annotations": inside().means("Where the XML files of a list lie."),
        "images": inside().means("Where the pictures of a list lie."),
        "first_pixel": checks.whole(0, 1).means("What the pixel in the corner is called: 1 in VOC, 0 by many tools."),
        **COMMON,
    }
    DEFAULTS: ClassVar = asdict(VocSettings())

    @classmethod
    def read_settings(cls, settings: Mapping[str, Any]) -> VocSettings:
        if problems := checks.problems(cls.name, settings, cls.SETTINGS):
            raise ConfigError(*problems)
        return VocSettings(**settings)

    def expected(self) -> str:
        """Describes the data folder."""
        names = f"{self.settings.train}, {self.settings.val}, {self.settings.annotations}/ and {self.settings.images}/"
        return f"a folder with {names}; the settings train, val, annotations and images change that"

    def load(self, folder: Path) -> Loaded:
        """Reads every XML file. Categories are the names that occur, in alphabetical order."""
        data = DataFolder(folder)
        splits = [self._read_split(data, name) for name in (self.settings.train, self.settings.val)]
        train, val = assemble(splits, names_of(splits))
        return Loaded(train, val)

    def _read_split(self, data: DataFolder, name: str) -> LabelledSplit:
        path = data.find(name, str(data.root))
        if path.is_dir():
            files = [data.require_inside(file, str(path)) for file in sorted(path.glob("*.xml"))]
            pictures = PictureFolder(path)
        else:
            listed = read_text(path, "a list of images, or a folder of images and XML files", MOST_LIST_BYTES)
            lines = [(k, line.strip()) for k, line in enumerate(listed.splitlines(), start=1) if line.strip()]
            files = [data.find(f"{self.settings.annotations}/{line}.xml", f"{path}: line {k}") for k, line in lines]
            pictures = PictureFolder(data.find(self.settings.images, str(data.root)))
        if not files:
            raise DataError(f"{path}: expected at least one image")
        return LabelledSplit(path, tuple(self._read_image(file, pictures) for file in files))

    def _read_image(self, file: Path, pictures: PictureFolder) -> LabelledImage:
        voc = read_voc(file, self.settings.first_pixel)
        picture = pictures.find(voc.file_name or f"{file.stem}.jpg", None, f"{file}: filename")
        return LabelledImage(picture, voc.width, voc.height, voc.objects, voc.content)
