"""Chooses how many cells `detmodes run` computes at a time where nobody says (`--jobs auto`).

A small model is many small operations, which a second core hardly speeds up: two cells with one core each are done long
before one cell after the other with two. Where cells are large, or there is a GPU, there is one at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from glob import escape
from pathlib import Path

from harness import registry
from harness.records import RECORD, layout
from harness.suite.cells import Cell, cells, select_cells
from harness.suite.schema import Suite
from harness.system import host

GIB = 4.0
"""Memory for each cell, GiB. A worker with a small model takes 1.1; the rest is for the annotations of a data set."""
MOST = 8
"""Cells at a time: more were never tried."""
STEPS = 200
"""Steps of training of all cells together from which on further processes are worth their start, some five seconds of
a core each."""
GPUS = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Files that are there where CUDA may be. Asking torch takes seconds."""


def choose_jobs(suite: Suite, folder: Path, only: str | None, device: str) -> int:
    """Returns how many cells to compute at a time: as many as there are cores, memory and trained cells left, but 1
    where one of the models is not small, with a GPU, and where a few steps are all that is left. Imports no torch.

    folder: of the run, whose finished cells are not computed again. only: as in `--only`; ConfigError if nothing
    matches.
    """
    everything = list(cells(suite))
    chosen = [everything[place] for place in select_cells(dict(enumerate(c.id for c in everything)), only, "--only")]
    left = [cell for cell in chosen if cell.role == "trained" and not _has_record(folder, cell)]
    in_several_processes = os.environ.get("WORLD_SIZE", "1") != "1"  # each cell is computed by all of them
    if in_several_processes or _may_use_gpu(device) or not _worth_it(suite, left):
        return 1
    if not all(registry.is_small_model(model.name, model.settings) for model in suite.models):
        return 1
    memory = host.read_free_memory()
    room = MOST if memory is None else int(memory / GIB)
    return max(1, min(len(left), host.usable_cores(), room, MOST))


def _has_record(folder: Path, cell: Cell) -> bool:
    """Tells whether there is a record of the cell, of whatever settings: they are not compared, which takes torch."""
    return any(folder.joinpath(layout.CELLS).glob(f"{escape(cell.id)}-*/{RECORD}"))


def _may_use_gpu(device: str) -> bool:
    return device == "cuda" or (device == "auto" and any(Path(file).exists() for file in GPUS))


def _worth_it(suite: Suite, left: Iterable[Cell]) -> bool:
    """Tells whether several cells are left to train, for so many steps together. An epoch counts as enough: how many
    steps it has is not known here."""
    lengths = []
    for cell in left:
        assert cell.objective is not None
        plans = suite.plans_of(cell.model, cell.objective)
        lengths.append(sum(plan.steps if plan.epochs is None else STEPS for plan in plans))
    return len(lengths) > 1 and sum(lengths) >= STEPS
