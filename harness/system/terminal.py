"""Chooses the process and the console that print tables and messages; printed texts cannot control the terminal.

Names come from files of unknown origin: characters that move the cursor, change colours or reverse the direction of
text are shown escaped, as `\\x1b`.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 130


def shows() -> bool:
    """Tells whether this process prints: of several that compute one cell, it is the first. They have their numbers
    from torchrun, before torch is imported."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def screen() -> Console:
    """Returns a console as wide as the terminal or COLUMNS; without either, wide enough for the tables (rich takes
    80)."""
    console = make_console()
    return console if console.is_terminal or "COLUMNS" in os.environ else make_console(width=WIDTH)


def make_console(**options: Any) -> Console:
    """Makes a console of rich that escapes its input; `options` are those of rich.console.Console."""
    made: Console = _console_class()(**options)
    return made


@cache
def _console_class() -> type[Console]:
    from collections.abc import Iterable

    from rich.console import Console, ConsoleOptions, RenderableType  # here: few commands print a table
    from rich.segment import Segment

    depth = threading.local()

    class EscapingConsole(Console):
        """A console that escapes the printed texts, but not the control sequences of rich."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            """Escapes only in the outermost call: inside a table the longer text would be cut."""
            inner = iter(super().render(renderable, options))
            if getattr(depth, "inside", False):
                yield from inner
                return
            while True:
                depth.inside = True
                try:
                    text, style, control = next(inner)
                except StopIteration:
                    return
                finally:
                    depth.inside = False
                yield Segment(text if control else escape_controls(text), style, control)

    return EscapingConsole


def tell(message: str) -> None:
    """Prints one line for the user on stderr, after the name of the program."""
    print(f"detmodes: {escape_controls(' '.join(message.splitlines()))}", file=sys.stderr)


def escape_controls(text: str) -> str:
    """Escapes everything that cannot be printed, except for ends of lines: control characters, marks that change the
    direction of text, separators other than the space, and halves of characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
