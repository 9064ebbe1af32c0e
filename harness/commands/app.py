"""Defines the program: its verbs in the order in which `--help` lists them, and how it ends."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from tempfile import NamedTemporaryFile
from typing import Annotated, NoReturn

import typer

from harness import __version__
from harness.commands.models import verbs as models
from harness.commands.parts import verbs as parts
from harness.commands.results import verbs as results
from harness.commands.run import verbs as run
from harness.commands.score import verbs as score
from harness.commands.speed import verbs as speed
from harness.errors import ConfigError, DetmodesError
from harness.system.extras import explain_missing
from harness.system.interrupts import Deserted, Stopped
from harness.system.terminal import shows, tell

RUN, MODELS, RESULTS, SCORE, SPEED = "Run suites", "Models", "Results", "Score files", "Speed"
PARTS = "Parts of your own"
"""The panels of `--help`: one for each job of a user."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(rich_help_panel=RUN)(run.run)
app.command(name="schema", rich_help_panel=RUN)(run.schema_)
app.command(name="status", rich_help_panel=RUN)(run.status_)
app.command(name="clean", rich_help_panel=RUN)(run.clean_)
app.command(rich_help_panel=RUN)(run.budget)
app.command(rich_help_panel=RESULTS)(results.report)
app.command(rich_help_panel=RESULTS)(results.codebook)
app.command(rich_help_panel=RESULTS)(results.pairs)
app.command(rich_help_panel=RESULTS)(results.export)
app.command(rich_help_panel=RESULTS)(results.power)
app.command(rich_help_panel=RESULTS)(results.publish)
app.command(rich_help_panel=SCORE)(score.evaluate)
app.command(rich_help_panel=SCORE)(score.measure)
app.command(rich_help_panel=SCORE)(score.check_data)
app.command(rich_help_panel=MODELS)(models.predict)
app.command(rich_help_panel=MODELS)(models.bottleneck)
app.command(rich_help_panel=MODELS)(models.pretrain)
app.command(name="list", rich_help_panel=MODELS)(models.list_)
app.command(rich_help_panel=PARTS)(parts.new)
app.command(rich_help_panel=PARTS)(parts.check)
app.command(hidden=True)(parts.new_adapter)
app.command(hidden=True)(parts.check_adapter)
app.add_typer(speed.app, name="speed", rich_help_panel=SPEED)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"detmodes {__version__}")
        raise typer.Exit


@app.callback()
def answer_before_verbs(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fine-tune vision-language models as object detectors; report AP beside per-category output diversity."""


def main() -> None:
    """Run the command line, and end with one line for each problem.

    Exit code 0 means success, 1 that a cell failed, 2 that the input was bad, 70 that detmodes itself is at fault: then
    the traceback is in a file, which the line names.
    """
    try:
        if place := next((argument for argument in sys.argv[1:] if "\0" in argument), None):
            raise ConfigError(f"{place!r}: expected arguments without null characters")
        try:
            app(prog_name="detmodes")  # the same name where it was started as a module
        except SystemExit as end:
            if end.code == INTERRUPTED and shows():  # typer ends without a word
                tell("stopped by SIGINT")
            raise
        finally:
            sys.stdout.flush()  # here, where an error can be reported: the interpreter flushes only at its end
    except DetmodesError as error:
        problems = error.problems if isinstance(error, ConfigError) else (str(error),)
        _refuse(*(" ".join(problem.split()) for problem in problems))
    except Stopped as stop:
        if str(stop) and (shows() or isinstance(stop, Deserted)):
            tell(str(stop))
        sys.exit(stop.exit_code)
    except ModuleNotFoundError as error:
        explained = explain_missing(error)
        if explained is None:
            _admit(error)
        _refuse(explained)
    except BrokenPipeError:
        _drop_output()
    except OSError as error:  # inside a cell it would be in that cell's record: this is about a path that was given
        if error.filename is None and error.errno not in UNWRITABLE:
            _admit(error)
        if error.filename is None:
            _drop_output()
        _refuse(f"{error.filename or 'standard output'}: {error.strerror}; expected a place to read or write")
    except Exception as error:
        _admit(error)


INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell has it for a program that SIGINT ended."""
UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
"""Error numbers of a standard output that cannot be written (`> /dev/full`, a full disk)."""


def _drop_output() -> None:
    """Discards the rest of the output, so that the interpreter does not fail on it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _admit(error: Exception) -> NoReturn:
    """Prints one line saying that detmodes is at fault and which file holds the traceback; exit code 70
    (EX_SOFTWARE)."""
    with NamedTemporaryFile("w", prefix="detmodes-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(f"detmodes {__version__}, Python {sys.version}\n{' '.join(sys.argv)}\n\n")
        file.writelines(traceback.format_exception(error))
    what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    tell(f"this is a fault of detmodes, not of your input: {what}; details: {file.name}")
    sys.exit(70)


def _refuse(*problems: str) -> NoReturn:
    """Ends with exit code 2. If several processes compute one cell, each finds the problems and one prints them:
    their launcher ends all processes as soon as one has ended, so the others wait for that."""
    if not shows():
        time.sleep(10)
    for problem in problems if shows() else ():
        tell(problem)
    sys.exit(2)


if __name__ == "__main__":
    main()
