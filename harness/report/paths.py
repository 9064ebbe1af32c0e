"""Defines the cells that a row is made of, and reads its figures off its path of training at another AP than its
last, as a control for rows that reach that AP in another way.

Shape legend: S seeds, W weightings (the point estimate and the bootstrap replicates), k evaluated steps of a path.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from harness.report.estimates import Floats
from harness.report.results import Key
from harness.suite.cells import BASE, ORACLES

COMPARABLE = 0.01
"""Difference in AP that two rows may still have after matching; beyond it they are not compared."""


@dataclass(frozen=True, slots=True)
class Source:
    """The cells that a row is made of, and their step, which is the same for all seeds. step is None without a
    finished cell."""

    model: str
    label: str
    cells: tuple[Key, ...]
    step: int | None
    at_ap_of: Source | None = None
    """The row whose AP this one is read at, along the path of its cells (see harness.report.paths); its own step is
    then the last of the path."""
    base: Source | None = None
    """The row at which that path begins."""
    temperature: float | None = None
    """Temperature of the samples; None: that of the suite."""
    since: int | None = None
    """Of a chain: the step at which its last stage began."""
    unfinished: bool = False
    """Whether it is a chain before its last stage."""
    early_images: int | None = None
    """The number of images that its figures cover: those of the evaluations before the last step. None: all images."""

    @property
    def once(self) -> bool:
        """Tells whether one cell serves every seed: that of the base and of the oracles, where nothing is trained."""
        return self.label in (BASE, *ORACLES) and len(self.cells) == 1

    def cell(self, seed: int) -> Key:
        """Returns the cell to pair with those of this seed."""
        return self.cells[0] if self.once else next(key for key in self.cells if key.seed == seed)

    @property
    def derived(self) -> bool:
        """Tells whether it is made of another row's cells."""
        return self.at_ap_of is not None or self.unfinished or self.temperature is not None


def over_images(source: Source, number: int | None) -> Source:
    """Returns the same row over that many early images, together with the rows that it is read beside: a path has the
    same images at all of its steps, and so has the row that it is compared with."""
    target, base = source.at_ap_of, source.base
    return replace(
        source,
        early_images=number,
        at_ap_of=None if target is None else over_images(target, number),
        base=None if base is None else over_images(base, number),
    )


def on_same_images(a: Source, b: Source) -> tuple[Source, Source]:
    """Returns two rows to be compared: where one is read off a path, both cover the images of that path."""
    number = next((row.early_images for row in (a, b) if row.at_ap_of is not None), None)
    return (a, b) if number is None else (over_images(a, number), over_images(b, number))


def interpolate_path(ap: Floats, figure: Floats, target: Floats) -> Floats:
    """Interpolates a figure at a target AP along a path of training, under each weighting by itself.

    The path is the line through the evaluated steps in their order, the first of them the base. Where it passes the
    target more than once, the first time counts: the least training that gives this AP. Where the path does not reach
    the target, the figure of the step with the nearest AP is taken.

    Args:
        ap: [k, W], AP along the path. figure: [k, W], the figure along the path. target: [W], the AP to read it at.

    Returns:
        [W], nan where an AP is undefined, or the figure at a step that is used.
    """
    gap = ap - target
    beside = gap[:-1] * gap[1:] <= 0  # [k - 1, W]: the target lies between two steps
    column = np.arange(len(target))
    first = beside.argmax(axis=0) if len(gap) > 1 else np.zeros(len(target), dtype=np.int64)
    nearest = np.abs(np.nan_to_num(gap, nan=np.inf)).argmin(axis=0)
    passed = beside.any(axis=0)
    start = np.where(passed, first, nearest)
    end = np.where(passed, np.minimum(first + 1, len(gap) - 1), nearest)
    span = gap[end, column] - gap[start, column]
    share = np.divide(-gap[start, column], span, out=np.zeros(len(target)), where=span != 0)
    low, high = figure[start, column], figure[end, column]
    # A figure may be undefined at a step that is not used.
    between = np.where(share == 0, low, np.where(share == 1, high, low + share * (high - low)))
    return np.where(np.isnan(gap).any(axis=0), np.nan, between)


def is_comparable(gap: float) -> bool:
    """Tells whether two rows whose AP differs by this much after matching may be compared."""
    return abs(gap) <= COMPARABLE
