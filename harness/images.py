"""Reads image files in one way for every adapter, with one rule for corrupt files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

from harness.errors import DataError
from harness.types import Example

READER = f"Pillow {PIL.__version__}"
"""What decides besides this module whether a picture can be read."""
MOST_PIXELS = 120_000_000
"""Largest number of pixels of an image: larger ones are refused before decoding, as a file of 20 KB may claim
gigabytes."""
GREY_LEVELS = 1 << 16
"""Number of grey levels of an image with more than 8 bits."""
SAFE_MODES = frozenset({"1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "La", "RGBa", "RGBX"})
"""Modes of 8 bits a channel, which Pillow converts correctly."""

ORIENTATION = 0x0112
"""The EXIF tag, and the values with which a picture is shown turned by a quarter."""
TURNED = (5, 6, 7, 8)


def read(example: Example) -> Image.Image:
    """Reads the picture of an example with `read_rgb`.

    Also raises DataError if its size differs from that in the annotations, as their boxes would then be wrong. The
    size in the header is checked before the picture is decoded.
    """
    return _read(example.path, (example.width, example.height))


def problem(example: Example) -> str:
    """Returns in one line why `read` refuses the picture; empty if it does not."""
    try:
        read(example)
    except DataError as error:
        return str(error)
    return ""


def read_rgb(path: Path) -> Image.Image:
    """Reads an image as RGB, decoded completely; orientation tags are applied, transparency is put on white, and
    16-bit grey is scaled to 8 bits. Raises DataError for a file that cannot be read correctly."""
    return _read(path, None)


def read_size(path: Path) -> tuple[int, int]:
    """Reads width and height of an image, orientation tags applied, without decoding it. DataError for a file that is
    no image, or one of more than MOST_PIXELS."""
    try:
        with Image.open(path) as image:
            _check_size(image, path, None)
            turned = image.getexif().get(ORIENTATION, 1) in TURNED
            return (image.height, image.width) if turned else image.size
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except (MemoryError, DataError):
        raise
    except Exception as error:  # as below
        raise DataError(f"{path}: expected a readable image, got: {error}") from None


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
    """Checks the size in the header, which may be that of the rotated picture: only decoding tells."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise DataError(f"{path}: expected at most {MOST_PIXELS:,} pixels, got {width} x {height}")
    if expected is not None and {width, height} != set(expected):
        raise _wrong_size(path, expected, image)


def _wrong_size(path: Path, expected: tuple[int, int], image: Image.Image) -> DataError:
    return DataError(f"{path}: expected {expected[0]} x {expected[1]} pixels, got {image.width} x {image.height}")


def _reduce_grey(image: Image.Image, path: Path) -> Image.Image:
    """Reduces 16-bit grey, in any of Pillow's modes for it, to 8 bits. Pillow's conversion clips at 255, so that
    nearly everything would be white."""
    values = np.asarray(image)
    whole = values.dtype.kind in "iu" and values.ndim == 2
    if not whole or values.min(initial=0) < 0 or values.max(initial=0) >= GREY_LEVELS:
        raise DataError(f"{path}: expected channels of 8 bits or grey of 16 bits, got values of mode {image.mode}")
    if image.mode == "I" and values.max(initial=0) < 1 << 8:  # 32 bits that hold 8, or a very dark image of 16
        raise DataError(f"{path}: expected grey of 8 or 16 bits, got values up to {values.max(initial=0)} in 32 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))
