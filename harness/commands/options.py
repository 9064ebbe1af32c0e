"""Defines arguments and options that several verbs share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer

from harness.errors import ConfigError

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


def read_settings(assignments: Sequence[str]) -> dict[str, Any]:
    """Reads settings of the form KEY=VALUE, the value as YAML in a suite file. ConfigError names every one of another
    form."""
    import yaml  # late: verbs are listed without it

    settings, problems = {}, []
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not key or not equals:
            problems.append(f"--set: expected KEY=VALUE, got {assignment!r}")
            continue
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            problems.append(f"--set {key}: expected a value in YAML, got {value!r}")
    if problems:
        raise ConfigError(*problems)
    return settings
