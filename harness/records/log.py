"""Logs training in order: rows in memory, and as JSON Lines for whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic_core import to_json

from harness.system.files import write_text

Kind = Literal["train", "probe", "evaluation"]
Tell = Callable[[dict[str, Any], bool], object]


def _nobody(row: dict[str, Any], again: bool) -> None:
    del row, again


class Log:
    """One row per logged step, probe and evaluation: its kind, its step, its figures. Rows are written to `path`, if
    given, as they come, where a figure that is not finite is null. tell: called with each row, and whether an earlier
    process has logged it. check: called before each write, and raises where writing is not allowed."""

    def __init__(
        self, path: Path | None = None, tell: Tell = _nobody, check: Callable[[], None] = lambda: None
    ) -> None:
        self._path, self._tell, self._check = path, tell, check
        self.rows: list[dict[str, Any]] = []
        self.restore([])

    def add(self, kind: Kind, row: dict[str, Any]) -> None:
        self.rows.append({"kind": kind, **row})
        if self._path is not None:
            self._check()
            with self._path.open("a") as file:
                file.write(_line(self.rows[-1]))
        self._tell(self.rows[-1], False)

    def of(self, kind: Kind) -> list[dict[str, Any]]:
        """Returns the rows of one kind, in the order in which they were added."""
        return [{key: value for key, value in row.items() if key != "kind"} for row in self.rows if row["kind"] == kind]

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """Sets the log to these rows and nothing else, in the file too."""
        self.rows = list(rows)
        if self._path is not None:
            self._check()
            write_text(self._path, "".join(map(_line, self.rows)))
        for row in self.rows:
            self._tell(row, True)


def _line(row: dict[str, Any]) -> str:
    return to_json(row, inf_nan_mode="null").decode() + "\n"
