"""Defines where things are in the output folder of a run.

    DIR/suite.json, DIR/cells.json   the suite, resolved, and the digests of its cells (see harness.report.results)
    DIR/cells/<cell>/                a finished or cleanly failed cell (see harness.records.record)
    DIR/cells/.<cell>/               a cell in progress: only the owner of its lock changes it
    DIR/cells/.<cell>/resume/        files that are needed only to resume it
    DIR/locks/<cell>/                the process that computes it (see harness.system.locks)
    DIR/progress/<cell>.json         its progress (see harness.run.output.progress)
    DIR/profile/<cell>.json          its time by phase (see harness.system.profiler)
    DIR/trackers/<cell>/             files of its tracker (see harness.run.trackers)
    DIR/estimates/<cell>/            cached results of reports (see harness.report.estimates_cache)

<cell> is the cell's id and the first 8 digits of its digest.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import DataError

SUITE = "suite.json"
DIGESTS = "cells.json"
CELLS = "cells"
LOCKS = "locks"
PROGRESS = "progress"
PROFILE = "profile"
TRACKERS = "trackers"
ESTIMATES = "estimates"
GALLERY = "gallery"
ARCHIVE = "archive"
TUNING = "tuning.json"
TRIALS = "tuning"
"""The output folder of the trials, in that of the run."""
RESUME = "resume"
ERROR = "error.txt"
"""The traceback of a failed cell, in its folder."""


def cell(output: Path, cell_id: str, digest: str) -> Path:
    """Returns the folder of a finished or failed cell."""
    return output / CELLS / f"{cell_id}-{digest[:8]}"


def beside(cell: Path, what: str, suffix: str = "") -> Path:
    """Returns the place of a cell in PROFILE or TRACKERS."""
    return cell.parents[1] / what / f"{cell.name}{suffix}"


def work(cell: Path) -> Path:
    """Returns the folder of the cell while it is computed."""
    return cell.with_name(f".{cell.name}")


WITHIN = (CELLS, GALLERY, ARCHIVE, ESTIMATES)
"""Folders whose content is read, published and sent."""
NAMES = (SUITE, DIGESTS, TUNING, *WITHIN, LOCKS, PROGRESS, PROFILE, TRACKERS, TRIALS)


def require_no_links(output: Path, work: bool = False) -> None:
    """DataError where the output folder of a run holds a link, which may lead anywhere: what is published or sent would
    then be a file of somebody else, and what is removed too. The folder itself may be one.

    work: look into the folders of cells in progress as well.
    """
    links = [output / name for name in NAMES if (output / name).is_symlink()]
    for name in WITHIN:
        for place, folders, names in os.walk(output / name):  # goes into no link
            folders[:] = [folder for folder in folders if work or not folder.startswith(".")]
            links += [path for path in map(Path(place).joinpath, (*folders, *names)) if path.is_symlink()]
            if links:
                break
    if links:
        raise DataError(
            f"{links[0]}: is a link, and what it leads to is not read as a part of the run; put that in its place "
            f"(the whole of {output} may be a link)"
        )


def require_no_link(path: Path) -> None:
    """DataError where a file of a cell is a link: it is none that a run has written."""
    if path.is_symlink():
        raise DataError(f"{path}: is a link, and what it leads to is not read as a part of the run")
