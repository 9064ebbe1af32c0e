"""Runs the cells of a suite: order, cache, one record each.

A cell is computed in a hidden folder and renamed into place when its record is complete: whatever is visible under
`cells/` has finished or has failed cleanly. A finished cell is never run again. The hidden folder outlives its
process, and the next process that runs the cell resumes from its content.
"""

from __future__ import annotations

import copy
import json
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

from harness import objectives, records, registry
from harness.errors import ConfigError, DataError, DetmodesError, StageError
from harness.protocols import Adapter, Predictor
from harness.records import CellInfo, Record, gallery, layout
from harness.run import lengths
from harness.run.cell import compute, record_of
from harness.run.context import Context, Planned, build
from harness.run.identity import foreign_parts, warn_of_changes
from harness.run.output.progress import ProgressWriter, remove_progress
from harness.run.output.status import outcome
from harness.run.task import experts_of
from harness.suite.cells import Cell, cells, chains, select_cells
from harness.suite.schema import NamedModel
from harness.system import failures, files, locks, ranks
from harness.system.files import write_text
from harness.training.engines.data_parallel import require_whole_weights
from harness.training.engines.optimizer import grouped_parameters
from harness.training.finetuning import require_shares
from harness.training.stages import kinds

POLL = 1.0
"""Seconds between two checks of the cells of other processes."""
WAITING = "wait for others"


def plan(context: Context, output: Path, only: str | None = None) -> list[Planned]:
    """Plans every cell of the suite (that matches `only`), in order. ConfigError where targets or answers exceed a
    model's context, or it has no parameters for some of `train.groups`."""
    described: dict[str, dict[str, Any]] = {}
    planned, wrong = [], []
    for cell in cells(context.suite):
        key = cell.model.model_dump_json()
        if key not in described:
            made = build(context, cell.model)
            described[key] = registry.describe_model(cell.model.name, made)
            wrong += [*lengths.problems(context, cell.model, made), *group_problems(context, cell.model, made)]
        info = cell_info(context, cell, described[key], context.picture_digests)
        digest = records.digest_of(info)
        planned.append(Planned(cell, info, digest, layout.cell(output, cell.id, digest)))
    if wrong:
        raise ConfigError(*wrong)
    return matching(planned, only)


def group_problems(context: Context, model: NamedModel, made: Predictor) -> list[str]:
    """Lists the groups of parameters in the suite that a model does not have, and experts that it has no tokens
    for."""
    if not isinstance(made, Adapter):
        return []
    lines = []
    for objective in context.suite.objectives:
        try:
            grouped_parameters(made.model, context.suite.train_of(model, objective))
            experts_of(made, objective.name, objective.settings)
        except ConfigError as error:
            lines.append(f"model {model.label}: {error}")
    return list(dict.fromkeys(lines))


def matching(planned: list[Planned], only: str | None) -> list[Planned]:
    chosen = set(select_cells({item.folder: item.cell.id for item in planned}, only, "--only"))
    return [item for item in planned if item.folder in chosen]


def require_possible(context: Context) -> None:
    """Raises ConfigError where a stage of some cell cannot run, before the first stage of the first cell."""
    asked = context.questions("train", context.suite.seeds[0]) if chains(context.suite) else ()
    for objective in context.suite.objectives:
        if objective.then is not None:
            kinds.require_possible(objective.then, asked, context.accelerator)
        for model in context.suite.models:
            for stretch in context.suite.plans_of(model, objective):
                require_shares(stretch, context.accelerator.num_processes)
                require_whole_weights(stretch.ema, context.accelerator)


