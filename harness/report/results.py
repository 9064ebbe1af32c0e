"""Reads and checks the cells of a run's output folder (or of a published one).

    DIR/suite.json   the resolved suite
    DIR/cells.json   digests of its cells, in the suite's order
    DIR/cells/<cell id>-<first 8 digits of the digest>/   one cell each (see harness.records.record), or all of them in
    DIR/archive/   (see harness.records.archive)

Other folders under `cells/` belong to older settings and are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness import records
from harness.errors import DataError
from harness.metrics.catalogue import FURTHER
from harness.metrics.image_measures import further_measures
from harness.metrics.measure import Measure
from harness.metrics.stats import REPLICATES, bootstrap_weights
from harness.records import CategoryInfo, Record, layout
from harness.records.gallery import ShownSamples, samples_by_image
from harness.records.store import CellStore, open_store
from harness.records.tuning import TuningRecord, read_tuning
from harness.report.estimates import CellTables, Estimates, Floats, estimate
from harness.report.estimates_cache import EstimatesCache, KeptEstimates
from harness.suite.cells import Cell, listed
from harness.suite.schema import NamedModel, Suite
from harness.suite.train_settings import early_places

GALLERY = "gallery"
"""Name of the gallery's table."""
SHOWN = 300
"""Characters of a value in a message: a record may be anyone's."""
ROWS_HELD = 1_000_000
"""Rows of tables that stay in memory, some 200 MB, for the next step or temperature of their cells."""
AP_TOLERANCE = 1e-9
"""Largest difference in AP by rounding between the official evaluator and our accumulation."""


class Key(NamedTuple):
    """Names a cell within its suite."""

    model: str
    label: str
    seed: int

    def __str__(self) -> str:
        row = (
            self.label if self.model == self.label else f"{self.model} {self.label}"
        )  # an oracle is a model and a row at once
        return f"{row} seed {self.seed}"


T = TypeVar("T")
P = ParamSpec("P")


def once(make: Callable[Concatenate[Results, P], T]) -> Callable[Concatenate[Results, P], T]:
    """Decorates a function of results so that its value is computed when it is first needed and shared by all
    callers: rows, grids and the data of figures are computed once, however many renderers there are."""

    @wraps(make)
    def made(results: Results, /, *args: P.args, **kwargs: P.kwargs) -> T:
        asked = (make.__qualname__, args, tuple(kwargs.items()))
        if asked not in results.made:
            results.made[asked] = make(results, *args, **kwargs)
        return results.made[asked]  # type: ignore[no-any-return]

    return made


