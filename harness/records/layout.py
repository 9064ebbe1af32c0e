"""Where things are in the output folder of a run.

    DIR/suite.json, DIR/cells.json   the suite, resolved, and the digests of its cells (see harness.report.results)
    DIR/cells/<cell>/                a finished or cleanly failed cell (see harness.records.record)
    DIR/cells/.<cell>/               a cell in progress: only the owner of its lock touches it
    DIR/cells/.<cell>/resume/        what only going on with it needs
    DIR/locks/<cell>/                who computes it (see harness.system.locks)
    DIR/progress/<cell>.json         how far it is (see harness.run.output.progress)
    DIR/profile/<cell>.json          where its time went (see harness.system.profiler)
    DIR/trackers/<cell>/             what its tracker writes (see harness.run.trackers)
    DIR/estimates/<cell>/            what reports computed from it (see harness.report.estimates_cache)

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
    """The folder of a finished or failed cell."""
    return output / CELLS / f"{cell_id}-{digest[:8]}"


def beside(cell: Path, what: str, suffix: str = "") -> Path:
    """What PROFILE or TRACKERS has of a cell."""
    return cell.parents[1] / what / f"{cell.name}{suffix}"


def work(cell: Path) -> Path:
    """The folder of that cell while it is computed."""
    return cell.with_name(f".{cell.name}")
