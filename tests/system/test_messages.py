"""What libraries say while a bar is drawn: above the bar, each message once, as one line; afterwards as before."""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from rich.console import Console
from rich.progress import Progress

from harness.commands import console as console_module
from harness.commands.console import overview, progress
from harness.run.resume_folder import ResumeWarning
from harness.system.messages import route_messages

REDRAW = "\x1b["
"""Begins what a bar is drawn with."""


class Screen(io.StringIO):
    """A terminal, as far as anybody asks."""

    def isatty(self) -> bool:
        return True


@contextmanager
def library(name: str) -> Iterator[logging.Logger]:
    """A logger as transformers has one: with a handler of its own on standard error, and passing nothing on."""
    logger = logging.getLogger(name)
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


@contextmanager
def bar(screen: io.StringIO, quiet: bool = False) -> Iterator[Progress]:
    """A bar that is drawn when told to only, so that what is on the screen does not depend on the time."""
    drawn = Progress(console=Console(file=screen, force_terminal=True, width=60), auto_refresh=False)
    drawn.add_task("cells", total=6)
    with route_messages(drawn.console, quiet, lambda: drawn.live.is_started), drawn:
        drawn.refresh()
        yield drawn


def lines_with(text: str, screen: io.StringIO) -> list[str]:
    """The lines of the screen that have this text, without what erases the bar before them."""
    matching = (line for line in screen.getvalue().split("\n") if text in line)
    return [line.rpartition("\r")[2].rpartition(f"{REDRAW}2K")[2] for line in matching]


def shown(screen: io.StringIO) -> list[str]:
    """The lines of a screen without a bar."""
    return screen.getvalue().splitlines()


@pytest.fixture
def _warnings_are_shown() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


# ---- above the bar, once ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_warnings_are_shown")
def test_a_warning_that_comes_twice_is_one_line_above_the_bar() -> None:
    screen = io.StringIO()
    with bar(screen):
        for _ in range(2):
            warnings.warn("use [new]\n  instead of [old]", DeprecationWarning, stacklevel=1)
    assert lines_with("use", screen) == ["warning (tests): use [new] instead of [old]"]


@pytest.mark.usefixtures("_warnings_are_shown")
def test_our_own_warnings_say_so() -> None:
    screen = io.StringIO()
    with bar(screen):
        warnings.warn("a snapshot is of no use", ResumeWarning, stacklevel=1)
    assert lines_with("snapshot", screen) == ["detmodes: warning: a snapshot is of no use"]


@pytest.mark.usefixtures("_warnings_are_shown")
def test_a_warning_is_of_the_package_whose_code_gave_it() -> None:
    screen = io.StringIO()
    with bar(screen):
        warnings.warn_explicit("a", UserWarning, threading.__file__, 1)
        warnings.warn_explicit("b", UserWarning, console_module.__file__, 1)  # how a library names who called it
        warnings.warn_explicit("c", UserWarning, "<frozen somewhere>", 1)
    assert lines_with("warning", screen) == [
        "warning (threading): a",
        "detmodes: warning: b",
        "warning (frozen somewhere): c",
    ]


def test_a_librarys_log_line_is_one_line_above_the_bar() -> None:
    screen = io.StringIO()
    with library("transformers_like") as before, bar(screen), library("late.part") as late:
        for _ in range(2):
            before.warning("weights of %s are [not] used", "lm_head")
            late.error("imported in the middle of a run")
    assert lines_with("weights", screen) == ["warning (transformers_like): weights of lm_head are [not] used"]
    assert lines_with("middle", screen) == ["error (late): imported in the middle of a run"]


