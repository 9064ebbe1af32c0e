"""Provides the embedded benchmark: a deterministic, long-tailed, LVIS-format detection set that needs no download.

Categories are kind x colour, each with 2 to 4 equally valid names. Images are rendered with PIL into a cache
folder and then read by the same loader as real LVIS, so nothing downstream knows that they are synthetic.

Two domains: `plain` (the shipped base is pretrained on it) and `cluttered` (coarse colour texture, lighting,
pixel noise, other sizes, partial occlusion), where that base is clearly worse.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from PIL import Image

from benchmarks.evaluators import evaluator
from benchmarks.readers.annotations import Annotations, left_out, load, without
from benchmarks.shapes_pictures import (
    FORMAT,
    SETTINGS,
    SPLITS,
    Placed,
    ShapesSettings,
    frequency_of,
    image_rng,
    looks,
    render,
)
from harness.errors import ConfigError
from harness.metrics.detection.accumulate import Matches
from harness.metrics.detection.rules import Protocol
from harness.system.files import cache_root, give_usual_permissions
from harness.types import Category, Detection, Detections, Evaluation, Example


class Shapes:
    """The Benchmark protocol over a rendered set."""

    name = "shapes"
    SETTINGS = SETTINGS
    DEFAULTS: ClassVar[dict[str, Any]] = asdict(ShapesSettings())
    protocol: Protocol = "lvis"
    renders_pictures = True
    """The pictures follow from the settings and the digests of annotations."""

    def __init__(self, settings: Mapping[str, object], data: Path | None = None) -> None:
        del data  # nothing to find: the set is rendered
        self.settings = ShapesSettings.read(settings)
        self.folder = render_set(self.settings)
        self._splits = {name: load(self.folder / f"{name}.json", self.folder / name) for name in SPLITS}
        self.categories: tuple[Category, ...] = self._splits["train"].categories

    @staticmethod
    def places(settings: Mapping[str, object]) -> list[str]:
        del settings  # it renders its pictures
        return []

    @staticmethod
    def problems(settings: Mapping[str, object]) -> list[str]:
        try:
            ShapesSettings.read(settings)
        except ConfigError as error:
            return list(error.problems)
        return []

    def split(self, name: str) -> tuple[Example, ...]:
        return self._splits[name].examples

    def annotations(self, name: str) -> Annotations:
        """Returns the annotations of a split."""
        return self._splits[name]

    def evaluate(self, split: str, detections: Sequence[Detection], engine: str = "fast") -> Evaluation:
        return evaluator.evaluate(self._splits[split], Detections.of(detections), engine=engine)

    def match(self, split: str, detections: Sequence[Detection]) -> Matches:
        return evaluator.match_detections(self._splits[split], Detections.of(detections))

    def without(self, image_ids: Mapping[str, Collection[int]]) -> Self:
        """See harness.protocols.LeavesOut."""
        rest = copy.copy(self)
        rest._splits = without(self._splits, image_ids)
        return rest

    def describe(self) -> dict[str, object]:
        digests = {name: split.digest for name, split in self._splits.items()}
        description = {"name": self.name, **asdict(self.settings), "format": FORMAT, "digests": digests}
        description |= left_out(self._splits)
        return description | {"pictures_may_be_published": True}  # they are rendered, so nobody else owns them


def render_set(settings: ShapesSettings, root: Path | None = None) -> Path:
    """Returns the folder with `<split>.json` and `<split>/*.png`, rendered unless it exists with the right digest.

    Written beside its place and renamed, so that two processes can render at once: the last rename that
    finds the place taken is discarded.
    """
    root = cache_root() if root is None else root
    key = hashlib.sha256(json.dumps([FORMAT, asdict(settings)], sort_keys=True).encode()).hexdigest()[:16]
    folder = root / f"shapes-{key}"
    if _intact(folder):
        return folder
    root.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=root))
    give_usual_permissions(fresh)
    try:
        _write_set(settings, fresh)
        _install(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _install(fresh: Path, folder: Path) -> None:
    """Moves the new folder into its place; an intact folder that another process put there first stays."""
    for _ in range(10):
        try:
            fresh.rename(folder)
            return
        except OSError:
            if _intact(folder):
                return
            shutil.rmtree(folder, ignore_errors=True)
    raise ConfigError(f"{folder}: cannot be replaced; remove this folder and try again")


def _write_set(settings: ShapesSettings, folder: Path) -> None:
    rendered: dict[str, list[list[Placed]]] = {}
    for split in SPLITS:
        (folder / split).mkdir()
        rendered[split] = []
        for index in range(getattr(settings, f"{split}_images")):
            pixels, objects = render(settings, image_rng(settings, split, index))
            Image.fromarray(pixels).save(folder / split / f"{index + 1:06d}.png")
            rendered[split].append(objects)
    categories = _category_records(settings, rendered["train"])
    for split in SPLITS:
        content = _annotation_file(settings, split, rendered[split], categories)
        (folder / f"{split}.json").write_text(json.dumps(content, sort_keys=True))
    (folder / "digest").write_text(_digest(folder))


def _digest(folder: Path) -> str:
    """Computes the sha256 over names and bytes of every annotation file and image."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.png")]):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _intact(folder: Path) -> bool:
    recorded = folder / "digest"
    return recorded.is_file() and recorded.read_bytes() == _digest(folder).encode()


def _category_records(settings: ShapesSettings, train: Sequence[Sequence[Placed]]) -> list[dict[str, Any]]:
    """Makes LVIS category records; counts and frequency come from the training images, in every split's file."""
    images = [sum(any(rank == k for rank, _ in objects) for objects in train) for k in range(settings.categories)]
    instances = [sum(rank == k for objects in train for rank, _ in objects) for k in range(settings.categories)]
    return [
        {
            "id": rank + 1,
            "name": look.names[0],
            "synonyms": list(look.names),
            "synset": f"{look.colour}_{look.kind}.n.01",
            "def": f"a {look.colour} {look.kind}",
            "frequency": frequency_of(images[rank] / len(train)),
            "image_count": images[rank],
            "instance_count": instances[rank],
        }
        for rank, look in enumerate(looks(settings.categories))
    ]


def _annotation_file(
    settings: ShapesSettings, split: str, rendered: Sequence[Sequence[Placed]], categories: list[dict[str, Any]]
) -> dict[str, Any]:
    """Makes LVIS v1 JSON. Everything is annotated, so each absent category is a verified negative."""
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for image_id, objects in enumerate(rendered, start=1):
        present = {rank + 1 for rank, _ in objects}
        images.append(
            {
                "id": image_id,
                "file_name": f"{image_id:06d}.png",
                "width": settings.size,
                "height": settings.size,
                "neg_category_ids": [c["id"] for c in categories if c["id"] not in present],
                "not_exhaustive_category_ids": [],
            }
        )
        for rank, (x, y, w, h) in objects:
            corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            record = {"id": len(boxes) + 1, "image_id": image_id, "category_id": rank + 1}
            boxes.append({**record, "bbox": [x, y, w, h], "area": w * h, "segmentation": corners})
    info = {"description": f"detmodes shapes, {settings.domain}, {split}", "version": str(FORMAT)}
    return {"info": info, "licenses": [], "images": images, "annotations": boxes, "categories": categories}
