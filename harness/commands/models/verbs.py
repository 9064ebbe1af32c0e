"""The verbs about models. Thin: each imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from harness.commands.options import AllowOption, DataOption, TrustOption


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Annotated[str, typer.Option(help="A model's name (its shipped base), or the folder of a cell.")],
    samples: Annotated[int, typer.Option(min=0, help="Samples beside the greedy answer.")] = 4,
    temperature: Annotated[float, typer.Option(min=0.01)] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    draw: Annotated[Optional[Path], typer.Option(help="Draw the boxes into this folder.")] = None,  # noqa: UP045
    allow: AllowOption = None,
    trust_remote_code: TrustOption = None,
) -> None:
    """Print (and draw) what a model sees: its greedy answer and K samples."""
    from harness.commands.models import predict as prediction
    from harness.suite.permissions import Permissions

    permissions = Permissions.of(allow, trust_remote_code)
    for answer in prediction.predict(images, model, samples, temperature, seed, permissions):
        print(prediction.as_text(answer))
        if draw is not None:
            print(f"  drawn to {prediction.draw(answer, draw)}")


def bottleneck(
    model: Annotated[str, typer.Argument(help="A model's name (its shipped base), or the folder of a cell.")],
    images: Annotated[int, typer.Option(min=1, help="How many validation images.")] = 100,
    format: Annotated[
        Literal["console", "md"], typer.Option(help="On the screen, or as a text on stdout.")
    ] = "console",
    output: Annotated[Optional[Path], typer.Option(help="Also write the table into this file, as JSON.")] = None,  # noqa: UP045
    data: DataOption = None,
    allow: AllowOption = None,
    trust_remote_code: TrustOption = None,
) -> None:
    """How unevenly a model chooses among a category's names, and how much of that its output layer forces on it."""
    from harness.commands import console
    from harness.commands.models import bottleneck as floors
    from harness.suite.permissions import Permissions
    from harness.system.files import write_text

    table = floors.read(model, images, data, Permissions.of(allow, trust_remote_code))
    if output is not None:
        write_text(output, floors.to_json(table))
    console.show_grid(floors.grid_of(table), format)


def pretrain(
    output: Annotated[Path, typer.Option(help="Folder for stages, log and weights; an interrupted run goes on.")],
    base: Annotated[str, typer.Option(help="tiny: a token per name; spelled: names in pieces.")] = "tiny",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    install: Annotated[bool, typer.Option("--install", help="Replace the shipped weights by the result.")] = False,
) -> None:
    """Pretrain a shipped base on `plain` shapes from scratch (evaluate the tiny one with: detmodes run base)."""
    from model_zoo.flamingo.pretrain import command

    command(output, seed, base, install)


def list_(
    kind: Annotated[
        Literal["models", "benchmarks", "objectives", "stages", "rewards", "families", "measures", "suites"],
        typer.Argument(),
    ],
) -> None:
    """What there is to name in a suite file."""
    from harness.commands.models import listing

    listing.show(kind)
