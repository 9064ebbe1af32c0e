"""Sends what a cell logs to an experiment tracker (`--track`), through accelerate's classes. Never required.

Each cell is one run, in a project named like the suite. tensorboard writes to DIR/trackers/<cell>/, always the
content of metrics.jsonl. wandb and trackio have separate stores, where a resumed cell continues the same run: rows
that are computed again, after the last checkpoint, occur twice with the same values. Tables and pictures of the
whole run are sent by harness.run.tracked_report.
"""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from harness.errors import ConfigError
from harness.records.log import Tell
from harness.system import files

Name = Literal["tensorboard", "wandb", "trackio"]
RUN = "run.txt"
"""File in the cell's folder with the name of the run for wandb and trackio: the same cell in another output folder is
another run."""


class TrackerWarning(UserWarning):
    """The tracker fails; the cell goes on without it."""


def require(name: Name) -> None:
    """Raises ConfigError if its package is not installed; called before the first cell."""
    if find_spec(name) is None:
        raise ConfigError(
            f"--track {name}: expected the package {name}, it is not installed; pip install detmodes[{name}]"
        )


@contextmanager
def tracking(name: Name | None, suite: str, folder: Path, settings: Mapping[str, Any]) -> Iterator[Tell]:
    """Yields a function that receives the rows of a cell while the block runs; None without a tracker.

    folder: of the cell, among those of the trackers; settings: of the cell, JSON values.
    """
    if name is None:
        yield lambda row, again: None
        return
    tracker = Tracker(name)
    tracker.attempt(lambda: tracker.start(suite, folder, flat(settings)))
    try:
        yield tracker.tell
    finally:
        tracker.attempt(tracker.finish)


def flat(values: Mapping[str, Any], separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """Flattens {"a": {"b": 1}} to {"a.b": 1}. Lists become JSON; undefined values (None) are left out."""
    flattened: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flattened |= flat(value, separator, f"{prefix}{key}{separator}")
        elif value is not None:
            flattened[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return flattened


class Tracker:
    """One run, `run` of accelerate's class. After its first failure it does nothing."""

    def __init__(self, name: Name) -> None:
        self._name = name
        self._works = True
        self.run: Any = None

    def attempt(self, action: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            action()
        except Exception as error:  # of any kind: a network, a server, a full disk
            self._works = False
            text = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(
                f"--track {self._name} fails, the cell goes on without it: {text}", TrackerWarning, stacklevel=2
            )

    def start(self, suite: str, folder: Path, settings: Mapping[str, Any]) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # with it come the trackers that are installed

        made = LOGGER_TYPE_TO_CLASS[self._name]
        if self._name == "tensorboard":
            files.remove(folder)
            self.run = made(folder.name, folder.parent)
        else:
            run = _run(folder)
            options = {"id": run.rpartition("-")[2], "dir": folder} if self._name == "wandb" else {"embed": False}
            self.run = made(suite, name=run, resume="allow", **options)
        self.run.start()
        self.run.store_init_configuration(settings)
        if self._name == "wandb":
            self.run.tracker.define_metric("*", step_metric="step")

    def tell(self, row: Mapping[str, Any], again: bool) -> None:
        if not again or self._name == "tensorboard":
            self.attempt(lambda: self._log(row))

    def _log(self, row: Mapping[str, Any]) -> None:
        values = flat({key: value for key, value in row.items() if key not in ("kind", "step")}, "/", f"{row['kind']}/")
        if self._name == "wandb":  # its steps only go up, and a second row of a step is discarded
            self.run.log({**values, "step": row["step"]})
        else:
            self.run.log(values, step=row["step"])

    def finish(self) -> None:
        self.run.finish()


def _run(folder: Path) -> str:
    """Returns the name of the cell's run: that of the cell, and 8 random digits."""
    path = folder / RUN
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(path, f"{folder.name}-{uuid.uuid4().hex[:8]}")
    return path.read_text()
