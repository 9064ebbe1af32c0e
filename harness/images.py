"""Reading image files: one way, for every adapter, and one rule for what is corrupt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from harness.errors import DataError
from harness.types import Example


def read(example: Example) -> Image.Image:
    """The picture of an example, as `read_rgb` gives it. DataError too if its size is not the one that the annotations
    say: their boxes would lie elsewhere."""
    image = read_rgb(example.path)
    if image.size != (example.width, example.height):
        expected = f"{example.width} x {example.height} pixels"
        raise DataError(f"{example.path}: expected {expected}, got {image.width} x {image.height}")
    return image


def problem(example: Example) -> str:
    """Why `read` refuses the picture, in one line; empty if it does not."""
    try:
        read(example)
    except DataError as error:
        return str(error)
    return ""


def read_rgb(path: Path) -> Image.Image:
    """An RGB image, decoded completely; orientation tags are applied, transparency is put on white, 16-bit
    grey is scaled to 8 bits."""
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders let almost any exception out when a file is damaged
        raise DataError(f"{path}: expected a readable image, got: {error}") from None
    if upright.mode.startswith("I;16"):  # Pillow's own conversion clips at 255: nearly all would be white
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    return upright.convert("RGB")
