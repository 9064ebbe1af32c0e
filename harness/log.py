"""What training logs, in order: rows in memory, and as JSON Lines for whoever watches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic_core import to_json

from harness.files import write_text

Kind = Literal["train", "probe", "evaluation"]


class Log:
    """One row per logged step, probe and evaluation: its kind, its step, its figures. Written to `path`, if there is
    one, as they come: a figure that is not finite is null there."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.rows: list[dict[str, Any]] = []
        self.restore([])

    def add(self, kind: Kind, row: dict[str, Any]) -> None:
        self.rows.append({"kind": kind, **row})
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(_line(self.rows[-1]))

    def of(self, kind: Kind) -> list[dict[str, Any]]:
        """The rows of one kind, as they were added."""
        return [{key: value for key, value in row.items() if key != "kind"} for row in self.rows if row["kind"] == kind]

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """These rows and nothing else, in the file too."""
        self.rows = list(rows)
        if self._path is not None:
            write_text(self._path, "".join(map(_line, self.rows)))


def _line(row: dict[str, Any]) -> str:
    return to_json(row, inf_nan_mode="null").decode() + "\n"
