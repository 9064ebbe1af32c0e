"""Results with a gallery, of a run that never ran, and the seed means that its figures show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from harness.records import gallery
from harness.report.results import Results
from tests.support import fake_cells

WITHOUT_GALLERY = [
    "frontier",
    "ap-vs-diversity",
    "category-diversity",
    "coverage",
    "temperature",
    "training",
    "dynamics",
]
IMAGES = 30


def add_gallery(run: Path, images: int = IMAGES) -> None:
    """Noisy pictures of the first two images, which fake cells say something about."""
    rng = np.random.default_rng(0)
    examples = [replace(item, path=run / f"{item.image_id}.png") for item in fake_cells.make_examples(images)[:2]]
    for example in examples:
        Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(example.path)
    gallery.write_gallery(run, examples, fake_cells.CATEGORIES)
    for example in examples:
        example.path.unlink()


def seed_means(results: Results, label: str, step: int, name: str, temperature: float | None = None) -> float:
    keys = results.finished("toy", label)
    return float(np.mean([results.points(key, step, temperature)[name] for key in keys]))
