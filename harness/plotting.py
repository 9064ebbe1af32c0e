"""How every figure looks, and how it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe-Ito, which colour-blind readers can tell apart; black is the base's."""

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "detmodes",  # ids in an SVG are random without it
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
"""For `matplotlib.rc_context`."""


def save(figure: Figure, path: Path) -> Path:
    """PNG or SVG by suffix, whole or not at all; without date and library version, so that the same figure is the
    same file."""
    metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format=path.suffix[1:], dpi=160, metadata=metadata)
    return partial.replace(path)