@dataclass
class Results:
    """The cells of one suite. Tables are read and figures computed when they are first needed, and then cached.

    store: the place that cells are read from. folders: the folder of every cell, in the suite's order. records: those
    of finished cells. failed: those of failed cells. All other cells are missing. cache: the cache of what was
    computed from cells, for the next report; None: no cache. made: the values of functions decorated with `once`.
    """

    suite: Suite
    store: CellStore
    folders: dict[Key, Path]
    records: dict[Key, Record]
    failed: dict[Key, Record]
    tuning: TuningRecord | None = None
    """The outcome of tuning the rows' learning rates, if they were tuned."""
    cache: EstimatesCache | None = None
    made: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    _tables: dict[Key, CellTables] = field(default_factory=dict, repr=False)
    _estimates: dict[tuple[Key, int, float, bool, int | None], Estimates] = field(default_factory=dict, repr=False)

    @property
    def missing(self) -> list[Key]:
        return [key for key in self.folders if key not in self.records and key not in self.failed]

    def model(self, label: str) -> NamedModel:
        """The model of the suite that tables call so."""
        return next(model for model in self.suite.models if model.label == label)

    @property
    def samples(self) -> int:
        """Returns K."""
        return self.suite.sample.samples

    @property
    def temperature(self) -> float:
        """Returns the temperature of the samples that the tables describe."""
        return self.suite.sample.temperature

    @property
    def categories(self) -> tuple[CategoryInfo, ...]:
        """Returns the categories; none without a finished cell."""
        return next((record.categories for record in self.records.values()), ())

    @property
    def images(self) -> int:
        """Returns the number of validation images; 0 without a finished cell."""
        return next((len(record.image_ids) for record in self.records.values()), 0)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Returns image weights [1 + R, I]: every image once, then the draws of the bootstrap, which are the same for
        every cell, so that differences are paired. Stored by image, as they are read."""
        columns = np.ones((self.images, 1 + REPLICATES))
        columns[:, 1:] = bootstrap_weights(self.images).T
        return columns.T

    @cached_property
    def measures(self) -> dict[str, Measure]:
        """Returns the measures of other packages that the suite asks for, as a finished cell describes them: the
        packages need not be installed here."""
        described = next((record.measures for record in self.records.values()), {})
        infos = {name: Measure(name, i.heading, i.direction, FURTHER, i.meaning) for name, i in described.items()}
        return further_measures(infos, self.suite.measures)

    def keys(self, model: str, label: str) -> list[Key]:
        """Lists all cells of a row, one per seed, whatever their outcome."""
        return [key for key in self.folders if (key.model, key.label) == (model, label)]

    def finished(self, model: str, label: str) -> list[Key]:
        return [key for key in self.keys(model, label) if key in self.records]

    def steps(self, model: str, label: str) -> tuple[int, ...]:
        """Lists the evaluated steps, ascending; empty without a finished cell."""
        return next((self.records[key].steps for key in self.finished(model, label)), ())

    def points(self, key: Key, step: int, temperature: float | None = None) -> dict[str, float]:
        """Returns the figures of a cell, nan where undefined, from its samples at a temperature (None: that of the
        suite). Raises DataError if the tables are not those of the record."""
        estimates = self.estimates(key, step, temperature, replicates=False)
        return {name: float(values[0]) for name, values in estimates.figures.items()}

    def replicates(self, key: Key, step: int, temperature: float | None = None) -> dict[str, Floats]:
        """Returns the same figures under the bootstrap weights, each [R]."""
        estimates = self.estimates(key, step, temperature)
        return {name: values[1:] for name, values in estimates.figures.items()}

    def estimates(
        self,
        key: Key,
        step: int,
        temperature: float | None = None,
        replicates: bool = True,
        early_images: int | None = None,
    ) -> Estimates:
        """Returns all figures of a cell: the point estimates first, then (with `replicates`) those of the bootstrap.

        early_images: use this number of images only, that of the evaluations before the last step; None: all images.
        """
        heat = self.temperature if temperature is None else temperature
        whole = (key, step, heat, True, early_images)
        if whole in self._estimates:
            return self._estimates[whole]
        asked = (key, step, heat, replicates, early_images)
        if asked not in self._estimates:
            self._estimates[asked] = self._estimated(*asked)
        return self._estimates[asked]

    def category_estimates(self, key: Key, step: int) -> dict[str, Floats]:
        """Returns CATEGORY_COLUMNS of every category, each [1 + R, C], as `estimates`. They take more memory than
        everything else, so they are read again where they are cached on disk."""
        estimates = self.estimates(key, step)
        stored = self._kept(key, step, self.temperature, replicates=True)
        whole = stored.read() if stored is not None and len(estimates.categories["AP"]) == 1 else None
        return estimates.categories if whole is None else whole.categories

    def _estimated(
        self, key: Key, step: int, temperature: float, replicates: bool, early_images: int | None
    ) -> Estimates:
        stored = self._kept(key, step, temperature, replicates, early_images)
        estimates = None if stored is None else stored.read()
        on_disk = estimates is not None
        if estimates is None:
            with _of_one_cell(self.folders[key]):
                estimates = estimate(self.tables(key), step, temperature, self._weights(replicates, early_images))
            on_disk = stored is not None and stored.write(estimates)
        if early_images is None:
            self._check_ap(key, step, float(estimates.figures["AP"][0]))
        if on_disk:
            estimates = replace(
                estimates, categories={name: values[:1].copy() for name, values in estimates.categories.items()}
            )
        return estimates

    def _weights(self, replicates: bool, early_images: int | None) -> NDArray[np.float64] | None:
        """Returns how often each image counts, [W, I]; None where each counts once."""
        if early_images is None:
            return self.weights if replicates else None
        counts = np.zeros(self.images)
        counts[early_places(self.images, early_images)] = 1
        return (self.weights if replicates else self.weights[:1]) * counts

    def _kept(
        self, key: Key, step: int, temperature: float, replicates: bool, early_images: int | None = None
    ) -> KeptEstimates | None:
        """Returns the place of the cached estimates; None where the cell is too small, and for some of the images
        alone."""
        if self.cache is None or early_images is not None:
            return None
        return self.cache.of(self.folders[key], self.records[key], (step, temperature, replicates))

    def tables(self, key: Key) -> CellTables:
        """Reads the tables of a cell and tries them at every step, so that later computations can rely on them.
        Raises DataError."""
        if key not in self._tables:
            with _of_one_cell(self.folders[key]):
                self._tables[key] = self._read(key)
            self._forget_tables()
            for step in self.records[key].steps[:-1]:  # tables show the last step, so it is tried anyway
                self.estimates(key, step, replicates=False)
        return self._tables[key]

    def _forget_tables(self) -> None:
        """Drops the tables that were read first, until few enough rows are held: they are read again where they are
        needed. What was computed from them stays."""
        rows = {key: len(cell.images) + len(cell.detections) for key, cell in self._tables.items()}
        while len(rows) > 1 and sum(rows.values()) > ROWS_HELD:
            del self._tables[first := next(iter(rows))], rows[first]

    def read_table(self, key: Key, name: str) -> pd.DataFrame:
        return self.store.read_table(self.folders[key].name, name)

    def has_gallery(self, key: Key) -> bool:
        return self.store.has_table(self.folders[key].name, GALLERY)

    def read_gallery(self, key: Key) -> dict[int, ShownSamples]:
        """Reads what the samples of a cell said about the images of the gallery, by image."""
        self.store.verify_table(self.folders[key].name, GALLERY)
        return samples_by_image(self.read_table(key, GALLERY), f"{self.folders[key]}: {GALLERY}")

    def _read(self, key: Key) -> CellTables:
        images, detections = (self.read_table(key, name) for name in records.PUBLISHED_TABLES)
        most = images["samples"].max()
        if most != self.samples:  # arrays get this width
            raise DataError(f"{self.folders[key]}: images: expected {self.samples} samples of an image, got {most}")
        return CellTables(self.records[key], images, detections)

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
    """Turns errors of arithmetic on tables of unknown origin into one line: a missing column or one of another type,
    an image or category that the record does not have, a file that is not Parquet."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, NotImplementedError, OSError) as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"{folder}: {records.RECORD} and tables do not belong together: {told}") from error


