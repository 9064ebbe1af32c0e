"""Where tables are printed."""

from __future__ import annotations

import os

from rich.console import Console

WIDTH = 130


def screen() -> Console:
    """The terminal, or the width that COLUMNS asks for; else wide enough for the tables (rich takes 80)."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=WIDTH)
