"""Whom a run tells about its progress. The command line draws it (harness.commands.console)."""

from __future__ import annotations

from typing import Protocol

from harness.suite.cells import Cell


class Watch(Protocol):
    """What a run tells about its progress (the command line draws it)."""

    def cell(self, cell: Cell, index: int, total: int, state: str, outcome: str = "") -> None: ...

    def work(self, kind: str, done: int, total: int, note: str = "") -> None: ...


class Silence:
    """A Watch that says nothing."""

    def cell(self, cell: Cell, index: int, total: int, state: str, outcome: str = "") -> None: ...

    def work(self, kind: str, done: int, total: int, note: str = "") -> None: ...
