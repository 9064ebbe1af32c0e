"""The verbs about parts of one's own. Thin: each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from harness.commands.options import DataOption, DeviceOption, TrustOption

KindArgument = Annotated[
    Literal["adapter", "benchmark", "objective", "reward", "stage", "family", "measure", "corrector"], typer.Argument()
]
SetOption = Annotated[Optional[list[str]], typer.Option("--set", help="KEY=VALUE in YAML; again for more.")]  # noqa: UP045
FolderOption = Annotated[Optional[Path], typer.Option(help="Folder; default: detmodes-NAME, here.")]  # noqa: UP045


def check(
    kind: KindArgument,
    name: Annotated[str, typer.Argument(help="As in a suite file.")],
    settings: SetOption = None,
    data: DataOption = None,
    device: DeviceOption = "cpu",
    trust_remote_code: TrustOption = None,
) -> None:
    """Whether a part keeps what the harness relies on. Exit code 1 if it does not."""
    from harness.commands.parts import check as command

    trusted = trust_remote_code or []
    raise typer.Exit(command.check(kind, name, settings or [], device=device, data=data, trusted=trusted))


def check_adapter(
    name: Annotated[str, typer.Argument(help="A model's name, as in a suite file.")],
    settings: SetOption = None,
    device: DeviceOption = "cpu",
    trust_remote_code: TrustOption = None,
) -> None:
    """The same as: check adapter NAME."""
    check("adapter", name, settings, None, device, trust_remote_code)


def new(
    kind: KindArgument,
    name: Annotated[str, typer.Argument(help="Of the part and its module: a Python identifier.")],
    to: FolderOption = None,
) -> None:
    """Write the skeleton of a part, as a package to install, and its test. Replaces nothing."""
    from harness.commands.parts import new as skeleton

    for path in skeleton.write(kind, name, to or skeleton.default_folder(name)):
        print(path)


def new_adapter(
    name: Annotated[str, typer.Argument(help="Of the model and its module: a Python identifier.")],
    to: FolderOption = None,
) -> None:
    """The same as: new adapter NAME."""
    new("adapter", name, to)
