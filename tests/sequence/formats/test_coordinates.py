"""Coordinates of the formats: patches, pixels, and no location tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.kosmos2 import processing_kosmos2

from harness.errors import ConfigError
from harness.sequence import (
    Codec,
    PatchSpace,
    PixelSpace,
    TokenizerTokens,
)
from harness.types import Box
from tests.sequence.formats.families import CATEGORIES, NAMES, resized
from tests.support import small_tokenizers


@given(st.lists(st.integers(0, 1024), min_size=4, max_size=4, unique=True), st.integers(1, 40))
def test_patches_are_those_of_kosmos(four: list[float], side: int) -> None:
    """And what they are read as."""
    (x0, x1), (y0, y1) = (sorted(value / 1024 for value in pair) for pair in (four[:2], four[2:]))
    box, space = Box(x0, y0, x1 - x0, y1 - y0), PatchSpace(side)
    upper, lower = processing_kosmos2.coordinate_to_patch_index(box.corners, side)
    assert space.quantise(box, 1, 1) == (upper, lower)
    restored = space.restore((upper, lower), 1, 1)
    assert restored is not None
    assert restored.corners == pytest.approx(processing_kosmos2.patch_index_to_coordinate(upper, lower, side))


def test_patches_by_hand() -> None:
    # 4 x 4 patches of 10 pixels. 12 lies in column 1; the far edge 30 on a boundary belongs to column 2. Rows: 5 is in
    # row 0, 8 as well: one row, so that rows and columns are read as a whole, columns 1 and 2 as 10 to 30. Where
    # neither is shared, they are read from middle to middle.
    space = PatchSpace(4)
    assert space.quantise(Box(12, 5, 18, 3), 40, 40) == (1, 2)
    assert space.restore((1, 2), 40, 40) == Box(10, 0, 20, 10)
    assert space.restore((1, 6), 40, 40) == Box(15, 5, 10, 10)
    assert space.restore((5, 5), 40, 40) == Box(10, 10, 10, 10)
    assert space.restore((2, 1), 40, 40) is None
    assert space.restore((4, 1), 40, 40) is None
    assert space.quantise(Box(-5, -5, 100, 100), 40, 40) == (0, 15)


def test_pixels_by_hand() -> None:
    # 640 x 480 is seen as 320 x 120: 2 pixels of the image across and 4 down for each that is seen.
    space = PixelSpace(lambda width, height: (width // 2, height // 4))
    assert space.quantise(Box(11, 9, 100, 200), 640, 480) == (6, 2, 56, 52)  # 5.5 -> 6, 2.25, 55.5 -> 56, 52.25
    assert space.restore((6, 2, 56, 52), 640, 480) == Box(12, 8, 100, 200)
    assert space.restore((6, 2, 900, 52), 640, 480) == Box(12, 8, 628, 200)
    assert space.restore((6, 2, 6, 52), 640, 480) is None


def test_pixels_are_no_location_tokens() -> None:
    tokens = TokenizerTokens(small_tokenizers.word_level(NAMES), ["<loc0>"], before="")
    with pytest.raises(ConfigError, match="location tokens need a space with a fixed number of bins"):
        Codec(CATEGORIES, tokens, PixelSpace(resized))
    with pytest.raises(ConfigError, match="patches on a side: expected at least 1, got 0"):
        PatchSpace(0)
