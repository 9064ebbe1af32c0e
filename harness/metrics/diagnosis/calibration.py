"""Measures whether scores equal the share of correct detections: expected calibration error, and the bins of a
reliability diagram.

Shape legend: n detections, M bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BINS = 15
"""The number of bins, as in Guo et al. (2017)."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """A reliability diagram. Bin m holds the scores in (m/M, (m+1)/M], m = 0 .. M-1; a score of 0 is in bin 0.

    count       [M] int64, detections in the bin
    confidence  [M], their mean score; nan in an empty bin
    accuracy    [M], the share of them that is correct; nan in an empty bin
    """

    count: NDArray[np.int64]
    confidence: Floats
    accuracy: Floats

    @property
    def gap(self) -> Floats:
        """Returns |accuracy - confidence| of each bin, [M]; nan in an empty bin."""
        return np.abs(self.accuracy - self.confidence)

    @property
    def ece(self) -> float:
        """Expected calibration error: sum over bins of count / n * gap (Guo et al., 2017)."""
        return float(np.nansum(self.count * self.gap) / self.count.sum())

    @property
    def max_gap(self) -> float:
        """Maximum calibration error: the largest gap of a bin that is not empty."""
        return float(np.nanmax(self.gap))


def undefined(scores: Floats) -> str | None:
    """Returns the reason why these scores [n] have no calibration, or None if they have one."""
    if not len(scores):
        return "no detection counts"
    if scores.min() < 0 or scores.max() > 1:
        return f"scores from {scores.min():.4g} to {scores.max():.4g} are no probabilities"
    return None


def reliability(scores: Floats, correct: NDArray[np.bool_], bins: int = BINS) -> Reliability:
    """Compares scores [n] in [0, 1] with what they predict, correct [n], in M equally wide bins.

    Raises ValueError where `undefined` gives a reason.
    """
    reason = undefined(scores)
    if reason:
        raise ValueError(f"expected scores that are probabilities: {reason}")
    inner_edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    index = np.searchsorted(inner_edges, scores, side="left")
    count = np.bincount(index, minlength=bins)
    sums = (np.bincount(index, weights=values, minlength=bins) for values in (scores, correct))
    confidence, accuracy = (np.divide(total, count, out=np.full(bins, np.nan), where=count > 0) for total in sums)
    return Reliability(count, confidence, accuracy)
