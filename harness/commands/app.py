"""The program: its verbs in the order in which `--help` lists them, and how it ends."""

from __future__ import annotations

import os
import sys
import time
from typing import NoReturn

import typer

from harness.commands.models import verbs as models
from harness.commands.results import verbs as results
from harness.commands.run import verbs as run
from harness.commands.score import verbs as score
from harness.commands.speed import verbs as speed
from harness.errors import ConfigError, DetmodesError
from harness.system.interrupts import Deserted, Stopped
from harness.system.terminal import shows

app = typer.Typer(
    help="Fine-tune vision-language models as object detectors; report AP beside per-category output diversity.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run.run)
app.command(name="status")(run.status_)
app.command(name="clean")(run.clean_)
app.command()(results.report)
app.command()(results.codebook)
app.command()(results.pairs)
app.command()(results.publish)
app.command()(models.predict)
app.command()(run.budget)
app.command()(models.pretrain)
app.command()(score.evaluate)
app.command()(score.measure)
app.command()(score.check_data)
app.command()(models.check_adapter)
app.command()(models.new_adapter)
app.command(name="list")(models.list_)
app.add_typer(speed.app, name="speed")


def main() -> None:
    """Entry point: an error for the user is one line per problem on stderr, and exit code 2."""
    try:
        app()
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
