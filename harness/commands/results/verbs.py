"""The verbs about results. Thin: each imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from harness.commands.options import AllowOption, DataOption, FolderArgument


def _compute_in_one_thread() -> None:
    """Limits NumPy to one thread, before it is imported: a report is many small products of matrices, and threads
    that wait for each other take four times the CPU seconds."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def report(
    folder: FolderArgument,
    format: Annotated[
        Literal["console", "md", "latex", "csv", "html"], typer.Option(help="On the screen, or as a text on stdout.")
    ] = "console",
    full: Annotated[bool, typer.Option("--full", help="On the screen: every table, those of categories too.")] = False,
    figures: Annotated[Optional[Path], typer.Option(help="Also draw the figures into this folder.")] = None,  # noqa: UP045
    tables: Annotated[Optional[Path], typer.Option(help="Also write each table into this folder, as NAME.tex.")] = None,  # noqa: UP045
) -> None:
    """Tables, verdicts and figures of the records in a folder: text, a LaTeX document, or a page for the browser."""
    _compute_in_one_thread()
    from harness.commands import console
    from harness.report import figures as drawing
    from harness.run.output import mirror

    place = mirror.local(folder)
    show = console.show_report if full else console.show_summary
    results = show(place) if format == "console" else console.write(place, format)
    if tables is not None:
        from harness.report.renderers import latex

        for path in latex.write_tables(results, tables):
            print(path, file=sys.stderr)
    if figures is not None:
        for path in drawing.draw(results, figures):
            print(path, file=sys.stderr)


def codebook(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    cell: Annotated[Optional[str], typer.Option(help="Cells to look at, e.g. '*-ce-*'.")] = None,  # noqa: UP045
    format: Annotated[
        Literal["console", "md", "csv", "json"], typer.Option(help="On the screen, or as a text on stdout.")
    ] = "console",
    data: DataOption = None,
    allow: AllowOption = None,
    judge: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Instead: let a language model judge so many samples, and compare (console, md)."),
    ] = None,
    judge_address: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="URL of its OpenAI-compatible server; default: DETMODES_LLM_ADDRESS. Key: DETMODES_LLM_KEY."),
    ] = None,
    judge_model: Annotated[Optional[str], typer.Option(help="Default: DETMODES_LLM_MODEL.")] = None,  # noqa: UP045
) -> None:
    """How often each kind of error occurs in a run's answers, by row and category: greedy answers and samples."""
    from harness.commands import console
    from harness.suite.permissions import Permissions

    permissions = Permissions.of(allow, None)
    if judge is None:
        console.show_codebook(folder, cell, format, data, permissions)
        return
    from harness.commands.results import judge as judging
    from harness.errors import ConfigError
    from harness.training.stages.chat import ChatServer

    if format not in ("console", "md"):
        raise ConfigError(f"--judge: expected --format console or md, got {format}")
    server = ChatServer.of(judge_address, judge_model)
    console.show_grid(judging.judge(folder, judge, server, cell, data, permissions), format)


def pairs(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    only: Annotated[Optional[str], typer.Option(help="Cells to look at, e.g. '*-dpo-*'.")] = None,  # noqa: UP045
    images: Annotated[int, typer.Option(min=1, help="How many images of each.")] = 12,
    output: Annotated[Optional[Path], typer.Option(help="Draw them: FILE.html, or FILE.png for one cell.")] = None,  # noqa: UP045
    data: DataOption = None,
    allow: AllowOption = None,
) -> None:
    """The pairs of sequences that preference stages were trained on: chosen, rejected, rewards; as text, or drawn."""
    from harness.commands.results import pairs as pictures
    from harness.suite.permissions import Permissions

    sys.stdout.write(pictures.show(folder, only, images, output, data, Permissions.of(allow, None)))


def publish(
    folder: FolderArgument,
    to: Annotated[Path, typer.Option(help="Where to, e.g. results/quickstart.")],
    allow_failed: Annotated[bool, typer.Option("--allow-failed", help="Publish failed cells as failed.")] = False,
    whole: Annotated[bool, typer.Option("--whole", help="Cells as the run left them, not an archive.")] = False,
) -> None:
    """Copy what tables and figures are made of, from a run or a published folder, and make them again from the copy."""
    _compute_in_one_thread()
    from harness.report.publish import publish as publish_folder
    from harness.run.output import mirror

    for line in publish_folder(mirror.local(folder), to, allow_failed, whole):
        print(line)
    print(to)


def export(
    cell: Annotated[Path, typer.Argument(help="Folder of a finished cell, RUN/cells/NAME.")],
    to: Annotated[Literal["coco", "jsonl"], typer.Option(help="Its detections with scores, or all its samples.")],
    output: Annotated[Optional[Path], typer.Option(help="File to write; default: stdout.")] = None,  # noqa: UP045
    annotations: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Also write what it was evaluated on, in the style of COCO or LVIS, into this file."),
    ] = None,
    step: Annotated[Optional[int], typer.Option(help="An evaluated step; default: the last.")] = None,  # noqa: UP045
    data: DataOption = None,
    allow: AllowOption = None,
) -> None:
    """A cell's detections as a COCO results file, or its samples as JSON Lines, for other tools."""
    from harness.commands.results import export as exporting
    from harness.suite.permissions import Permissions
    from harness.system.files import write_text

    text = "".join(exporting.export(cell, to, step))
    if annotations is not None:
        document, pictures = exporting.truth_of_cell(cell, data, Permissions.of(allow, None))
        write_text(annotations, document)
        print(f"{annotations}: file names are relative to {pictures}", file=sys.stderr)
    if output is None:
        sys.stdout.write(text)
    else:
        write_text(output, text)


def power(
    folder: FolderArgument,
    suite: Annotated[Optional[str], typer.Option(help="Hypotheses of this suite, not of the run's own.")] = None,  # noqa: UP045
    format: Annotated[
        Literal["console", "md"], typer.Option(help="On the screen, or as a text on stdout.")
    ] = "console",
) -> None:
    """How many seeds and images would decide a suite's hypotheses, from the variances of a finished run."""
    from harness.report import power as planning
    from harness.report.renderers import text
    from harness.report.results import load
    from harness.run.output import mirror
    from harness.suite import load as suites
    from harness.system.terminal import screen

    results = load(mirror.local(folder))
    if suite is not None:
        results = planning.with_hypotheses(results, suites.load(suite, permissions=None))
    for grid in planning.power_grids(results):
        if format == "md":
            print(text.markdown(grid))
        else:
            screen().print(text.panel(grid))
