"""Draws the reliability diagram that `detmodes evaluate --plots` writes."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.metrics.diagnosis.calibration import Reliability
from harness.report.figures.style import COLOURS, STYLE, save

SUFFIXES = ("png", "svg")


def paths(folder: Path) -> list[Path]:
    """Lists the files that `reliability_diagram` writes."""
    return [folder / f"reliability.{suffix}" for suffix in SUFFIXES]


def reliability_diagram(reliability: Reliability, folder: Path) -> list[Path]:
    """Draws accuracy against confidence of each bin, and its number of detections, as PNG and SVG into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 5.0), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _draw_accuracy(upper, reliability)
        _draw_counts(lower, reliability)
        return [save(figure, path) for path in paths(folder)]


def _draw_accuracy(axes: Axes, reliability: Reliability) -> None:
    edges = np.linspace(0, 1, len(reliability.count) + 1)
    there = reliability.count > 0
    accuracy, confidence = reliability.accuracy[there], reliability.confidence[there]
    axes.bar(edges[:-1][there], accuracy, 1 / len(there), align="edge", color=COLOURS[0], edgecolor="white")
    axes.plot((0, 1), (0, 1), "--", color="#505050", linewidth=1, label="calibrated")
    axes.vlines(confidence, accuracy, confidence, color=COLOURS[1], linewidth=2, clip_on=False)
    axes.plot(
        confidence, confidence, "o", color=COLOURS[1], markersize=4, clip_on=False, label="mean score, and its gap"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share correct (IoU 0.5)")
    axes.set_title(f"ECE {reliability.ece:.3f}, largest gap {reliability.max_gap:.3f}", fontsize=9)
    axes.legend(loc="upper left")


def _draw_counts(axes: Axes, reliability: Reliability) -> None:
    """Draws the counts on a logarithmic axis, as most scores are at one end. The number of an empty bin is left out."""
    width = 1 / len(reliability.count)
    bars = axes.bar(
        np.arange(len(reliability.count)) * width, reliability.count, width, align="edge", color="#909090", ec="white"
    )
    axes.bar_label(bars, [_short(count) for count in reliability.count.tolist()], fontsize=5.5, padding=1)
    axes.set_yscale("log")
    axes.set(xlabel="score", ylabel="detections", ylim=(0.7, 5.0 * reliability.count.max()))
    axes.grid(visible=False, axis="x")


def _short(count: int) -> str:
    for divisor, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= divisor:
            return f"{count / divisor:.{1 if count < 10 * divisor else 0}f}{unit}"
    return str(count or "")