def test_a_log_line_that_no_handler_is_there_for_is_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As timm's and open_clip's, which leave it to the program: Python writes warnings to standard error itself."""
    screen = io.StringIO()
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's
    with bar(screen):
        logging.getLogger("timm_like.models").warning("of a library")
        logging.warning("of the root")
    assert lines_with("of ", screen) == ["warning (timm_like): of a library", "warning (tests): of the root"]


def test_the_log_line_of_an_error_names_it() -> None:
    screen = io.StringIO()
    with bar(screen), library("late") as logger:
        try:
            raise KeyError("x")
        except KeyError:
            logger.exception("went\nwrong")
    assert lines_with("went", screen) == ["error (late): went wrong: KeyError: 'x'"]
    assert "Traceback" not in screen.getvalue()


def test_a_log_line_that_cannot_be_formatted_ends_nothing() -> None:
    screen = io.StringIO()
    with bar(screen), library("late") as logger:
        logger.warning("%d steps", "many")
    assert "Logging error" in screen.getvalue()


def test_log_files_get_what_they_got() -> None:
    file = io.StringIO()
    handler = logging.StreamHandler(file)
    with library("late") as logger, bar(io.StringIO()):
        logger.addHandler(handler)
        for _ in range(2):
            logger.warning("to a file")
        logger.removeHandler(handler)
    assert file.getvalue() == "to a file\nto a file\n"


def test_stray_prints_are_whole_lines_above_the_bar() -> None:
    screen = io.StringIO()
    with bar(screen):
        for _ in range(2):
            print("a [hint]\n", file=sys.stderr, flush=True)
        print("half", end="", file=sys.stderr, flush=True)
        assert "half" not in screen.getvalue()
        print(" and half", file=sys.stderr)
        print("at the end", end="", file=sys.stderr)
    assert lines_with("hint", screen) == ["a [hint]"]
    assert lines_with("half", screen) == ["half and half"]
    assert "at the end" in screen.getvalue()


def test_the_bar_of_a_library_is_not_drawn_into_ours() -> None:
    """As tqdm does it, which begins each step with a carriage return and flushes it."""
    screen = io.StringIO()
    with bar(screen):
        for step in range(3):
            sys.stderr.write(f"\rLoading [{step}/2]")
            sys.stderr.flush()
        sys.stderr.write("\n")
        print("Downloading", end="\r", file=sys.stderr)
        print("and then", file=sys.stderr)
    assert "ing" not in screen.getvalue()
    assert lines_with("and then", screen) == ["and then"]


def test_the_bar_of_a_library_is_drawn_where_there_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download before the first cell may take minutes."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress(quiet=False):
        sys.stderr.write("\rDownloading 1/2")
        assert screen.getvalue() == "\rDownloading 1/2"


# ---- quiet, without a terminal, in a worker --------------------------------------------------------------------------


@pytest.mark.usefixtures("_warnings_are_shown")
@pytest.mark.parametrize("watched", [progress, overview])
def test_quiet_leaves_ours_and_stray_prints(
    monkeypatch: pytest.MonkeyPatch, watched: Callable[[bool], AbstractContextManager[object]]
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with library("late") as logger, watched(True):
        warnings.warn("theirs", UserWarning, stacklevel=1)
        logger.error("theirs")
        warnings.warn("ours", ResumeWarning, stacklevel=1)
        print("ValueError: of whom?", file=sys.stderr)
        sys.stderr.write("\rLoading 1/2")
    assert shown(screen) == ["detmodes: warning: ours", "ValueError: of whom?"]


@pytest.mark.usefixtures("_warnings_are_shown")
@pytest.mark.parametrize("bars", [True, False])
def test_without_a_terminal_the_lines_are_the_same_and_unbroken(monkeypatch: pytest.MonkeyPatch, bars: bool) -> None:
    """A worker of --jobs has no bars, and a file for its standard error."""
    file, long = io.StringIO(), "word " * 60 + "end"
    monkeypatch.setattr(sys, "stderr", file)
    with library("late") as logger, progress(quiet=False, bars=bars):
        for _ in range(2):
            warnings.warn(long, ResumeWarning, stacklevel=1)
            logger.warning("theirs")
        sys.stderr.write("\rLoading 1/2")
    assert shown(file) == [f"detmodes: warning: {long}", "warning (late): theirs"]


# ---- restored --------------------------------------------------------------------------------------------------------


def test_everything_is_as_before_at_the_end() -> None:
    def state() -> tuple[object, ...]:
        return sys.stderr, sys.stdout, warnings.showwarning, logging.StreamHandler.emit

    before = state()

    def fail() -> None:
        with bar(io.StringIO()):
            assert not any(one is other for one, other in zip(state(), before, strict=True))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(one is other for one, other in zip(state(), before, strict=True))


def test_a_handler_made_meanwhile_writes_to_standard_error_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    with bar(io.StringIO()):
        handler = logging.StreamHandler()
    logger = logging.getLogger("left")
    logger.addHandler(handler)
    logger.warning("afterwards")
    logger.removeHandler(handler)
    assert capsys.readouterr().err.splitlines()[-1] == "afterwards"


def test_warnings_are_errors_where_they_were() -> None:
    """What a filter makes an error is one, with a bar and without."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="now"), bar(io.StringIO()):
            warnings.warn("now", UserWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="later"):
            warnings.warn("later", UserWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="asked for"):
        warnings.warn("asked for", UserWarning, stacklevel=1)
