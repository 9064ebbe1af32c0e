"""Defines arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

SuiteArgument = Annotated[str, typer.Argument(help="Path of a suite file, or the name of a shipped suite.")]
FolderArgument = Annotated[str, typer.Argument(help="Output folder of a run (or one under results/), or its URL.")]
DataOption = Annotated[Optional[Path], typer.Option(help="Folder of a data set on disk.")]  # noqa: UP045
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress, only results and errors.")]
AllowOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--allow", metavar="PLACE", help="Read this, which a record names; again for more."),
]
TrustOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--trust-remote-code", metavar="MODEL", help="Run the code of this model, as its settings name it."),
]
