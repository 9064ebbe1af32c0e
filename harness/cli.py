"""The verbs. Thin: each imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Optional

import typer

from harness import cli_speed
from harness.errors import ConfigError, DetmodesError
from harness.interrupts import Deserted, Stopped
from harness.screen import shows

app = typer.Typer(
    help="Fine-tune vision-language models as object detectors; report AP beside per-category output diversity.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_speed.app, name="speed")

SuiteArgument = Annotated[str, typer.Argument(help="Path of a suite file, or the name of a shipped suite.")]
FolderArgument = Annotated[str, typer.Argument(help="Output folder of a run (or one under results/), or its URL.")]
DataOption = Annotated[Optional[Path], typer.Option(help="Folder of a data set on disk.")]  # noqa: UP045
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress, only results and errors.")]


def main() -> None:
    """Entry point: an error for the user is one line per problem on stderr, and exit code 2."""
    try:
        app()
    except DetmodesError as error:
        problems = error.problems if isinstance(error, ConfigError) else (str(error),)
        _refuse(*(" ".join(problem.split()) for problem in problems))
    except Stopped as stop:
        if str(stop) and (shows() or isinstance(stop, Deserted)):
            print(f"detmodes: {stop}", file=sys.stderr)
        sys.exit(stop.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # inside a cell it would be in that cell's record: this is about a path that was given
        if error.filename is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}; expected a place to read or write")


def _refuse(*problems: str) -> NoReturn:
    """Exit code 2. Of several processes that compute together all find the problems, and one says them: whoever started
    them ends all as soon as one has ended, so the others wait for that."""
    if not shows():
        time.sleep(10)
    for problem in problems if shows() else ():
        print(f"detmodes: {problem}", file=sys.stderr)
    sys.exit(2)


@app.command()
def run(
    suite: SuiteArgument,
    output: Annotated[Optional[str], typer.Option(help="Folder or URL (s3://...); default: runs/SUITE.")] = None,  # noqa: UP045
    data: DataOption = None,
    device: DeviceOption = "auto",
    only: Annotated[Optional[str], typer.Option(help="Cells to run, e.g. '*-ce-*'.")] = None,  # noqa: UP045
    seeds: Annotated[Optional[str], typer.Option(help="Instead of the suite's, e.g. 0,1.")] = None,  # noqa: UP045
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the cells and their cost.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at a time, in processes that share GPUs and cores.")] = 1,
    snapshot_every: Annotated[int, typer.Option(min=1, help="Steps between two snapshots to go on from.")] = 50,
    workers: Annotated[Optional[int], typer.Option(min=0, help="Threads reading ahead; 0: read when needed.")] = None,  # noqa: UP045
    profile: Annotated[bool, typer.Option("--profile", help="Where the time goes; slows a GPU down.")] = False,
    track: Annotated[Optional[Literal["tensorboard", "wandb", "trackio"]], typer.Option(help="Also log there.")] = None,  # noqa: UP045
    executor: Annotated[Literal["local", "ray"], typer.Option(help="ray: each cell is a task on a cluster.")] = "local",
    ray_address: Annotated[Optional[str], typer.Option(help="host:port; default: a cluster of this machine.")] = None,  # noqa: UP045
    quiet: QuietOption = False,
    worker: Annotated[Optional[float], typer.Option(hidden=True)] = None,  # noqa: UP045
) -> None:
    """Run a benchmark suite and print its table. Finished cells are not run again, and a run that was stopped goes on
    where it was. Several runs of one suite on one folder share its cells, on several machines too.
    """
    from harness import console, launch, remote, suite_files, trackers
    from harness.context import open_context

    chosen = suite_files.load(suite)
    if seeds is not None:
        chosen = suite_files.with_seeds(chosen, seeds)
    launch.require_executor(executor, ray_address, jobs)
    folder, mirror = remote.opened(output or f"runs/{chosen.suite}")
    if dry_run:
        launch.require_one_process("--dry-run")
        console.show_plan(open_context(chosen, data, device), folder, only)
        return
    if track is not None:
        trackers.require(track)
    options = {"snapshot_every": snapshot_every, "profile": profile, "track": track}
    options |= {} if workers is None else {"workers": workers}
    if executor == "ray":
        code = launch.on_cluster(chosen, folder, data, device, only, quiet, ray_address, options, mirror)
    elif jobs > 1 and worker is None:
        code = launch.workers(jobs, folder, device, quiet, mirror)
    else:
        code = launch.here(chosen, folder, data, device, only, quiet, worker, options, mirror)
    if mirror is not None and shows():
        mirror.send()
    if only is None and worker is None and code != 2 and shows():
        console.show_report(folder)
        if profile:
            console.show_profile(folder)
    raise typer.Exit(code)


@app.command(name="status")
def status_(
    folder: FolderArgument,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Every cell of a run: its state, how far it is, who computes it, time left, last error."""
    from harness import console, remote, status

    found = status.read(remote.local(folder))
    if as_json:
        print(json.dumps(status.to_json(found), indent=1))
    else:
        console.show_status(found)


