"""The verbs. Thin: each imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from harness.errors import ConfigError, DetmodesError

app = typer.Typer(
    help="Fine-tune vision-language models as object detectors; report AP beside per-category output diversity.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SuiteArgument = Annotated[str, typer.Argument(help="Path of a suite file, or the name of a shipped suite.")]
DataOption = Annotated[Optional[Path], typer.Option(help="Folder of a data set on disk.")]  # noqa: UP045
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress, only results and errors.")]


def main() -> None:
    """Entry point: an error for the user is one line per problem on stderr, and exit code 2."""
    try:
        app()
    except DetmodesError as error:
        problems = error.problems if isinstance(error, ConfigError) else (str(error),)
        for problem in problems:
            print(f"detmodes: {' '.join(problem.split())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # inside a cell it would be in that cell's record: this is about a path that was given
        if error.filename is None:
            raise
        print(f"detmodes: {error.filename}: {error.strerror}; expected a place to read or write", file=sys.stderr)
        sys.exit(2)


@app.command()
def run(
    suite: SuiteArgument,
    output: Annotated[Optional[Path], typer.Option(help="Default: runs/SUITE.")] = None,  # noqa: UP045
    data: DataOption = None,
    device: DeviceOption = "auto",
    only: Annotated[Optional[str], typer.Option(help="Cells to run, e.g. '*-ce-*'.")] = None,  # noqa: UP045
    seeds: Annotated[Optional[str], typer.Option(help="Instead of the suite's, e.g. 0,1.")] = None,  # noqa: UP045
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the cells and their cost.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Run a benchmark suite and print its table. Finished cells are not run again."""
    from harness import console, runner
    from harness import suite as suites

    chosen = suites.load(suite)
    if seeds is not None:
        chosen = suites.with_seeds(chosen, seeds)
    folder = output or Path("runs") / chosen.suite
    if dry_run:
        console.show_plan(runner.open_context(chosen, data, device), folder, only)
        return
    with console.progress(quiet) as watch:
        context = runner.open_context(chosen, data, device, watch)
        records = runner.run(context, folder, only)
    failed = [record for record in records if record.status == "failed"]
    if only is None:
        console.show_report(folder)
    for record in failed:
        print(
            f"detmodes: cell {record.model_label}-{record.label}-s{record.cell.seed} failed: {record.error}",
            file=sys.stderr,
        )
    raise typer.Exit(1 if failed else 0)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run, or a folder under results/.")],
    format: Annotated[Literal["console", "md", "csv"], typer.Option(help="Table on the screen, or text.")] = "console",
    figures: Annotated[Optional[Path], typer.Option(help="Also draw the figures into this folder.")] = None,  # noqa: UP045
) -> None:
    """Tables, verdicts and figures of the records in a folder."""
    from harness import console
    from harness import figures as drawing
    from harness import report as reports

    if format == "console":
        results = console.show_report(folder)
    else:
        results = reports.load(folder)
        sys.stdout.write(reports.to_markdown(results) if format == "md" else reports.to_csv(results))
    if figures is not None:
        for path in drawing.draw(results, figures):
            print(path, file=sys.stderr)


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    to: Annotated[Path, typer.Option(help="Where to, e.g. results/quickstart.")],
    allow_failed: Annotated[bool, typer.Option("--allow-failed", help="Publish failed cells as failed.")] = False,
) -> None:
    """Copy records that belong together, and regenerate every table and figure from them."""
    from harness.publish import publish as publish_folder

    publish_folder(folder, to, allow_failed)
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
    from harness import runner
    from harness import suite as suites
    from harness.budget import heldout_curve

    context = runner.open_context(suites.load(suite), data, device)
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


@app.command(name="list")
def list_(
    kind: Annotated[Literal["models", "benchmarks", "objectives", "suites"], typer.Argument()],
) -> None:
    """What there is to name in a suite file."""
    from harness import console

    console.show_list(kind)


if __name__ == "__main__":
    main()
