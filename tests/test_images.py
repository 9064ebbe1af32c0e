"""Whatever kind of image file it is, it comes out as upright RGB or as one clear error."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from harness.errors import DataError
from harness.images import problem, read, read_rgb
from harness.types import Example

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


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_file_with_wrong_bytes_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    """Never another exception."""
    whole, random = io.BytesIO(), np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    extra = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}
    Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(whole, kind, **extra)
    refused = 0
    for _ in range(200):
        content = bytearray(whole.getvalue())
        for place in random.integers(0, min(len(content), 200), 3):
            content[place] = random.integers(0, 256)
        (tmp_path / "a").write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read_rgb(tmp_path / "a")
            except DataError:
                refused += 1
    assert refused > 0


def test_a_decoder_may_raise_anything_but_lack_of_memory_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(error: Exception) -> Callable[[Image.Image], Image.Image]:
        def transpose(_: Image.Image) -> Image.Image:
            raise error

        return transpose

    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    monkeypatch.setattr(ImageOps, "exif_transpose", failing(TypeError("'tuple' is no integer")))
    assert error_of(tmp_path / "a.png").endswith("expected a readable image, got: 'tuple' is no integer")
    monkeypatch.setattr(ImageOps, "exif_transpose", failing(MemoryError()))
    with pytest.raises(MemoryError):
        read_rgb(tmp_path / "a.png")


# ---- the picture of an example --------------------------------------------------------------------------------------


def test_a_picture_has_the_size_that_is_annotated(tmp_path: Path) -> None:
    """As it stands upright: an orientation that swaps the sides swaps the sizes too."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    upright, stored = (Example(1, tmp_path / "a.jpg", *size, ()) for size in ((20, 40), (40, 20)))
    assert read(upright).size == (20, 40)
    assert problem(upright) == ""
    assert problem(stored) == f"{tmp_path}/a.jpg: expected 40 x 20 pixels, got 20 x 40"
    with pytest.raises(DataError, match="expected 40 x 20 pixels, got 20 x 40"):
        read(stored)
    assert problem(Example(1, tmp_path / "gone.jpg", 1, 1, ())) == f"{tmp_path}/gone.jpg: no such image"


@pytest.mark.parametrize("values", [np.full((4, 5), 0.5, np.float32), np.full((4, 5), 70_000, np.int32)])
def test_values_without_a_known_range_are_refused(tmp_path: Path, values: Any) -> None:
    """Pillow makes them white, without a word."""
    path = tmp_path / "values.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(DataError, match=r"expected channels of 8 bits or grey of 16 bits, got values of mode [IF]"):
        read_rgb(path)


def test_eight_bits_in_thirty_two_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "values.tif"
    Image.fromarray(np.full((4, 5), 255, np.int32)).save(path)
    with pytest.raises(DataError, match="got values up to 255 in 32 bits"):
        read_rgb(path)


def test_grey_of_sixteen_bits_in_thirty_two_is_scaled(tmp_path: Path) -> None:
    path = tmp_path / "values.tif"
    Image.fromarray(np.array([[0, 65535], [32768, 256]], np.int32)).save(path)
    assert np.asarray(read_rgb(path))[..., 0].tolist() == [[0, 255], [128, 1]]


def test_a_picture_is_measured_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of some kilobytes may claim to be of any size."""
    path = tmp_path / "large.png"
    Image.new("1", (3000, 2000)).save(path)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda self: pytest.fail("it is decoded"))
    with pytest.raises(DataError, match="expected 64 x 48 pixels, got 3000 x 2000"):
        read(Example(1, path, 64, 48, ()))
    monkeypatch.setattr("harness.images.MOST_PIXELS", 5_999_999)
    with pytest.raises(DataError, match="expected at most 5,999,999 pixels, got 3000 x 2000"):
        read_rgb(path)
