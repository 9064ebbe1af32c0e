"""Cells of a suite: order, cache, one record each.

A cell is computed in a hidden folder and renamed into place when its record is complete: whatever is visible
under `cells/` has finished or has failed cleanly. A finished cell is never run again.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
import traceback
from pathlib import Path
from typing import Any

from harness import gallery, objectives, records
from harness.compute import compute, record_of
from harness.context import Context, Planned, build
from harness.errors import ConfigError, DetmodesError
from harness.files import write_text
from harness.records import CellInfo, Record
from harness.suite import Cell, cells


def plan(context: Context, output: Path, only: str | None = None) -> list[Planned]:
    """Every cell of the suite (that matches `only`), in order."""
    described: dict[str, dict[str, Any]] = {}
    planned = []
    for cell in cells(context.suite):
        key = cell.model.model_dump_json()
        if key not in described:
            described[key] = build(context, cell.model).describe()
        info = _cell_info(context, cell, described[key])
        digest = records.digest_of(info)
        planned.append(Planned(cell, info, digest, output / "cells" / f"{cell.id}-{digest[:8]}"))
    return _matching(planned, only)


def _matching(planned: list[Planned], only: str | None) -> list[Planned]:
    chosen = [item for item in planned if only is None or fnmatch.fnmatch(item.cell.id, only)]
    if not chosen:
        raise ConfigError(f"--only {only!r}: matches none of: {', '.join(item.cell.id for item in planned)}")
    return chosen


def run(context: Context, output: Path, only: str | None = None) -> list[Record]:
    """Runs what is not finished yet; returns a record for every planned cell, failed ones included."""
    everything = plan(context, output)
    chosen = _matching(everything, only)
    (output / "cells").mkdir(parents=True, exist_ok=True)
    write_text(output / "suite.json", context.suite.model_dump_json(indent=1) + "\n")
    gallery.write(output, context.pictures, context.benchmark.categories)
    write_text(output / "cells.json", json.dumps([item.digest for item in everything], indent=1) + "\n")
    done = []
    for index, item in enumerate(chosen, 1):
        cached = finished(item)
        context.watch.cell(item.cell, index, len(chosen), "cached" if cached else "running")
        record = cached or _run_cell(context, item)
        context.watch.cell(item.cell, index, len(chosen), record.status)
        done.append(record)
    return done


def finished(item: Planned) -> Record | None:
    """The record of a cell that is done: finished, of these settings, with its tables intact."""
    try:
        record = records.read(item.folder)
        if record.status != "finished" or record.digest != item.digest:
            return None
        records.verify_files(record, item.folder, [f"{name}.parquet" for name in records.TABLES])
    except DetmodesError:
        return None
    return record


def _run_cell(context: Context, item: Planned) -> Record:
    """The record of a cell, whatever happens in it; an interrupt still ends the run."""
    work = item.folder.with_name(f".{item.folder.name}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        record = compute(context, item, work)
    except Exception as error:
        (work / "error.txt").write_text(traceback.format_exc())
        record = record_of(context, item, status="failed", error=f"{type(error).__name__}: {error}")
    records.write(record, work)
    shutil.rmtree(item.folder, ignore_errors=True)
    work.rename(item.folder)
    return record


def _cell_info(context: Context, cell: Cell, model: dict[str, Any]) -> CellInfo:
    objective = None
    if cell.objective is not None:
        settings = objectives.complete(cell.objective.name, cell.objective.settings)
        objective = {"name": cell.objective.name, **settings}
    return CellInfo(
        benchmark=context.benchmark.describe(),
        model=model,
        objective=objective,
        seed=cell.seed,
        train=None if cell.objective is None else context.suite.train_of(cell.objective).model_dump(mode="json"),
        sample=context.suite.sample.model_dump(mode="json"),
        score=context.suite.score,
    )
