"""The cells of a run's output folder (or of a published one), read and checked.

    DIR/suite.json   the resolved suite
    DIR/cells.json   digests of its cells, in the suite's order
    DIR/cells/<cell id>-<first 8 digits of the digest>/   one cell each (see harness.records.record), or all of them in
    DIR/archive/   (see harness.records.archive)

Other folders under `cells/` belong to older settings and are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness import records
from harness.errors import DataError
from harness.metrics.stats import bootstrap_weights
from harness.records import CategoryInfo, Record, layout
from harness.records.gallery import Answer, answers_by_image
from harness.records.store import CellStore, open_store
from harness.records.tuning import TuningRecord, read_tuning
from harness.report.estimates import Floats, Tables, estimate
from harness.suite.cells import Cell, listed
from harness.suite.schema import Suite

GALLERY = "gallery"
"""Name of the table."""
AP_TOLERANCE = 1e-9
"""The official evaluator and our accumulation may differ by rounding only."""


class Key(NamedTuple):
    """Names a cell within its suite."""

    model: str
    label: str
    seed: int

    def __str__(self) -> str:
        row = self.label if self.model == self.label else f"{self.model} {self.label}"  # an oracle is its own model
        return f"{row} seed {self.seed}"


@dataclass
class Results:
    """Cells of one suite. Tables are read, and figures computed, when they are first asked for, and kept.

    store: where cells are read from. folders: every cell of the suite and the folder that a run leaves it in, in the
    suite's order.
    records: the finished ones. failed: those that left a failed record. The rest are missing.
    """

    suite: Suite
    store: CellStore
    folders: dict[Key, Path]
    records: dict[Key, Record]
    failed: dict[Key, Record]
    tuning: TuningRecord | None = None
    """How the rows' learning rates were chosen, where they were."""
    _tables: dict[Key, Tables] = field(default_factory=dict, repr=False)
    _points: dict[tuple[Key, int, float], dict[str, float]] = field(default_factory=dict, repr=False)
    _replicates: dict[tuple[Key, int, float], dict[str, Floats]] = field(default_factory=dict, repr=False)

    @property
    def missing(self) -> list[Key]:
        return [key for key in self.folders if key not in self.records and key not in self.failed]

    @property
    def samples(self) -> int:
        """K."""
        return self.suite.sample.samples

    @property
    def temperature(self) -> float:
        """Of the samples that the tables are about."""
        return self.suite.sample.temperature

    @property
    def categories(self) -> tuple[CategoryInfo, ...]:
        """None without a finished cell."""
        return next((record.categories for record in self.records.values()), ())

    @property
    def images(self) -> int:
        """Validation images; 0 without a finished cell."""
        return next((len(record.image_ids) for record in self.records.values()), 0)

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """The same draws for every cell, so that differences are paired."""
        return bootstrap_weights(self.images)

    def keys(self, model: str, label: str) -> list[Key]:
        """All cells of a row, one per seed, whatever became of them."""
        return [key for key in self.folders if (key.model, key.label) == (model, label)]

    def finished(self, model: str, label: str) -> list[Key]:
        return [key for key in self.keys(model, label) if key in self.records]

    def steps(self, model: str, label: str) -> tuple[int, ...]:
        """Evaluated steps, ascending; empty without a finished cell."""
        return next((self.records[key].steps for key in self.finished(model, label)), ())

    def points(self, key: Key, step: int, temperature: float | None = None) -> dict[str, float]:
        """Figures of a cell, nan where undefined, from its samples at a temperature (None: the suite's own). Raises
        DataError if the tables are not those of the record."""
        heat = self.temperature if temperature is None else temperature
        tables = self.tables(key)
        if (key, step, heat) not in self._points:
            with _of_one_cell(self.folders[key]):
                self._points[key, step, heat] = self._point(key, tables, step, heat)
        return self._points[key, step, heat]

    def replicates(self, key: Key, step: int, temperature: float | None = None) -> dict[str, Floats]:
        """The same under the bootstrap weights, each [R]."""
        heat = self.temperature if temperature is None else temperature
        if (key, step, heat) not in self._replicates:
            self._replicates[key, step, heat] = estimate(self.tables(key), step, heat, self.weights)
        return self._replicates[key, step, heat]

    def tables(self, key: Key) -> Tables:
        """Read, and tried at every step, so that whatever is made of them later can rely on them. Raises DataError."""
        if key not in self._tables:
            with _of_one_cell(self.folders[key]):
                tables = self._read(key)
                for step in self.records[key].steps:
                    self._points[key, step, self.temperature] = self._point(key, tables, step, self.temperature)
            self._tables[key] = tables
        return self._tables[key]

    def read_table(self, key: Key, name: str) -> pd.DataFrame:
        return self.store.read_table(self.folders[key].name, name)

    def has_gallery(self, key: Key) -> bool:
        return self.store.has_table(self.folders[key].name, GALLERY)

    def read_gallery(self, key: Key) -> dict[int, Answer]:
        """Reads what the samples of a cell said about the images of the gallery, by image."""
        self.store.verify_table(self.folders[key].name, GALLERY)
        return answers_by_image(self.read_table(key, GALLERY), f"{self.folders[key]}: {GALLERY}")

    def _read(self, key: Key) -> Tables:
        images, detections = (self.read_table(key, name) for name in records.PUBLISHED_TABLES)
        most = images["samples"].max()
        if not 0 < most <= self.samples:  # arrays get this width
            raise DataError(f"{self.folders[key]}: images: expected up to {self.samples} samples, got {most}")
        return Tables(self.records[key], images, detections)

    def _point(self, key: Key, tables: Tables, step: int, temperature: float) -> dict[str, float]:
        points = {name: float(values[0]) for name, values in estimate(tables, step, temperature).items()}
        self._check_ap(key, step, points["AP"])
        return points

    def _check_ap(self, key: Key, step: int, ap: float) -> None:
        recorded = self.records[key].evaluation(step).metrics.get("AP")
        official = math.nan if recorded is None else recorded
        if not math.isclose(ap, official, rel_tol=0, abs_tol=AP_TOLERANCE) and not (
            math.isnan(ap) and recorded is None
        ):
            raise DataError(
                f"{self.folders[key]}: the tables give AP {ap:.9f} at step {step}, {records.RECORD} says {recorded}: "
                "they do not belong together"
            )