@app.command(name="clean")
def clean_(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    weights: Annotated[bool, typer.Option("--weights", help="Fine-tuned weights too; no table needs them.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it, do not ask.")] = False,
) -> None:
    """List what a run's folder holds that no record needs, and remove it with --yes or when told so."""
    from harness import clean, console

    leftovers = clean.find(folder, weights)
    if not leftovers:
        print("nothing to remove")
        return
    console.show_leftovers(leftovers, folder)
    if yes or (sys.stdin.isatty() and typer.confirm("remove?")):
        print(f"{clean.remove(folder, leftovers) / 2**20:.2f} MiB removed")
    elif not sys.stdin.isatty():
        print("nothing removed; --yes removes it")


@app.command()
def report(
    folder: FolderArgument,
    format: Annotated[
        Literal["console", "md", "latex", "csv", "html"], typer.Option(help="On the screen, or as a text on stdout.")
    ] = "console",
    figures: Annotated[Optional[Path], typer.Option(help="Also draw the figures into this folder.")] = None,  # noqa: UP045
) -> None:
    """Tables, verdicts and figures of the records in a folder: text, a LaTeX document, or a page for the browser."""
    from harness import console, remote
    from harness import figures as drawing

    place = remote.local(folder)
    results = console.show_report(place, per_category=True) if format == "console" else console.write(place, format)
    if figures is not None:
        for path in drawing.draw(results, figures):
            print(path, file=sys.stderr)


@app.command()
def codebook(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    cell: Annotated[Optional[str], typer.Option(help="Cells to look at, e.g. '*-ce-*'.")] = None,  # noqa: UP045
    format: Annotated[
        Literal["console", "md", "csv", "json"], typer.Option(help="On the screen, or as a text on stdout.")
    ] = "console",
    data: DataOption = None,
) -> None:
    """How often each kind of error occurs in a run's answers, by row and category: greedy answers and samples."""
    from harness import console

    console.show_codebook(folder, cell, format, data)


@app.command()
def pairs(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    only: Annotated[Optional[str], typer.Option(help="Cells to look at, e.g. '*-dpo-*'.")] = None,  # noqa: UP045
    images: Annotated[int, typer.Option(min=1, help="How many images of each.")] = 12,
    output: Annotated[Optional[Path], typer.Option(help="Draw them: FILE.html, or FILE.png for one cell.")] = None,  # noqa: UP045
    data: DataOption = None,
) -> None:
    """The pairs of sequences that preference stages were trained on: chosen, rejected, rewards; as text, or drawn."""
    from harness import pair_pictures

    sys.stdout.write(pair_pictures.show(folder, only, images, output, data))


