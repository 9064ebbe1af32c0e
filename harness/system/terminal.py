"""Where tables are printed, and by whom."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 130


def shows() -> bool:
    """Whether this process prints: of several that compute together it is the first one. They have their numbers from
    torchrun, before torch is imported."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def screen() -> Console:
    """The terminal, or the width that COLUMNS asks for; else wide enough for the tables (rich takes 80)."""
    from rich.console import Console  # here: every command asks whether it prints, few print a table

    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=WIDTH)