@contextmanager
def _of_one_cell(folder: Path) -> Iterator[None]:
    """What arithmetic stumbles over in tables that may be anyone's is told in one line: a column that is missing or of
    another type, an image or category that the record does not have, a file that is not Parquet."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, NotImplementedError, OSError) as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"{folder}: {records.RECORD} and tables do not belong together: {told}") from error


def load(folder: Path) -> Results:
    """Reads suite and records and verifies that the tables are the files that the records describe."""
    suite, planned = listed(folder)
    store = open_store(folder)
    folders: dict[Key, Path] = {}
    found: dict[Key, Record] = {}
    for cell, digest in planned:
        key = Key(cell.model.label, cell.label, cell.seed)
        folders[key] = layout.cell(folder, cell.id, digest)
        record = store.read_record(folders[key].name)
        if record is not None:
            found[key] = record
            _verify(record, folders[key], suite, cell, digest)
            if record.status == "finished":
                _verify_rows(record, folders[key])
                for name in records.PUBLISHED_TABLES:
                    store.verify_table(folders[key].name, name)
    finished = {key: record for key, record in found.items() if record.status == "finished"}
    failed = {key: record for key, record in found.items() if record.status == "failed"}
    _verify_paired(finished, folders)
    return Results(suite, store, folders, finished, failed, read_tuning(folder))


def _verify(record: Record, folder: Path, suite: Suite, cell: Cell, digest: str) -> None:
    """The record is the one of this cell."""
    own = (record.suite, record.model_label, record.label, record.cell.seed, record.digest)
    expected = (suite.suite, cell.model.label, cell.label, cell.seed, digest)
    if own != expected or records.digest_of(record.cell) != digest:
        raise DataError(f"{folder / records.RECORD}: expected the cell {expected}, got {own}")


def _verify_rows(record: Record, folder: Path) -> None:
    """What is drawn along the steps: there are evaluations, and rows of numbers that have a step."""
    if not record.evaluations:
        raise DataError(f"{folder / records.RECORD}: field evaluations: expected at least one")
    for name in ("curve", "probe"):
        for row in getattr(record, name):
            if type(row.get("step")) is not int or not all(isinstance(v, float | int | None) for v in row.values()):
                raise DataError(f"{folder / records.RECORD}: field {name}: expected rows of numbers with a step")


def _verify_paired(finished: dict[Key, Record], folders: dict[Key, Path]) -> None:
    """Differences are paired by image: all cells were evaluated on the same images, in the same order."""
    first = next(iter(finished), None)
    for key, record in finished.items():
        if first is not None and record.image_ids != finished[first].image_ids:
            raise DataError(f"{folders[key]}: evaluated on other images than {folders[first]}")