@app.command()
def publish(
    folder: FolderArgument,
    to: Annotated[Path, typer.Option(help="Where to, e.g. results/quickstart.")],
    allow_failed: Annotated[bool, typer.Option("--allow-failed", help="Publish failed cells as failed.")] = False,
) -> None:
    """Copy records that belong together, and regenerate every table and figure from them."""
    from harness import remote
    from harness.publish import publish as publish_folder

    for line in publish_folder(remote.local(folder), to, allow_failed):
        print(line)
    print(to)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Annotated[str, typer.Option(help="A model's name (its shipped base), or the folder of a cell.")],
    samples: Annotated[int, typer.Option(min=0, help="Samples beside the greedy answer.")] = 4,
    temperature: Annotated[float, typer.Option(min=0.01)] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    draw: Annotated[Optional[Path], typer.Option(help="Draw the boxes into this folder.")] = None,  # noqa: UP045
) -> None:
    """Print (and draw) what a model sees: its greedy answer and K samples."""
    from harness import predict as prediction

    for seen in prediction.predict(images, model, samples, temperature, seed):
        print(prediction.as_text(seen))
        if draw is not None:
            print(f"  drawn to {prediction.draw(seen, draw)}")


@app.command()
def budget(
    suite: SuiteArgument,
    steps: Annotated[int, typer.Option(min=1, help="How far to train.")] = 1000,
    every: Annotated[int, typer.Option(min=1, help="Measure every so many steps.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Not one of the suite's.")] = 1000,
    data: DataOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Held-out loss of CE along training, without sampling: how a suite's number of steps is fixed."""
    from harness import suite_files
    from harness.budget import heldout_curve
    from harness.context import open_context

    context = open_context(suite_files.load(suite), data, device)
    curve = heldout_curve(context, steps, every, seed)
    print("step,heldout_nll")
    for step, nll in curve:
        print(f"{step},{nll:.4f}")


@app.command()
def pretrain(
    output: Annotated[Path, typer.Option(help="Folder for stages, log and weights; an interrupted run goes on.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    install: Annotated[bool, typer.Option("--install", help="Replace the shipped weights by the result.")] = False,
) -> None:
    """Pretrain the tiny base on `plain` shapes from scratch (evaluate it with: detmodes run base)."""
    from harness import registry

    registry.resolve("model_zoo.pretrain_flamingo:command")(output, seed, install)


@app.command()
def evaluate(
    annotations: Annotated[Path, typer.Option(help="Annotation file: LVIS v0.5 or v1, or COCO.")],
    detections: Annotated[Path, typer.Option(help="Results file: .json, .parquet or .npz.")],
    protocol: Annotated[
        Literal["lvis", "lvis-fixed", "coco"], typer.Option(help="lvis-fixed: no cap an image, 10,000 a category.")
    ] = "lvis",
    engine: Annotated[
        Literal["fast", "lvis", "pycocotools"], typer.Option(help="fast, or the protocol's reference: same figures.")
    ] = "fast",
    output: Annotated[Optional[Path], typer.Option(help="Write everything here, as JSON.")] = None,  # noqa: UP045
    per_category: Annotated[Optional[Path], typer.Option(help="Write the table by category here, as CSV.")] = None,  # noqa: UP045
    bootstrap: Annotated[Optional[int], typer.Option(min=10, help="Replicates for 95% intervals, e.g. 1000.")] = None,  # noqa: UP045
    compare: Annotated[Optional[Path], typer.Option(help="Other detections: figures, difference.")] = None,  # noqa: UP045
    plots: Annotated[Optional[Path], typer.Option(help="Draw the reliability diagram into this folder.")] = None,  # noqa: UP045
    diagnostics: Annotated[bool, typer.Option(help="What ails generative detectors; costs 25 evaluations.")] = True,
    quiet: QuietOption = False,
) -> None:
    """Official figures of a detections file, with intervals, errors and diagnostics."""
    from harness import registry

    registry.resolve("benchmarks.evaluation:command")(
        quiet,
        annotations=annotations,
        detections=detections,
        protocol=protocol,
        engine=engine,
        output=output,
        per_category=per_category,
        bootstrap=bootstrap,
        compare=compare,
        plots=plots,
        diagnose=diagnostics,
    )


@app.command()
def measure(
    samples: Annotated[Path, typer.Argument(help="JSON Lines, one sample a line, or the folder of a cell.")],
    annotations: Annotated[Path, typer.Option(help="Annotation file of the sampled images: LVIS v0.5 or v1, or COCO.")],
    protocol: Annotated[Literal["lvis", "coco"], typer.Option(help="Style of the annotations, and of AP.")] = "lvis",
    step: Annotated[Optional[int], typer.Option(min=0, help="Of a cell: this step, not the last.")] = None,  # noqa: UP045
    temperature: Annotated[Optional[float], typer.Option(help="Only this one; default: all, as a curve.")] = None,  # noqa: UP045
    bootstrap: Annotated[Optional[int], typer.Option(min=10, help="Replicates for 95% intervals, e.g. 1000.")] = None,  # noqa: UP045
    output: Annotated[Optional[Path], typer.Option(help="Write everything here, as JSON.")] = None,  # noqa: UP045
    per_category: Annotated[Optional[Path], typer.Option(help="Write the table by category here, as CSV.")] = None,  # noqa: UP045
    per_image: Annotated[Optional[Path], typer.Option(help="Write the table by image here, as CSV.")] = None,  # noqa: UP045
    quiet: QuietOption = False,
) -> None:
    """Diversity of anyone's samples from any model, and AP of their consensus beside the greedy answer's."""
    from harness import registry

    registry.resolve("benchmarks.measuring:command")(
        quiet,
        samples=samples,
        annotations=annotations,
        protocol=protocol,
        step=step,
        temperature=temperature,
        bootstrap=bootstrap,
        output=output,
        per_category=per_category,
        per_image=per_image,
    )


@app.command()
def check_data(
    name: Annotated[str, typer.Argument(help="lvis, lvis-v1-val, lvis-v1-minival, lvis-v0.5-val or coco-val2017.")],
    data: Annotated[Optional[Path], typer.Option(help="Default: the environment variable DETMODES_DATA.")] = None,  # noqa: UP045
    images: Annotated[int, typer.Option(min=0, help="How many pictures of each split to decode.")] = 50,
) -> None:
    """Verify a data folder: files, counts, pictures, boxes. What is missing comes with where to get it."""
    from harness import registry

    raise typer.Exit(registry.resolve("benchmarks.check_data:command")(name, data, images))


@app.command()
def check_adapter(
    name: Annotated[str, typer.Argument(help="A model's name, as in a suite file.")],
    settings: Annotated[Optional[list[str]], typer.Option("--set", help="KEY=VALUE in YAML; again for more.")] = None,  # noqa: UP045
    device: DeviceOption = "cpu",
) -> None:
    """Whether a model keeps what the harness relies on: no data, no download. Exit code 1 if it does not."""
    from harness.conformance import command

    raise typer.Exit(command.check(name, settings or [], device))


@app.command()
def new_adapter(
    name: Annotated[str, typer.Argument(help="Of the model and its module: a Python identifier.")],
    to: Annotated[Optional[Path], typer.Option(help="Folder; default: detmodes-NAME, here.")] = None,  # noqa: UP045
) -> None:
    """Write the skeleton of a model adapter, as a package to install, and its test. Replaces nothing."""
    from harness import skeleton

    for path in skeleton.write(name, to or skeleton.default_folder(name)):
        print(path)


@app.command(name="list")
def list_(
    kind: Annotated[Literal["models", "benchmarks", "objectives", "suites"], typer.Argument()],
) -> None:
    """What there is to name in a suite file."""
    from harness import listing

    listing.show(kind)


if __name__ == "__main__":
    main()
