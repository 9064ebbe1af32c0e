"""A benchmark of another package: rendered shapes, by another name."""

from __future__ import annotations

from benchmarks.shapes import Shapes


class ShapesOutside(Shapes):
    """Rendered shapes of another package."""

    name = "shapes_outside"
