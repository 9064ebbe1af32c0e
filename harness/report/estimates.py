"""Computes the figures of one cell at one step under any image weights, from which tables, intervals and verdicts are
made.

Shape legend: I images, C categories, W weightings (1, or 1 and the bootstrap replicates), K samples per image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness import records
from harness.metrics.catalogue import CATEGORY_COLUMNS, FREQUENCIES, category_figures, figure_names
from harness.metrics.detection import ap
from harness.metrics.samples import aggregate
from harness.metrics.samples.aggregate import Weights
from harness.metrics.samples.diversity import CategoryTable
from harness.records import Record, tables
from harness.types import Frequency

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CellTables:
    """The record of a finished cell and its tables, by name."""

    record: Record
    images: pd.DataFrame
    detections: pd.DataFrame

    @property
    def frequency(self) -> list[Frequency | None]:
        return [category.frequency for category in self.record.categories]


@dataclass(frozen=True, slots=True)
class Estimates:
    """Every figure of a cell at one step and temperature, under W image weightings; nan where undefined.

    figures     by name, each [W]
    categories  CATEGORY_COLUMNS by name, each [W, C]
    support     how many validation images have each category, [C]
    """

    figures: dict[str, Floats]
    categories: dict[str, Floats]
    support: NDArray[np.int64]


def estimate(cell: CellTables, step: int, temperature: float, weights: Weights | None = None) -> Estimates:
    """Computes every figure of `figure_names` and those of each category; weights [W, I] or None (all 1: W = 1).

    `temperature` is that of the samples; the detections are those of the greedy answer, and the consensus of these
    samples.
    """
    per_category, per_image = tables.tables(cell.images, step, temperature, cell.record)
    by_category = aggregate.category_figures(per_category, weights)
    sources = category_figures(_samples(per_category))
    columns = {name: by_category[sources[name]] for name in CATEGORY_COLUMNS if name in sources}
    columns["AP"] = np.full_like(columns["recall"], np.nan)
    figures: dict[str, Floats] = {}
    if cell.record.evaluation(step).metrics:
        precision = _precision(cell, step, records.GREEDY, weights)
        columns["AP"] = precision.ap
        figures |= ap.summarise(precision, cell.frequency)
    if cell.record.evaluation(step).consensus:
        of_samples = ap.summarise(_precision(cell, step, temperature, weights), cell.frequency)
        figures["consensus_AP"], figures["consensus_AP50"] = of_samples["AP"], of_samples["AP50"]
        figures["consensus_gain"] = of_samples["AP"] - figures["AP"]
    for name, source in sources.items():
        means = aggregate.by_frequency(by_category[source], cell.frequency)
        figures[name] = means["all"]
        figures |= {f"{name}/{group}": means[group] for group in FREQUENCIES}
    figures |= aggregate.image_figures(per_image, weights)
    further = tables.further_columns(cell.images, step, temperature, cell.record)
    figures |= aggregate.mean_over_images(further, weights)
    weightings = len(figures["recall"])
    of_training = {
        **cost(cell.record, step),
        "selected_share": selected_share(cell.record, step),
        "groups_without_spread": groups_without_spread(cell.record, step),
    }
    figures |= {name: np.full(weightings, value) for name, value in of_training.items()}
    undefined = np.full(weightings, np.nan)
    return Estimates(
        {name: figures.get(name, undefined) for name in (*figure_names(_samples(per_category)), *figures)},
        {name: columns[name] for name in CATEGORY_COLUMNS},
        aggregate.support(per_category)["recall"],
    )


def cost(record: Record, step: int) -> dict[str, float]:
    """Computes seconds of a training step (see `_step_seconds`), peak memory of the cell in MiB, and the natural
    logarithms of both: a difference of 0.05 is 5% more. nan where nothing was trained or measured."""
    curve = [(row["step"], row["seconds"]) for row in record.curve if "seconds" in row]
    seconds = _step_seconds(curve, step, since=_end_of_fine_tuning(record))
    memory = math.nan if record.own_peak_mib is None or not curve else record.own_peak_mib
    return {
        "step_seconds": seconds,
        "peak_memory_mib": memory,
        "log_step_seconds": math.log(seconds) if seconds > 0 else math.nan,
        "log_peak_memory": math.log(memory) if memory > 0 else math.nan,
    }


def selected_share(record: Record, step: int) -> float:
    """Averages the share of tokens that the mask selects over the last quarter (rounded up) of the logged steps of
    fine-tuning up to this step; nan where none was logged."""
    until = min(step, _end_of_fine_tuning(record))
    shares = [row["selected"] for row in record.curve if row.get("selected") is not None and row["step"] <= until]
    return float(np.mean(shares[-math.ceil(len(shares) / 4) :])) if shares else math.nan


def groups_without_spread(record: Record, step: int) -> float:
    """Averages the share of groups without spread over the logged steps of a chain's last stage up to this step; nan
    where none was logged."""
    since = _end_of_fine_tuning(record)
    shares = [row["filtered"] for row in record.curve if "filtered" in row and since < row["step"] <= step]
    return float(np.mean(shares)) if shares else math.nan


def _end_of_fine_tuning(record: Record) -> float:
    """Returns the step after which a chain's last stage begins; infinity for a cell without one."""
    train = record.cell.train or {}
    return float(train["steps"]) if "then" in train else math.inf


def _step_seconds(curve: Sequence[tuple[int, float]], step: int, since: float) -> float:
    """Returns the median over the logged stretches of fine-tuning, without evaluations. For a chain's last stage,
    which began after the step `since`: the mean of its steps, including what it makes before the first of them."""
    before = [row for row in curve if row[0] <= since]
    spans = pairwise(before) if step <= since else zip(before[-1:], curve[-1:], strict=True)
    stretches = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in spans]
    return float(np.median(stretches)) if stretches else math.nan


def _precision(cell: CellTables, step: int, temperature: float, weights: Weights | None) -> ap.APs:
    matches = tables.matches(cell.images, cell.detections, step, cell.record, temperature)
    return ap.average_precision(matches, len(cell.record.categories), weights)


def _samples(table: CategoryTable) -> int:
    return int(table.verified.shape[1]) - 1
