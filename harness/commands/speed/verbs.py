"""`detmodes speed`: what this machine does, side by side in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.commands.options import DeviceOption

app = typer.Typer(help="Measure this machine: time and memory, side by side in one run.", no_args_is_help=True)


@app.command(name="evaluation")
def speed_evaluation(
    images: Annotated[int, typer.Option(min=1)] = 19_809,
    detections_per_image: Annotated[int, typer.Option(min=1)] = 300,
    categories: Annotated[int, typer.Option(min=80)] = 1203,
    references: Annotated[bool, typer.Option(help="Also run the official APIs, on 1,000 of the images.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the generated set.")] = 0,
    output: Annotated[Optional[Path], typer.Option(help="Also write the measurements as JSON.")] = None,  # noqa: UP045
) -> None:
    """Time and peak memory of the evaluation on a generated set shaped like LVIS val, as a Markdown table."""
    from harness.commands.speed.evaluation import command

    raise typer.Exit(command(images, detections_per_image, categories, references, seed, output))


@app.command(name="diversity")
def speed_diversity(
    images: Annotated[int, typer.Option(min=1)] = 20_000,
    samples: Annotated[int, typer.Option(min=2, help="Of each image.")] = 8,
    mentions: Annotated[int, typer.Option(min=1, help="Of each sample.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the generated set.")] = 0,
    output: Annotated[Optional[Path], typer.Option(help="Also write the measurements as JSON.")] = None,  # noqa: UP045
) -> None:
    """Time and peak memory of all diversity figures on a generated set, as a Markdown table."""
    from harness.commands.speed.diversity import command

    raise typer.Exit(command(images, samples, mentions, seed, output))


@app.command(name="objectives")
def speed_objectives(
    positions: Annotated[int, typer.Option(min=64, help="Of the loss alone: target positions N.")] = 2048,
    vocabulary: Annotated[int, typer.Option(min=64, help="V.")] = 50_000,
    width: Annotated[int, typer.Option(min=8, help="Hidden width D.")] = 512,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved runs of each loss; the table has medians.")] = 5,
    output: Annotated[Optional[Path], typer.Option(help="Also write the measurements as JSON.")] = None,  # noqa: UP045
) -> None:
    """What each objective costs over CE: the tiny model's training step, and the loss at a large vocabulary."""
    from harness.commands.speed.objectives import command

    raise typer.Exit(command(positions, vocabulary, width, repeats, output))


@app.command(name="runner")
def speed_runner(
    repeats: Annotated[int, typer.Option(min=1, help="Of what is repeated; the table has medians.")] = 3,
    output: Annotated[Optional[Path], typer.Option(help="Also write the measurements as JSON.")] = None,  # noqa: UP045
) -> None:
    """What running costs beside computing: start, a cell, memory, waiting for data, a checkpoint; a Markdown table."""
    from harness.commands.speed.runner import command

    raise typer.Exit(command(repeats, output))


@app.command(name="report")
def speed_report(
    images: Annotated[int, typer.Option(min=1, help="Of each cell.")] = 19_809,
    cells: Annotated[int, typer.Option(min=6, help="Base, oracles, and three seeds of each objective.")] = 18,
    seed: Annotated[int, typer.Option(min=0, help="Of the generated run.")] = 0,
) -> None:
    """CPU seconds and memory of a report on a generated run of large cells, and of the next one; a Markdown table."""
    from harness.commands.speed.report import command

    raise typer.Exit(command(images, cells, seed))


@app.command(name="model")
def speed_model(
    shape: Annotated[
        str, typer.Option(help="tiny, small, medium, 3b, 4b or 9b: OpenFlamingo, random weights.")
    ] = "small",
    device: DeviceOption = "auto",
    layers: Annotated[Optional[int], typer.Option(min=1, help="Fewer of its layers.")] = None,  # noqa: UP045
    images: Annotated[int, typer.Option(min=1, help="Of a training step, and generated at once.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Of each measurement; the table has medians.")] = 3,
    output: Annotated[Optional[Path], typer.Option(help="Also write the measurements as JSON.")] = None,  # noqa: UP045
) -> None:
    """What a model costs at its true shape, beside what --dry-run estimates: training, generation, scoring, memory."""
    from harness.commands.speed.model import command

    raise typer.Exit(command(shape, device, layers, images, repeats, output))


@app.command(name="peers")
def speed_peers(
    size: Annotated[int, typer.Option(min=1, help="Images that are scored, 100 detections each.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of the generated sets.")] = 0,
    output: Annotated[Optional[Path], typer.Option(help="Also write the measurements as JSON.")] = None,  # noqa: UP045
) -> None:
    """Other packages at the same work: scoring, a training loop, sampling; Markdown tables of ratios."""
    from harness.commands.speed.peers.page import command

    raise typer.Exit(command(size, seed, output))
