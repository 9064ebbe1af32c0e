"""Describes the later stages of a suite's chains: whether diversity predicted the gain, and whether the model stopped
exploring."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from harness.metrics.stats import pearson
from harness.report.results import Key, Results
from harness.suite.cells import chains

COLLAPSED = 0.1
"""The share of the samples' initial entropy in a stage below which the model counts as collapsed."""
FEWEST = 3
"""The fewest cells for which a correlation is reported: any two points lie on a line."""


class Foretold(NamedTuple):
    """Pearson's correlation over `cells` between the coverage after fine-tuning and the AP that the last stage adds;
    nan where it is undefined."""

    correlation: float
    cells: int


class Collapse(NamedTuple):
    """The lowest entropy of a cell's samples (nats per token), the step where it occurred, and the entropy at the
    start of the stage."""

    key: Key
    step: int
    entropy: float
    at_first: float


def foretold(results: Results) -> Foretold:
    """Correlates coverage with the gain in AP over all finished cells of chains, whatever their row."""
    points = [
        (before[f"coverage@{results.samples}"], after["AP"] - before["AP"])
        for key, since in _finished(results)
        for before, after in [(results.points(key, since), results.points(key, results.records[key].steps[-1]))]
    ]
    if len(points) < FEWEST:
        return Foretold(math.nan, len(points))
    x, y = np.array(points).T
    return Foretold(float(pearson(x, y)), len(points))


def collapses(results: Results) -> list[Collapse]:
    """Lists the finished cells whose entropy fell below the share COLLAPSED of its value in the stage's first step."""
    rows = []
    for key, since in _finished(results):
        later = [row for row in results.records[key].curve if row["step"] > since]
        curve = [row for row in later if "reward" in row and row.get("entropy") is not None]  # of samples
        if not curve:
            continue
        lowest = min(curve, key=lambda row: float(row["entropy"]))
        if lowest["entropy"] < COLLAPSED * curve[0]["entropy"]:
            rows.append(Collapse(key, lowest["step"], lowest["entropy"], curve[0]["entropy"]))
    return rows


def _finished(results: Results) -> Iterator[tuple[Key, int]]:
    """Yields the finished cells of chains, each with the step at which its last stage began."""
    for model in results.suite.models:
        for chain in chains(results.suite):
            since = results.suite.train_of(model, chain).steps
            for key in results.finished(model.label, chain.label):
                yield key, since
