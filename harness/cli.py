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
speed = typer.Typer(help="Measure this machine: time and memory, side by side in one run.", no_args_is_help=True)
app.add_typer(speed, name="speed")

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
    from harness.context import open_context

    chosen = suites.load(suite)
    if seeds is not None:
        chosen = suites.with_seeds(chosen, seeds)
    folder = output or Path("runs") / chosen.suite
    if dry_run:
        console.show_plan(open_context(chosen, data, device), folder, only)
        return
    with console.progress(quiet) as watch:
        context = open_context(chosen, data, device, watch)
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
    format: Annotated[
        Literal["console", "md", "latex", "csv", "html"], typer.Option(help="On the screen, or as a text on stdout.")
    ] = "console",
    figures: Annotated[Optional[Path], typer.Option(help="Also draw the figures into this folder.")] = None,  # noqa: UP045
) -> None:
    """Tables, verdicts and figures of the records in a folder: text, a LaTeX document, or a page for the browser."""
    from harness import console
    from harness import figures as drawing

    results = console.show_report(folder, per_category=True) if format == "console" else console.write(folder, format)
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

    for line in publish_folder(folder, to, allow_failed):
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
    from harness import suite as suites
    from harness.budget import heldout_curve
    from harness.context import open_context

    context = open_context(suites.load(suite), data, device)
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


@speed.command(name="evaluation")
def speed_evaluation(
    images: Annotated[int, typer.Option(min=1)] = 19_809,
    detections_per_image: Annotated[int, typer.Option(min=1)] = 300,
    categories: Annotated[int, typer.Option(min=80)] = 1203,
    references: Annotated[bool, typer.Option(help="Also run the official APIs, on 1,000 of the images.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the generated set.")] = 0,
    output: Annotated[Optional[Path], typer.Option(help="Also write the measurements as JSON.")] = None,  # noqa: UP045
) -> None:
    """Time and peak memory of the evaluation on a generated set shaped like LVIS val, as a Markdown table."""
    from harness import registry

    measure = registry.resolve("benchmarks.speed:command")
    raise typer.Exit(measure(images, detections_per_image, categories, references, seed, output))


@speed.command(name="diversity")
def speed_diversity(
    images: Annotated[int, typer.Option(min=1)] = 20_000,
    samples: Annotated[int, typer.Option(min=2, help="Of each image.")] = 8,
    mentions: Annotated[int, typer.Option(min=1, help="Of each sample.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the generated set.")] = 0,
    output: Annotated[Optional[Path], typer.Option(help="Also write the measurements as JSON.")] = None,  # noqa: UP045
) -> None:
    """Time and peak memory of all diversity figures on a generated set, as a Markdown table."""
    from harness import registry

    raise typer.Exit(registry.resolve("benchmarks.diversity_speed:command")(images, samples, mentions, seed, output))


@speed.command(name="objectives")
def speed_objectives(
    positions: Annotated[int, typer.Option(min=64, help="Of the loss alone: target positions N.")] = 2048,
    vocabulary: Annotated[int, typer.Option(min=64, help="V.")] = 50_000,
    width: Annotated[int, typer.Option(min=8, help="Hidden width D.")] = 512,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved runs of each loss; the table has medians.")] = 5,
    output: Annotated[Optional[Path], typer.Option(help="Also write the measurements as JSON.")] = None,  # noqa: UP045
) -> None:
    """What each objective costs over CE: the tiny model's training step, and the loss at a large vocabulary."""
    from harness.speed import command

    raise typer.Exit(command(positions, vocabulary, width, repeats, output))


@app.command(name="list")
def list_(
    kind: Annotated[Literal["models", "benchmarks", "objectives", "suites"], typer.Argument()],
) -> None:
    """What there is to name in a suite file."""
    from harness import console

    console.show_list(kind)


if __name__ == "__main__":
    main()