def load(folder: Path, cache: Path | None = None) -> Results:
    """Reads suite and records and verifies that the tables are the files that the records describe.

    cache: the folder for what is computed from large cells; by default beside them.
    """
    layout.require_no_links(folder)
    suite, planned = listed(folder)
    store = open_store(folder)
    folders: dict[Key, Path] = {}
    records_by_key: dict[Key, Record] = {}
    for cell, digest in planned:
        key = Key(cell.model.label, cell.label, cell.seed)
        folders[key] = layout.cell(folder, cell.id, digest)
        record = store.read_record(folders[key].name)
        if record is not None:
            records_by_key[key] = record
            _verify(record, folders[key], suite, cell, digest)
            if record.status == "finished":
                _verify_rows(record, folders[key], suite.measures)
                for name in records.PUBLISHED_TABLES:
                    store.verify_table(folders[key].name, name)
    finished = {key: record for key, record in records_by_key.items() if record.status == "finished"}
    failed = {key: record for key, record in records_by_key.items() if record.status == "failed"}
    _verify_paired(finished, folders)
    estimates_cache = EstimatesCache(cache or folder / layout.ESTIMATES)
    return Results(suite, store, folders, finished, failed, read_tuning(folder), estimates_cache)


def _verify(record: Record, folder: Path, suite: Suite, cell: Cell, digest: str) -> None:
    """Raises DataError unless the record is the one of this cell."""
    actual = (record.suite, record.model_label, record.label, record.cell.seed, record.digest)
    expected = (suite.suite, cell.model.label, cell.label, cell.seed, digest)
    if actual != expected or records.digest_of(record.cell) != digest:
        raise DataError(f"{folder / records.RECORD}: expected the cell {expected}, got {str(actual)[:SHOWN]}")


def _verify_rows(record: Record, folder: Path, measures: Sequence[str]) -> None:
    """Raises DataError unless there are evaluations, the measures that the suite asks for, and rows of numbers that
    have a step, as figures over steps need."""
    if set(record.measures) != set(measures):
        raise DataError(
            f"{folder / records.RECORD}: field measures: expected {sorted(measures)}, got {sorted(record.measures)}"
        )
    if not record.evaluations:
        raise DataError(f"{folder / records.RECORD}: field evaluations: expected at least one")
    for name in ("curve", "probe"):
        for row in getattr(record, name):
            if type(row.get("step")) is not int or not all(isinstance(v, float | int | None) for v in row.values()):
                raise DataError(f"{folder / records.RECORD}: field {name}: expected rows of numbers with a step")


def _verify_paired(finished: dict[Key, Record], folders: dict[Key, Path]) -> None:
    """Raises DataError unless all cells were evaluated on the same images in the same order, as differences are
    paired by image."""
    first = next(iter(finished), None)
    for key, record in finished.items():
        if first is not None and record.image_ids != finished[first].image_ids:
            raise DataError(f"{folders[key]}: evaluated on other images than {folders[first]}")
