"""Holds what the verbs that score files have in common: the requested files, checked before anything is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.system.files import as_url

if TYPE_CHECKING:  # NumPy, whose threads forbid a fork
    from harness.metrics.detection.rules import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """The inputs and outputs of a verb.

    annotations   the annotation file of the evaluated images
    protocol      its style, and that of the figures
    bootstrap     replicates for intervals; None: no intervals
    output        file for everything, as JSON
    per_category  file for the table by category, as CSV
    """

    annotations: Path
    protocol: Protocol = "lvis"
    bootstrap: int | None = None
    output: Path | None = None
    per_category: Path | None = None

    @property
    def style(self) -> Literal["lvis", "coco"]:
        """Returns the format of the annotation file."""
        return "coco" if self.protocol == "coco" else "lvis"


def find_path_problems(inputs: Iterable[Path], files: Mapping[str, Path | None]) -> Iterator[str]:
    """Yields what is wrong with the paths of inputs, and with those that files, by option, are to be written to; None
    was not requested."""
    inputs = list(inputs)
    for given in inputs:
        if (url := as_url(given)) and not given.exists():
            yield f"{url}: expected a file on this machine, a URL is not read here; download it first"
    taken = {path.resolve(): "an input" for path in inputs}
    for option, path in files.items():
        if path is None:
            continue
        if (url := as_url(path)) and not path.parent.is_dir():
            yield f"{option} {url}: expected a file on this machine, nothing is written to a URL here"
        elif path.resolve() in taken:
            yield f"{option} {path}: is also {taken[path.resolve()]}"
        elif path.is_dir():
            yield f"{option} {path}: expected a file, this is a folder"
        elif not is_writable(path.parent):
            yield f"{option} {path}: expected a file in a folder that exists and can be written"
        taken[path.resolve()] = option


def is_writable(folder: Path) -> bool:
    """Tells whether files can be made in `folder`."""
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
