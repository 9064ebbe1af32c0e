"""The verbs that score files. Thin: each imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from harness.commands.options import QuietOption, read_settings


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
    diagnostics: Annotated[bool, typer.Option(help="What ails generative detectors; costs six evaluations.")] = True,
    quiet: QuietOption = False,
) -> None:
    """Official figures of a detections file, with intervals, errors and diagnostics."""
    from harness.commands.score.evaluate import command

    command(
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
    measures: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--measure", help="A measure of another package, beside ours; again for more."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Diversity of anyone's samples from any model, and AP of their consensus beside the greedy answer's."""
    from harness.commands.score.measure import command

    command(
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
        measures=tuple(measures or ()),
    )


def check_data(
    name: Annotated[
        str, typer.Argument(help="lvis, lvis-v1-val, lvis-v1-minival, lvis-v0.5-val, coco-val2017; or voc, yolo, hf.")
    ],
    data: Annotated[Optional[Path], typer.Option(help="Default: the environment variable DETMODES_DATA.")] = None,  # noqa: UP045
    images: Annotated[int, typer.Option(min=0, help="How many pictures of each split to decode.")] = 50,
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="KEY=VALUE of the benchmark (of lvis and coco too): your files; again for more."),
    ] = None,
) -> None:
    """Verify a data folder: files, counts, pictures, boxes. What is missing comes with where to get it."""
    from harness.commands.score.check_data import command

    raise typer.Exit(command(name, data, images, read_settings(settings or [])))
