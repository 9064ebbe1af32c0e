"""How `detmodes run` computes the cells: in this process, or in several."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness import console, files, jobs, runner, status
from harness.context import Device, open_context
from harness.errors import DataError
from harness.interrupts import Interrupted
from harness.records import Record
from harness.suite import Suite


def here(
    suite: Suite,
    folder: Path,
    data: Path | None,
    device: Device,
    only: str | None,
    snapshot_every: int,
    quiet: bool,
    worker: float | None,
) -> int:
    """The exit code of a run in this process. worker: it is one of --jobs, of a run that began at this time."""
    if worker is not None:
        jobs.stop_with_parent()
    try:
        with console.progress(quiet) as watch:
            context = open_context(suite, data, device, watch)
            context.snapshot_every = snapshot_every
            records = runner.run(context, folder, only, worker)
    except KeyboardInterrupt:  # between two cells, or for the second time
        raise Interrupted(signal.SIGINT) from None
    return _told(records)


def _told(records: Sequence[Record]) -> int:
    """The exit code, after a line for each cell that has failed."""
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        cell = f"{record.model_label}-{record.label}-s{record.cell.seed}"
        print(f"detmodes: cell {cell} failed: {record.error}", file=sys.stderr)
    return 1 if failed else 0


def workers(count: int, folder: Path, device: str, quiet: bool) -> int:
    """The exit code of the workers, each of which is this command line with one job."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [*sys.argv[1:], "--jobs", "1", "--quiet", "--worker", str(files.clock(folder)), "--output", str(folder)]
    with console.overview(quiet) as show:

        def look() -> None:
            with suppress(DataError):  # no worker has begun
                show(status.read(folder))

        ended = jobs.run(arguments, count, jobs.visible_gpus(device), look)
    for line in jobs.messages(ended):
        print(line, file=sys.stderr)
    return jobs.exit_code(ended)
