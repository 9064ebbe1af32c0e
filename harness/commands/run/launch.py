"""How `detmodes run` computes the cells: in this process, or in several."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import records
from harness.commands import console
from harness.commands.run.option_checks import require_one_process
from harness.errors import ConfigError, DataError
from harness.inference.device import Device
from harness.records import Record
from harness.run import runner, tuning
from harness.run.context import Planned, open_context
from harness.run.executors import processes, ray_cluster
from harness.run.output import status
from harness.run.output.mirror import Mirror, SendingWatch
from harness.suite.schema import Suite
from harness.system import files, ranks
from harness.system.interrupts import Interrupted
from harness.system.terminal import shows


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a user asks of `detmodes run`. context: fields of the Context of every cell. mirror: of a folder at a URL.
    worker: this is one of --jobs, of a run that began at this time. ray_address: of the cluster, if there is one."""

    suite: Suite
    folder: Path
    data: Path | None
    device: Device
    only: str | None
    quiet: bool
    context: Mapping[str, Any]
    mirror: Mirror | None = None
    worker: float | None = None
    ray_address: str | None = None


def here(options: RunOptions) -> int:
    """Runs the suite in this process; returns the exit code."""
    worker, mirror = options.worker, options.mirror
    if worker is not None:
        processes.stop_with_parent()
    try:
        with console.progress(options.quiet or not shows(), bars=worker is None) as watch:
            told = watch if mirror is None else SendingWatch(watch, mirror)
            context = open_context(options.suite, options.data, options.device, told)
            context = replace(context, **options.context)
            run = partial(tuning.run, context, options.folder, options.only, worker)
            records = ranks.make_on_all(context.accelerator, run)
            ranks.leave(context.accelerator)
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


def workers(options: RunOptions, count: int) -> int:
    """Runs the suite by so many workers, each of which is this command line with one job; returns the exit code."""
    folder, mirror = options.folder, options.mirror
    require_one_process("--jobs")
    folder.mkdir(parents=True, exist_ok=True)
    options_of_worker = ["--jobs", "1", "--worker", str(files.clock(folder)), "--output", str(folder)]
    arguments = with_options(sys.argv[1:], options_of_worker)
    with console.overview(options.quiet) as show:

        def look() -> None:
            with suppress(DataError):  # no worker has begun
                show(status.read(folder))
            if mirror is not None:
                mirror.send_or_warn()

        ended = processes.run(arguments, count, processes.visible_gpus(options.device), look)
    for line in processes.messages(ended):
        print(line, file=sys.stderr)
    return processes.exit_code(ended)


def with_options(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """Returns a command line with further options, which win over those that it has: behind `--` there are none."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [*arguments[:end], *options, *arguments[end:]]


def on_cluster(options: RunOptions) -> int:
    """Runs the suite on a Ray cluster; returns the exit code."""
    suite, data, mirror = options.suite, options.data, options.mirror
    if suite.tune is not None:
        raise ConfigError("tune: expected --executor local: a cluster's tasks are the cells of a suite that is tuned")
    device = ray_cluster.device_of(options.device, suite.resources)
    folder = options.folder.absolute()
    try:
        context = open_context(suite, data, "cpu")  # only workers compute
        runner.require_possible(context)
        planned = runner.plan(context, folder)
        chosen = runner.matching(planned, options.only)
        runner.announce(context, folder, planned)
        if mirror is not None:
            mirror.send()
        since = files.clock(folder)
        order = ray_cluster.Order(
            suite=suite.model_dump_json(),
            output=str(folder) if mirror is None else mirror.url,
            data=None if data is None else str(data.absolute()),
            device=device,
            since=since if mirror is None else None,
            options=options.context,
        )
        todo = [item for item in chosen if runner.finished(item) is None]
        with console.overview(options.quiet) as show:

            def look(ended: Sequence[Planned]) -> None:
                with suppress(DataError):  # it is tried again at the end
                    _bring(mirror, ended)
                show(status.read(folder))

            lost = ray_cluster.run(order, todo, suite.resources, options.ray_address, look) if todo else []
        _bring(mirror, todo)
    except KeyboardInterrupt:  # before the tasks were begun, or for the second time
        raise Interrupted(signal.SIGINT) from None
    for line in dict.fromkeys(map(str, lost)):
        print(f"detmodes: {line}", file=sys.stderr)
    made = [records.read_record(item.folder) for item in chosen if (item.folder / records.RECORD).is_file()]
    codes = [_told(made), *(2 if item.bad_input else 1 for item in lost)]
    return max(codes)


def _bring(mirror: Mirror | None, cells: Sequence[Planned]) -> None:
    """What workers have sent to a URL; in a shared folder it is there."""
    if mirror is not None:
        for item in cells:
            mirror.bring_cell(item.folder.name)
