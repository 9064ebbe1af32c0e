"""A row's figures at another AP than its last: read off the path that it takes along training, as a control for rows
that reach that AP in another way.

Shape legend: S seeds, W weightings (the point estimate and the bootstrap replicates), k evaluated steps of a path.
"""

from __future__ import annotations

import numpy as np

from harness.report.estimates import Floats

COMPARABLE = 0.01
"""AP by which two rows may still differ after matching; beyond, they are not compared."""


def interpolate_path(ap: Floats, figure: Floats, target: Floats) -> Floats:
    """Read a figure off a path at a target AP, under each weighting by itself.

    The path is the line through the evaluated steps in their order, the first of them the base. Where it passes the
    target more than once, the first time counts: the least training that gives this AP. A target that it does not
    reach gets the figure of the step whose AP is nearest.

    Args:
        ap: [k, W] along the path.
        figure: [k, W] along the path.
        target: [W].

    Returns:
        [W], nan where an AP is undefined, or the figure at a step that takes part.
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
    # A figure may be undefined at a step that has no part in it.
    between = np.where(share == 0, low, np.where(share == 1, high, low + share * (high - low)))
    return np.where(np.isnan(gap).any(axis=0), np.nan, between)


def is_comparable(gap: float) -> bool:
    """Whether two rows whose AP differs by this much after matching may be compared."""
    return abs(gap) <= COMPARABLE