def run(context: Context, output: Path, only: str | None = None, since: float | None = None) -> list[Record]:
    """Runs the unfinished cells; returns a record for every planned cell, failed ones included.

    Several processes may run one suite on one folder: each takes free cells, waits at the end for the cells of the
    others, and takes over those of dead processes. since: the start of the run that this process belongs to, by the
    folder's clock; a failure recorded later belongs to this run and is not tried again.

    Two suites on one folder each make their cells; suite.json, cells.json and so the tables are those of the later
    suite.

    If several processes compute each cell (harness.system.ranks), rank 0 does all this. The others take part in
    computing, write nothing, and get no records.
    """
    require_possible(context)
    if not context.accelerator.is_main_process:
        _compute_along(context)
        return []
    records_of_run = _run_all(context, output, only, since)
    ranks.same(context.accelerator, None)
    return records_of_run


def _compute_along(context: Context) -> None:
    """Takes part in every cell that rank 0 takes, until there is none. Rank 0 reports how it ended."""
    nothing: Planned | None = None
    while (item := ranks.same(context.accelerator, nothing)) is not None:
        with suppress(Exception):
            ranks.make_on_all(context.accelerator, partial(compute, context, item, layout.work(item.folder)))


def _run_all(context: Context, output: Path, only: str | None, since: float | None) -> list[Record]:
    everything = plan(context, output)
    chosen = matching(everything, only)
    announce(context, output, everything)
    since = files.clock(output) if since is None else since
    recorder = ProgressWriter(context.watch, output)
    told = copy.copy(context)  # with the problems found so far
    told.watch = recorder
    done: dict[Path, Record] = {}
    while left := [item for item in chosen if item.folder not in done]:
        before = len(done)
        for item in left:
            taken = _take(told, recorder, item, output, since, (len(done) + 1, len(chosen)))
            if taken is not None:
                done[item.folder] = taken
        if len(done) == before:
            recorder.work(WAITING, len(done), len(chosen))
            sleep(POLL)
    return [done[item.folder] for item in chosen]


def announce(context: Context, output: Path, everything: list[Planned]) -> None:
    """Writes what the folder holds, for its readers."""
    layout.require_no_links(output, work=True)
    (output / layout.CELLS).mkdir(parents=True, exist_ok=True)
    write_text(output / layout.SUITE, context.suite.model_dump_json(indent=1) + "\n")
    gallery.write_gallery(output, context.pictures, context.benchmark.categories)
    write_text(output / layout.DIGESTS, json.dumps([item.digest for item in everything], indent=1) + "\n")


def _take(
    context: Context, recorder: ProgressWriter, item: Planned, output: Path, since: float, place: tuple[int, int]
) -> Record | None:
    """Returns the record of a cell that is done or that this process computes now; None if another process has it.

    place: its number and the number of all cells, for the watch.
    """
    done = _settled(item, since)
    if done is None:
        with locks.held(output / layout.LOCKS, item.folder.name) as lock:
            if lock is None:
                return None
            done = _settled(item, since)  # another may have finished it a moment ago
            if done is None:
                done = _run(context, recorder, item, output, place, lock)
    if done is None:
        return None
    record, state = done
    recorder.cell(item.cell, *place, state, outcome(record) if state == "finished" else "")
    return record


def _run(
    context: Context, recorder: ProgressWriter, item: Planned, output: Path, place: tuple[int, int], lock: locks.Lock
) -> tuple[Record, str] | None:
    """Computes a cell; None if another process has taken it over meanwhile."""
    warn_of_changes(item.cell, item.info, item.folder.parent)
    recorder.cell(item.cell, *place, "running")
    try:
        with recorder.during(item.folder.name, lock.check):
            record = _run_cell(context, item, lock)
    except locks.LostError:
        return None
    except Exception:  # files that the new owner has moved are missing here, which is no fault of the cell
        with suppress(locks.LostError):
            lock.check()
            raise
        return None
    remove_progress(output, item.folder.name)
    return record, record.status


def _settled(item: Planned, since: float) -> tuple[Record, str] | None:
    """Returns the record of a cell that need not be run, and whether another process of this run made it."""
    record = finished(item)
    written = records.record_time(item.folder)
    if record is not None:
        return record, "elsewhere" if written > since else "cached"
    if written > since:
        with suppress(DataError):  # damaged: it is run again
            record = records.read_record(item.folder)
            if record.status == "failed" and record.digest == item.digest:
                return record, "elsewhere"
    return None


