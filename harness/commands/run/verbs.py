"""The verbs that run suites. Thin: each imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from harness.commands.options import (
    AllowOption,
    DataOption,
    DeviceOption,
    FolderArgument,
    QuietOption,
    SuiteArgument,
    TrustOption,
)
from harness.errors import ConfigError
from harness.system.terminal import shows

SET_HELP = "Another value than the suite's: train.steps=20, seeds=[0], objectives.LABEL.weight=3; again for more."


def run(
    suite: SuiteArgument,
    output: Annotated[Optional[str], typer.Option(help="Folder or URL (s3://...); default: runs/SUITE.")] = None,  # noqa: UP045
    data: DataOption = None,
    device: DeviceOption = "auto",
    only: Annotated[Optional[str], typer.Option(help="Cells to run, e.g. '*-ce-*'.")] = None,  # noqa: UP045
    seeds: Annotated[Optional[str], typer.Option(help="Instead of the suite's, e.g. 0,1.")] = None,  # noqa: UP045
    changes: Annotated[Optional[list[str]], typer.Option("--set", help=SET_HELP)] = None,  # noqa: UP045
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the cells and their cost.")] = False,
    on: Annotated[Optional[str], typer.Option(help="With --dry-run: the cost on a100, h100, h200.")] = None,  # noqa: UP045
    jobs: Annotated[str, typer.Option(help="Cells at a time, in processes that share GPUs and cores.")] = "auto",
    snapshot_every: Annotated[str, typer.Option(help="Time (10m) or steps (50) between states to go on from.")] = "10m",
    workers: Annotated[Optional[int], typer.Option(min=0, help="Threads reading ahead; 0: read when needed.")] = None,  # noqa: UP045
    profile: Annotated[bool, typer.Option("--profile", help="Where the time goes; slows a GPU down.")] = False,
    track: Annotated[Optional[Literal["tensorboard", "wandb", "trackio"]], typer.Option(help="Also log there.")] = None,  # noqa: UP045
    executor: Annotated[Literal["local", "ray"], typer.Option(help="ray: each cell is a task on a cluster.")] = "local",
    ray_address: Annotated[Optional[str], typer.Option(help="host:port; default: a cluster of this machine.")] = None,  # noqa: UP045
    allow: AllowOption = None,
    trust_remote_code: TrustOption = None,
    quiet: QuietOption = False,
    worker: Annotated[Optional[float], typer.Option(hidden=True)] = None,  # noqa: UP045
) -> None:
    """Run a benchmark suite and print its table. Finished cells are not run again, and a run that was stopped goes on
    where it was. Several runs of one suite on one folder share its cells, on several machines too.
    """
    from harness.commands.run import option_checks
    from harness.run.interval import CheckpointInterval
    from harness.suite import load
    from harness.suite.permissions import Permissions

    asked_for = option_checks.number_of_jobs(jobs)
    option_checks.require_executor(executor, ray_address, asked_for)
    CheckpointInterval.of(snapshot_every)
    if on is not None and not dry_run:
        raise ConfigError("--on: expected with --dry-run: cells are run on this machine")
    if dry_run:
        option_checks.require_one_process("--dry-run")
        option_checks.require_device(on)
    if track is not None:
        from harness.run import trackers

        trackers.require(track)
    chosen = load.load(suite, Permissions.of(allow, trust_remote_code), changes or ())
    if seeds is not None:
        chosen = load.with_seeds(chosen, seeds)
    from harness.run.output import mirror as mirrors

    folder, mirror = mirrors.opened(output or f"runs/{chosen.suite}")
    if asked_for is None and executor == "local" and not dry_run:
        from harness.run.executors.jobs import choose_jobs

        asked_for = choose_jobs(chosen, folder, only, device)
    # What a user may have mistyped is told by now: what follows imports torch, which takes seconds.
    from harness.commands import console
    from harness.commands.run import launch, plan
    from harness.run.context import open_context

    if dry_run:
        plan.show_plan(replace(open_context(chosen, data, device), snapshot_every=snapshot_every), folder, only, on)
        return
    context = {"snapshot_every": snapshot_every, "profile": profile, "track": track}
    context |= {} if workers is None else {"workers": workers}
    options = launch.RunOptions(
        chosen, folder, data, device, only, quiet, context, mirror, worker=worker, ray_address=ray_address
    )
    if executor == "ray":
        code = launch.on_cluster(options)
    elif asked_for is not None and asked_for > 1 and worker is None:
        code = launch.workers(options, asked_for)
    else:
        code = launch.here(options)
    if mirror is not None and shows():
        mirror.send()
    if only is None and worker is None and code != 2 and shows():
        console.show_summary(folder)
        if profile:
            console.show_profile(folder)
        if track is not None:
            from harness.run import tracked_report

            tracked_report.send_report(track, chosen.suite, folder)
    raise typer.Exit(code)


def schema_(
    page: Annotated[bool, typer.Option("--page", help="As docs/reference/suite.md has it, for people.")] = False,
) -> None:
    """Print the JSON Schema of a suite file, with which an editor completes and checks it."""
    if page:
        from harness.commands.suites.page import suite_page

        print(suite_page(), end="")
    else:
        from harness.commands.suites.schema import as_text

        print(as_text(), end="")


def status_(
    folder: FolderArgument,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Every cell of a run: its state, how far it is, who computes it, time left, last error."""
    from harness.commands import console
    from harness.run.output import mirror, status

    report = status.read(mirror.local(folder))
    if as_json:
        print(json.dumps(status.to_json(report), indent=1))
    else:
        console.show_status(report)


def clean_(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    weights: Annotated[bool, typer.Option("--weights", help="Fine-tuned weights too; no table needs them.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it, do not ask.")] = False,
) -> None:
    """List what a run's folder holds that no record needs, and remove it with --yes or when told so."""
    from harness.commands import console
    from harness.run.output import clean

    leftovers = clean.find(folder, weights)
    if not leftovers:
        print("nothing to remove")
        return
    console.show_leftovers(leftovers, folder)
    if yes or (sys.stdin.isatty() and typer.confirm("remove?")):
        print(f"{clean.remove(folder, leftovers) / 2**20:.2f} MiB removed")
    elif not sys.stdin.isatty():
        print("nothing removed; --yes removes it")


def budget(
    suite: SuiteArgument,
    steps: Annotated[int, typer.Option(min=1, help="How far to train.")] = 1000,
    every: Annotated[int, typer.Option(min=1, help="Measure every so many steps.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Not one of the suite's.")] = 1000,
    data: DataOption = None,
    device: DeviceOption = "auto",
    allow: AllowOption = None,
    trust_remote_code: TrustOption = None,
) -> None:
    """Held-out loss of CE along training, without sampling: how a suite's number of steps is fixed."""
    from harness.suite import load
    from harness.suite.permissions import Permissions

    chosen = load.load(suite, Permissions.of(allow, trust_remote_code))
    from harness.commands.run.budget import heldout_curve  # torch, which takes seconds
    from harness.run.context import open_context

    context = open_context(chosen, data, device)
    curve = heldout_curve(context, steps, every, seed)
    print("step,heldout_nll")
    for step, nll in curve:
        print(f"{step},{nll:.4f}")
