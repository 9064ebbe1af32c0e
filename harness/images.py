"""Reading image files: one way, for every adapter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from harness.errors import DataError


def read_rgb(path: Path) -> Image.Image:
    """An RGB image, decoded completely; orientation tags are applied, transparency is put on white, 16-bit
    grey is scaled to 8 bits."""
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: expected a readable image, got: {error}") from None
    if upright.mode.startswith("I;16"):  # Pillow's own conversion clips at 255: nearly all would be white
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    return upright.convert("RGB")
