"""The program: its verbs in the order in which `--help` lists them, and how it ends."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated, NoReturn

import typer

from harness import __version__
from harness.commands.models import verbs as models
from harness.commands.results import verbs as results
from harness.commands.run import verbs as run
from harness.commands.score import verbs as score
from harness.commands.speed import verbs as speed
from harness.errors import ConfigError, DetmodesError
from harness.system.interrupts import Deserted, Stopped
from harness.system.terminal import shows

RUN, MODELS, RESULTS, SCORE, SPEED = "Run suites", "Models", "Results", "Score files", "Speed"
"""The panels of `--help`: one for each job of a user."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(rich_help_panel=RUN)(run.run)
app.command(name="status", rich_help_panel=RUN)(run.status_)
app.command(name="clean", rich_help_panel=RUN)(run.clean_)
app.command(rich_help_panel=RUN)(run.budget)
app.command(rich_help_panel=RESULTS)(results.report)
app.command(rich_help_panel=RESULTS)(results.codebook)
app.command(rich_help_panel=RESULTS)(results.pairs)
app.command(rich_help_panel=RESULTS)(results.publish)
app.command(rich_help_panel=SCORE)(score.evaluate)
app.command(rich_help_panel=SCORE)(score.measure)
app.command(rich_help_panel=SCORE)(score.check_data)
app.command(rich_help_panel=MODELS)(models.predict)
app.command(rich_help_panel=MODELS)(models.pretrain)
app.command(rich_help_panel=MODELS)(models.check_adapter)
app.command(rich_help_panel=MODELS)(models.new_adapter)
app.command(name="list", rich_help_panel=MODELS)(models.list_)
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
    """Entry point: an error for the user is one line per problem on stderr, and exit code 2."""
    try:
        app(prog_name="detmodes")  # also when it was started as a module
    except DetmodesError as error:
        problems = error.problems if isinstance(error, ConfigError) else (str(error),)
        _refuse(*(" ".join(problem.split()) for problem in problems))
    except Stopped as stop:
        if str(stop) and (shows() or isinstance(stop, Deserted)):
            print(f"detmodes: {stop}", file=sys.stderr)
        sys.exit(stop.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # inside a cell it would be in that cell's record: this is about a path that was given
        if error.filename is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}; expected a place to read or write")


def _refuse(*problems: str) -> NoReturn:
    """Exit code 2. Of several processes that compute together all find the problems, and one says them: whoever started
    them ends all as soon as one has ended, so the others wait for that."""
    if not shows():
        time.sleep(10)
    for problem in problems if shows() else ():
        print(f"detmodes: {problem}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
