"""Computes what identifies a cell beside its settings: the pictures it is computed from, and parts of other packages;
and the seeds that its record names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from harness import extensions, records
from harness.errors import DataError
from harness.inference.device import BASE_SEED
from harness.metrics.image_measures import described_measures
from harness.protocols import Benchmark
from harness.records import CellInfo, MeasureInfo
from harness.suite.cells import Cell
from harness.suite.schema import Suite
from harness.suite.stage_settings import Sft
from harness.system.provenance.parts import PartInfo, describe_part
from harness.system.provenance.pictures import digest_pictures

SPLITS = ("train", "val", "calibration")


class ChangedWarning(UserWarning):
    """A cell was finished before with pictures or parts that have changed since."""


def digest_splits(
    benchmark: Benchmark, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, str]:
    """Computes one digest for the pictures of each split. Empty for a benchmark that `renders_pictures`, as its
    settings and the digests of its annotations determine them."""
    if getattr(benchmark, "renders_pictures", False):
        return {}
    total = sum(len(benchmark.split(split)) for split in SPLITS)
    done, digests = 0, {}
    for split in SPLITS:
        examples = benchmark.split(split)
        digests[split] = digest_pictures(
            (example.path for example in examples), partial(_shifted, progress, done, total)
        )
        done += len(examples)
    return digests


def _shifted(progress: Callable[[int, int], None], before: int, total: int, done: int, of: int) -> None:
    del of
    progress(before + done, total)


def foreign_parts(suite: Suite, cell: Cell) -> dict[str, PartInfo]:
    """Describes the parts of a cell from other packages, by kind and name: "benchmark mine", "objective theirs"."""
    points = {f"{kind} {name}": extensions.find_point(kind, name) for kind, name in _named_parts(suite, cell)}
    return {name: describe_part(point) for name, point in points.items() if point is not None}


def _named_parts(suite: Suite, cell: Cell) -> Iterator[tuple[str, str]]:
    """Yields kind and name of every part that a cell's settings name."""
    yield "benchmark", suite.benchmark.name
    yield from (("measure", name) for name in suite.measures)
    yield "model", cell.model.name
    family = cell.model.settings.get("family")
    if isinstance(family, str):
        yield "family", family
    if cell.objective is None:
        return
    yield "objective", cell.objective.name
    then = cell.objective.then
    if then is None:
        return
    yield "stage", then.name
    if isinstance(then, Sft):
        yield "objective", then.of[0]
    for kind in ("corrector", "reward"):
        if (name := getattr(then, kind, None)) is not None:
            yield kind, name


def measures_of(suite: Suite) -> dict[str, MeasureInfo]:
    """Describes the measures of other packages that a suite asks for."""
    return {
        name: MeasureInfo(heading=measure.heading, direction=measure.direction, meaning=measure.meaning)
        for name, measure in described_measures(suite.measures).items()
    }


def seeds_of(cell: Cell) -> dict[str, int]:
    """Returns the seeds that a record names: of the base, of training if there is any, and of samples."""
    trained = {} if cell.objective is None else {"training": cell.seed}
    return {"base": BASE_SEED, **trained, "samples": cell.seed}


def warn_of_changes(cell: Cell, info: CellInfo, cells: Path) -> None:
    """Warns, before a cell is computed, that it had been finished with other pictures or parts, naming them. cells:
    the folder of the run's cells."""
    for folder in sorted(cells.glob(f"{cell.id}-*")):
        try:
            before = records.read_record(folder).cell
        except DataError:
            continue
        changed = _changed(before, info)
        if changed:
            what = " and ".join(changed)
            message = f"{cell.id}: {what} changed since {folder.name} was computed: it is computed again"
            warnings.warn(message, ChangedWarning, stacklevel=2)


def _changed(before: CellInfo, now: CellInfo) -> list[str]:
    """Lists the pictures and parts that differ, if nothing else does."""
    if before.model_copy(update={"pictures": now.pictures, "parts": now.parts}) != now:
        return []
    splits = [split for split in now.pictures if before.pictures.get(split) != now.pictures[split]]
    pictures = [f"the pictures of {', '.join(splits)}"] if splits else []
    return [*pictures, *(name for name in now.parts if before.parts.get(name) != now.parts[name])]
