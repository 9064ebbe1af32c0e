"""Brings warnings, log lines and stray prints to the console that draws a bar, so that none is written into the bar.

Libraries write to standard error in three ways, and each is intercepted at a place that all of its callers use:

    warnings.warn            through warnings.showwarning
    logging                  through StreamHandler.emit: libraries bring handlers of their own (transformers, ray), some
                             of them only when they are imported in the middle of a run, so no list of loggers would do
    print(file=sys.stderr)   through sys.stderr

Output that compiled code writes directly to the file descriptor is not intercepted.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.file_proxy import FileProxy
from rich.text import Text

OURS = frozenset({"detmodes", "harness", "benchmarks", "model_zoo"})
"""Packages of this project."""


@contextmanager
def route_messages(console: Console, quiet: bool, drawing: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Shows warnings and log lines on this console while the block runs: each distinct one once, as one line.

    Args:
        console: The one that draws the bar.
        quiet: Whether libraries' warnings and log lines are left out. Ours are shown all the same, and so are stray
            prints, since nothing tells whether one is an error.
        drawing: Tells whether a bar is on the screen. A library's bar is shown only on a terminal without ours: two
        cannot share a line.
    """
    teller = _Teller(console, quiet)
    stderr, showwarning, emit = sys.stderr, warnings.showwarning, logging.StreamHandler.emit
    lines = _WholeLines(console, stderr, teller, lambda: not quiet and console.is_terminal and not drawing())

    def emit_here(handler: logging.StreamHandler[Any], record: logging.LogRecord) -> None:
        if _is_on_screen(handler.stream, stderr):
            try:
                teller.tell_record(record)
            except Exception:  # as in every handler: a message that cannot be formatted does not end the program
                handler.handleError(record)
        else:
            emit(handler, record)

    sys.stderr = cast(TextIO, lines)
    warnings.showwarning = teller.tell_warning
    logging.StreamHandler.emit = emit_here  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        logging.StreamHandler.emit = emit  # type: ignore[method-assign]
        warnings.showwarning = showwarning
        sys.stderr = stderr
        lines.end()


class _Teller:
    """Prints each distinct message once, above the bar if there is one."""

    def __init__(self, console: Console, quiet: bool) -> None:
        self._console, self._quiet = console, quiet
        self._told: set[str] = set()
        self._lock = threading.RLock()  # a warning may come while another one is printed, in the same thread

    def tell_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Replaces `warnings.showwarning`."""
        if file is not None:
            file.write(warnings.formatwarning(message, category, filename, lineno, line))
            return
        # By its class, as a library may report the line of ours that called it.
        root = _root(category.__module__)
        self._tell("warning", root if root in OURS else _find_package(filename), str(message))

    def tell_record(self, record: logging.LogRecord) -> None:
        """Prints a log record, with the error that it carries, if any, without its traceback."""
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}: {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        package = _find_package(record.pathname) if record.name == "root" else _root(record.name)
        self._tell(record.levelname.lower(), package, text)

    def tell_line(self, line: str) -> None:
        """Prints a line as it is."""
        with suppress(OSError):  # standard error is closed: nobody would read it
            self._console.print(Text(_without_controls(line)), soft_wrap=True)  # a Text has no markup

    def _tell(self, level: str, package: str, text: str) -> None:
        if self._quiet and package not in OURS:
            return
        told = " ".join(_without_controls(text).split())
        line = f"detmodes: {level}: {told}" if package in OURS else f"{level} ({package}): {told}"
        with self._lock:
            if line not in self._told:
                self._told.add(line)
                self.tell_line(line)


class _WholeLines(FileProxy):
    """Replaces standard error, and passes complete lines to the teller.

    rich has such an object while it draws, which shows each step of a library's bar as a line. Where it finds one of
    this class it puts none of its own in front, and its consoles write to the file behind.
    """

    def __init__(self, console: Console, file: TextIO, teller: _Teller, untouched: Callable[[], bool]) -> None:
        super().__init__(console, file)
        self._file, self._teller, self._untouched = file, teller, untouched
        self._rest, self._last = "", ""
        self._ended = False
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Shows whole lines and keeps the rest; a line like the one before is not repeated."""
        if self._ended or self._untouched():
            return self._target().write(text)
        with self._lock:
            *lines, self._rest = self._follow(text.replace("\r\n", "\n")).split("\n")
            for line in filter(str.strip, lines):
                if line != self._last:
                    self._teller.tell_line(line)
                self._last = line
        return len(text)

    def _follow(self, text: str) -> str:
        """Returns the line so far with this text after it. A carriage return begins it again: a bar that draws itself
        with one (tqdm) leaves nothing."""
        if text.startswith("\r") and "\n" not in text:
            return ""
        return text.rpartition("\r")[2] if "\r" in text else self._rest + text

    def flush(self) -> None:
        """Does nothing with an incomplete line: tqdm flushes at each of its steps."""
        self._target().flush()

    def end(self) -> None:
        """Prints an incomplete last line. A handler that a library made in the meantime still has this object: its
        later output goes to standard error, whatever that is then."""
        with self._lock:
            if self._rest.strip():
                self._teller.tell_line(self._rest)
            self._rest, self._ended = "", True

    def _target(self) -> TextIO:
        return sys.stderr if self._ended and sys.stderr is not cast(TextIO, self) else self._file


def _is_on_screen(stream: object, stderr: object) -> bool:
    """Tells whether a handler's stream is standard output or error, present or original, or rich's proxy of them."""
    streams = (stderr, sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)
    return isinstance(stream, FileProxy) or any(stream is shown for shown in streams)


def _find_package(filename: str) -> str:
    """Returns the package that a file of code belongs to, or the file's name where no module comes from it."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__dict__", {}).get("__file__") == filename:  # this lookup loads no lazy module
            return _root(name)
    return Path(filename).stem.strip("<>")


def _root(module: str) -> str:
    return module.partition(".")[0]


def _without_controls(text: str) -> str:
    """Returns the text without colours and other control sequences of a terminal."""
    return " ".join(Text.from_ansi(line).plain for line in text.split("\n"))
