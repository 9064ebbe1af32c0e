"""Reading image files: one way, for every adapter, and one rule for what is corrupt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from harness.errors import DataError
from harness.types import Example

MOST_PIXELS = 120_000_000
"""Of an image: what takes more is refused before it is decoded. A file of 20 KB may claim gigabytes."""
GREY_LEVELS = 1 << 16
"""Of a grey value of more than 8 bits."""
SAFE_MODES = frozenset({"1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "La", "RGBa", "RGBX"})
"""Pillow's modes of 8 bits a channel, which it converts rightly."""


def read(example: Example) -> Image.Image:
    """Read the picture of an example as `read_rgb` gives it.

    Raises DataError too if its size is not the one that the annotations say: their boxes would lie elsewhere. The size
    is that of the header: what is not what the annotations say is never decoded.
    """
    return _read(example.path, (example.width, example.height))


def problem(example: Example) -> str:
    """Why `read` refuses the picture, in one line; empty if it does not."""
    try:
        read(example)
    except DataError as error:
        return str(error)
    return ""


def read_rgb(path: Path) -> Image.Image:
    """Read an image as RGB, decoded completely; orientation tags are applied, transparency is put on white, and 16-bit
    grey is scaled to 8 bits. Raises DataError for what cannot be read, or not rightly."""
    return _read(path, None)


def _read(path: Path, expected: tuple[int, int] | None) -> Image.Image:
    try:
        with Image.open(path) as image:
            _check_size(image, path, expected)
            image.load()
            upright = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except (MemoryError, DataError):
        raise
    except Exception as error:  # Pillow's decoders let almost any exception out when a file is damaged
        raise DataError(f"{path}: expected a readable image, got: {error}") from None
    if expected is not None and upright.size != expected:
        raise _wrong_size(path, expected, upright)
    if upright.mode not in SAFE_MODES:
        upright = _reduce_grey(upright, path)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    return upright.convert("RGB")


def _check_size(image: Image.Image, path: Path, expected: tuple[int, int] | None) -> None:
    """By the header alone, which may mean the picture on its side: only decoding tells."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise DataError(f"{path}: expected at most {MOST_PIXELS:,} pixels, got {width} x {height}")
    if expected is not None and {width, height} != set(expected):
        raise _wrong_size(path, expected, image)


def _wrong_size(path: Path, expected: tuple[int, int], image: Image.Image) -> DataError:
    return DataError(f"{path}: expected {expected[0]} x {expected[1]} pixels, got {image.width} x {image.height}")


def _reduce_grey(image: Image.Image, path: Path) -> Image.Image:
    """Grey of 16 bits, in any of the ways that Pillow has for it, with 8 bits. Its own conversion clips at 255, so that
    nearly all would be white."""
    values = np.asarray(image)
    whole = values.dtype.kind in "iu" and values.ndim == 2
    if not whole or values.min(initial=0) < 0 or values.max(initial=0) >= GREY_LEVELS:
        raise DataError(f"{path}: expected channels of 8 bits or grey of 16 bits, got values of mode {image.mode}")
    if image.mode == "I" and values.max(initial=0) < 1 << 8:  # 32 bits that hold 8, or a very dark image of 16
        raise DataError(f"{path}: expected grey of 8 or 16 bits, got values up to {values.max(initial=0)} in 32 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))
