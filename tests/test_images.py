"""Whatever kind of image file it is, it comes out as upright RGB or as one clear error."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.errors import DataError
from harness.images import read_rgb

RED, GREEN, WHITE = (255, 0, 0), (0, 128, 0), (255, 255, 255)


def colours(path: Path) -> list[tuple[int, ...]]:
    """Pixels by rows, of what is read."""
    image = read_rgb(path)
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (np.asarray(read_rgb(tmp_path / "a.png")) == pixels).all()


def test_grey_and_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 77, 255]], dtype=np.uint8)).save(tmp_path / "grey.png")
    assert colours(tmp_path / "grey.png") == [(0,) * 3, (77,) * 3, (255,) * 3]
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "bits.png")
    assert colours(tmp_path / "bits.png") == [(0,) * 3, (255,) * 3]


def test_cmyk(tmp_path: Path) -> None:
    # Magenta and yellow in full are red; black ink in full is black.
    image = Image.new("CMYK", (2, 1), (0, 255, 255, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.save(tmp_path / "a.tiff")
    assert colours(tmp_path / "a.tiff") == [RED, (0, 0, 0)]


def test_palette(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    assert colours(tmp_path / "a.png") == [RED, GREEN]


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.gif", transparency=1)
    assert colours(tmp_path / "a.gif") == [RED, WHITE]


def test_transparency_is_put_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1), (*GREEN, 255))
    image.putpixel((1, 0), (*GREEN, 0))
    image.putpixel((2, 0), (0, 0, 0, 51))  # a fifth of black on white: 255 * 0.8
    image.save(tmp_path / "a.png")
    assert colours(tmp_path / "a.png") == [GREEN, WHITE, (204, 204, 204)]
    Image.new("LA", (1, 1), (0, 0)).save(tmp_path / "b.png")
    assert colours(tmp_path / "b.png") == [WHITE]


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], dtype=np.uint16)).save(tmp_path / name)
    assert colours(tmp_path / name) == [(0,) * 3, (128,) * 3, (255,) * 3]


# The upright image is  red green / white white;  how it is stored under each EXIF orientation, by rows.
STORED = {
    1: ((2, 2), [RED, GREEN, WHITE, WHITE]),
    2: ((2, 2), [GREEN, RED, WHITE, WHITE]),  # mirrored left to right
    3: ((2, 2), [WHITE, WHITE, GREEN, RED]),  # turned by 180 degrees
    6: ((2, 2), [GREEN, WHITE, RED, WHITE]),  # to be turned clockwise by 90 degrees
    8: ((2, 2), [WHITE, RED, WHITE, GREEN]),  # to be turned anticlockwise by 90 degrees
}


@pytest.mark.parametrize("orientation", STORED)
def test_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    size, pixels = STORED[orientation]
    image = Image.fromarray(np.array(pixels, dtype=np.uint8).reshape(*size, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    assert colours(tmp_path / "a.png") == [RED, GREEN, WHITE, WHITE]


def test_orientation_swaps_the_sides(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert read_rgb(tmp_path / "a.jpg").size == (20, 40)


# ---- errors --------------------------------------------------------------------------------------------------


def error_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_rgb(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert error_of(tmp_path / "gone.png").endswith("gone.png: no such image")


def write_text(path: Path) -> None:
    path.write_text("GIF stands for Graphics Interchange Format")


def write_half_a_jpeg(path: Path) -> None:
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, "JPEG")
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])


@pytest.mark.parametrize("make", [write_text, write_half_a_jpeg, Path.touch, Path.mkdir])
def test_what_cannot_be_read_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.jpg")
    assert "expected a readable image, got: " in error_of(tmp_path / "a.jpg")


def test_an_image_too_large_to_decode_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # Pillow refuses more than twice this
    assert "exceeds limit" in error_of(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_file_cut_anywhere_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    """Never another exception. Cut in its first half it is always refused."""
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(whole, kind)
    content, refused = whole.getvalue(), []
    for length in range(len(content)):
        (tmp_path / "a").write_bytes(content[:length])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of a TIFF's broken directory, then raises
            try:
                read_rgb(tmp_path / "a")
            except DataError:
                refused.append(length)
    assert refused[: len(content) // 2] == list(range(len(content) // 2))
