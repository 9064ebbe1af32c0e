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

from pathlib import Path

SUITE = "suite.json"
DIGESTS = "cells.json"
CELLS = "cells"
LOCKS = "locks"
PROGRESS = "progress"
PROFILE = "profile"
TRACKERS = "trackers"
ESTIMATES = "estimates"
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