def finished(item: Planned) -> Record | None:
    """Returns the record of a cell that is done: finished, with these settings and intact tables."""
    return _finished_in(item.folder, item, [f"{name}.parquet" for name in records.TABLES])


def _finished_in(folder: Path, item: Planned, names: Sequence[str] | None = None) -> Record | None:
    """Returns the same for any folder. names: the files that must be intact, None for all."""
    try:
        record = records.read_record(folder)
        if record.status != "finished" or record.digest != item.digest:
            return None
        records.verify_files(record, folder, list(record.files) if names is None else names)
    except DetmodesError:
        return None
    return record


def _run_cell(context: Context, item: Planned, lock: locks.Lock) -> Record:
    """Computes a cell and returns its record, also if it fails. An interrupt still ends the run, and leaves the work
    folder."""
    work = layout.work(item.folder)
    record = _finished_in(work, item)  # killed after its record was written
    if record is None:
        lock.check()
        _prepare(work, item.folder)
        record = _computed(context, item, work, lock)
        lock.check()
        for path in work.iterdir():
            files.sync(path)
        records.write_record(record, work)
    lock.check()
    _keep_only(record, work)
    lock.check()
    files.remove(item.folder)
    work.rename(item.folder)
    files.sync(item.folder.parent)
    return record


def _prepare(work: Path, failed: Path) -> None:
    """Prepares the folder for `compute`: removes unfinished files of a killed process, and restores the files of an
    attempt that failed in a later stage."""
    work.mkdir(parents=True, exist_ok=True)
    if (failed / layout.RESUME).is_dir() and not (work / layout.RESUME).exists():
        (failed / layout.RESUME).rename(work / layout.RESUME)
    for path in (work / records.RECORD, work / layout.ERROR, *files.partials(work)):
        files.remove(path)


def _computed(context: Context, item: Planned, work: Path, lock: locks.Lock) -> Record:
    ranks.same(context.accelerator, item)
    try:
        record = ranks.make_on_all(context.accelerator, partial(compute, context, item, work, lock.check))
        assert record is not None
        return record
    except locks.LostError:
        raise
    except Exception as error:
        lock.check()  # a process that lost the cell finds files missing: it must not remove those of the new owner
        if failures.is_storage(error):  # no fault of the cell: it resumes when there is room
            raise DataError(failures.explain(error, work)) from error
        if not isinstance(error, StageError):  # otherwise the training before that stage is worth keeping
            files.remove(work / layout.RESUME)
        (work / layout.ERROR).write_text(traceback.format_exc())
        return record_of(context, item, status="failed", error=failures.explain(error, work))


def _keep_only(record: Record, work: Path) -> None:
    """Removes files that only resuming needs, and those of other attempts: a finished cell has the files that its
    record names, and a failed one those from which another attempt may resume."""
    for path in work.iterdir():
        if record.status == "failed" and path.name == layout.RESUME:
            continue
        if path.is_dir() or (record.status == "finished" and path.name not in {records.RECORD, *record.files}):
            files.remove(path)


def cell_info(context: Context, cell: Cell, model: dict[str, Any], pictures: Mapping[str, str]) -> CellInfo:
    """All settings of a cell, resolved. model: as it describes itself; pictures: digests of them, split by split."""
    objective = None
    if cell.objective is not None:
        ready = objectives.ready(cell.objective.name, cell.objective.settings)
        objective = {"name": ready.name, **ready.settings}
    return CellInfo(
        benchmark=context.benchmark.describe(),
        model=model,
        objective=objective,
        seed=cell.seed,
        train=None if cell.objective is None else context.suite.described(cell.model, cell.objective),
        sample=context.suite.sample.described,
        score=context.suite.score,
        prompt=context.suite.prompt.described,
        pictures=dict(pictures),
        parts={name: part.source for name, part in foreign_parts(context.suite, cell).items()},
    )
