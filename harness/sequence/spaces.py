"""Defines coordinate spaces, which convert boxes in pixels to the whole numbers of a model family, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from harness.errors import ConfigError
from harness.types import Box


class Space(Protocol):
    """The way in which a model family writes a box."""

    @property
    def bins(self) -> int | None:
        """Returns the number of different coordinates; None where that depends on the image."""
        ...

    @property
    def count(self) -> int:
        """Returns how many numbers one box takes."""
        ...

    def quantise(self, box: Box, width: int, height: int) -> tuple[int, ...]:
        """Returns `count` numbers, none negative. Coordinates outside the image are clipped to its edges."""
        ...

    def restore(self, numbers: Sequence[int], width: int, height: int) -> Box | None:
        """Returns the box of `count` numbers; None where it has no area (its edges meet or are inverted)."""
        ...

    def steps(self, width: int, height: int) -> tuple[float, float]:
        """Returns the pixels from one coordinate to the next, across and down: a box is restored to within half of
        them."""
        ...


@runtime_checkable
class LocationSpace(Space, Protocol):
    """A space of a fixed number of locations, each of which can have a token."""

    @property
    def bins(self) -> int: ...

    def following(self, numbers: Sequence[int]) -> Sequence[int]:
        """Returns what may follow fewer than `count` numbers, if the box is to have area."""
        ...


@dataclass(frozen=True, slots=True)
class CoordinateSpace:
    """Quantised, normalised coordinates: bin = round(coordinate / image side * (bins - 1)), bins - 1 being
    the far edge. With bins = side + 1 there is one bin per pixel edge and integer boxes survive exactly."""

    bins: int
    order: Literal["yxyx", "xyxy"] = "yxyx"

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ConfigError(f"bins: expected at least 2, got {self.bins}")

    @property
    def count(self) -> int:
        return 4

    def quantise(self, box: Box, width: int, height: int) -> tuple[int, int, int, int]:
        """Returns four bins in `order`. Coordinates outside the image are clipped to its edges."""
        x0, y0, x1, y1 = box.corners
        bins = [
            round(min(max(value / side, 0.0), 1.0) * (self.bins - 1))
            for value, side in ((y0, height), (x0, width), (y1, height), (x1, width))
        ]
        return self._swap(bins)

    def restore(self, numbers: Sequence[int], width: int, height: int) -> Box | None:
        """Returns the box of four bins in `order`; a number beyond the last bin (numbers may be text) means the far
        edge."""
        y0, x0, y1, x1 = self._swap([min(number, self.bins - 1) for number in numbers])
        if y1 <= y0 or x1 <= x0:
            return None
        # One product and one quotient, so that a bin on a pixel edge gives that integer exactly.
        x, y = x0 * width / (self.bins - 1), y0 * height / (self.bins - 1)
        return Box(x, y, (x1 - x0) * width / (self.bins - 1), (y1 - y0) * height / (self.bins - 1))

    def steps(self, width: int, height: int) -> tuple[float, float]:
        return width / (self.bins - 1), height / (self.bins - 1)

    def following(self, numbers: Sequence[int]) -> range:
        """Returns the bins that may follow: a far edge starts one bin after its near edge, which leaves room for it."""
        return range(numbers[-2] + 1, self.bins) if len(numbers) >= 2 else range(self.bins - 1)

    def _swap(self, four: Sequence[int]) -> tuple[int, int, int, int]:
        """Converts between `yxyx` and `order`; twice gives the input again."""
        a, b, c, d = four
        return (a, b, c, d) if self.order == "yxyx" else (b, a, d, c)


@dataclass(frozen=True, slots=True)
class PatchSpace:
    """Two patches of a grid of `side` x `side` (Kosmos-2: 32): the one of the upper left corner and the one of
    the lower right corner, counted row by row.

    An edge is read as the middle of its patch, so it is within half a patch of what was written, unless the two
    patches share a row or a column: then both axes are read as whole patches, as the official decoder does.
    """

    side: int = 32

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ConfigError(f"patches on a side: expected at least 1, got {self.side}")

    @property
    def bins(self) -> int:
        return self.side**2

    @property
    def count(self) -> int:
        return 2

    def quantise(self, box: Box, width: int, height: int) -> tuple[int, int]:
        """Returns the upper left and lower right patch. A far edge on a boundary belongs to the patch before it."""
        x0, y0, x1, y1 = box.corners
        near = (self._patch(math.floor(y0 / height * self.side)), self._patch(math.floor(x0 / width * self.side)))
        far = (self._patch(math.ceil(y1 / height * self.side) - 1), self._patch(math.ceil(x1 / width * self.side) - 1))
        return near[0] * self.side + near[1], far[0] * self.side + far[1]

    def restore(self, numbers: Sequence[int], width: int, height: int) -> Box | None:
        """Returns the box of two patches; None where the second lies above the first or left of it."""
        (y0, x0), (y1, x1) = (divmod(number, self.side) for number in numbers)
        if y1 < y0 or x1 < x0:
            return None
        whole = x0 == x1 or y0 == y1
        x, w = self._extent(x0, x1, width, whole)
        y, h = self._extent(y0, y1, height, whole)
        return Box(x, y, w, h)

    def steps(self, width: int, height: int) -> tuple[float, float]:
        return width / self.side, height / self.side

    def following(self, numbers: Sequence[int]) -> Sequence[int]:
        """Returns the patches that may follow the first: those that lie neither above it nor left of it."""
        if not numbers:
            return range(self.bins)
        row, column = divmod(numbers[0], self.side)
        return [y * self.side + x for y in range(row, self.side) for x in range(column, self.side)]

    def _patch(self, index: int) -> int:
        return min(max(index, 0), self.side - 1)

    def _extent(self, near: int, far: int, length: int, whole: bool) -> tuple[float, float]:
        """Returns start and length in pixels of the range between two patches of an axis."""
        inset, patches = (0.0, far - near + 1) if whole else (0.5, far - near)
        return (near + inset) * length / self.side, patches * length / self.side


@dataclass(frozen=True, slots=True)
class PixelSpace:
    """Whole pixels `x0, y0, x1, y1` of the image as the model sees it; `resized(width, height)` gives that size."""

    resized: Callable[[int, int], tuple[int, int]]

    @property
    def bins(self) -> None:
        return None

    @property
    def count(self) -> int:
        return 4

    def quantise(self, box: Box, width: int, height: int) -> tuple[int, int, int, int]:
        """Rounds each edge to the nearest pixel of the resized image, clipped to its edges."""
        x, y = self._axes(width, height)
        x0, y0, x1, y1 = box.corners
        return x.near(x0), y.near(y0), x.near(x1), y.near(y1)

    def restore(self, numbers: Sequence[int], width: int, height: int) -> Box | None:
        """Returns a box in pixels of the original image; a number beyond an edge means that edge."""
        x, y = self._axes(width, height)
        x0, y0, x1, y1 = (min(n, axis.shown) for n, axis in zip(numbers, (x, y, x, y), strict=True))
        if x1 <= x0 or y1 <= y0:
            return None
        return Box(x.back(x0), y.back(y0), x.back(x1 - x0), y.back(y1 - y0))

    def steps(self, width: int, height: int) -> tuple[float, float]:
        seen_width, seen_height = self.resized(width, height)
        return width / seen_width, height / seen_height

    def _axes(self, width: int, height: int) -> tuple[_Axis, _Axis]:
        seen_width, seen_height = self.resized(width, height)
        return _Axis(width, seen_width), _Axis(height, seen_height)


@dataclass(frozen=True, slots=True)
class _Axis:
    """A side of the original image (`original`) and of the image as the model sees it (`shown`), in pixels."""

    original: int
    shown: int

    def near(self, value: float) -> int:
        return round(min(max(value / self.original, 0.0), 1.0) * self.shown)

    def back(self, number: int) -> float:
        return number * self.original / self.shown
