"""Handles SIGTERM and SIGINT while a cell is computed: the first one takes effect at the next safe point, the second
one at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


GO_ON = "what was computed is saved: run the same command to go on"


class Stopped(BaseException):
    """The run ends here and can go on later. It is no Exception, so that it is not handled as a failure of the cell."""

    exit_code = 1


class Deserted(Stopped):
    """Another process of this run is gone. detail: how that was noticed; None: another remaining process reports it."""

    def __init__(self, detail: str | None) -> None:
        super().__init__("" if detail is None else f"another process of this run has ended; {GO_ON} ({detail})")


class Interrupted(Stopped):
    """A signal came, and everything computed so far is saved."""

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        super().__init__(f"stopped by {self.number.name}; {GO_ON}")
        # As a shell has it for a program that a signal ended: 130 for SIGINT, 143 for SIGTERM.
        self.exit_code = 128 + self.number


Agree = Callable[[int], int]


class Interrupts:
    """`pending`: the signal that came, None before. agree: the largest of the signals that came to the processes of the
    run (see harness.system.ranks): all of them stop in the same place."""

    def __init__(self, agree: Agree = int) -> None:
        self.pending: int | None = None
        self._agree = agree

    def agreed(self) -> int:
        """Returns the signal that came to this process or another, 0 for none."""
        return self._agree(self.pending or 0)

    def check(self) -> None:
        """Raises Interrupted if a signal came; called where everything computed so far is saved."""
        stop(self.agreed())


def stop(number: int) -> None:
    """Raises Interrupted for a signal; does nothing for 0."""
    if number:
        raise Interrupted(number)


@contextmanager
def deferred(agree: Agree = int) -> Iterator[Interrupts]:
    """Makes the first SIGTERM or SIGINT within the block `pending`. It restores the previous handlers, as does the
    end of the block, so that a second signal has its usual effect. A signal that was ignored (nohup, a background
    job) stays ignored. Outside the main thread, which alone may have handlers, nothing is ever pending.

    A process that was Deserted is about to be ended by its launcher; that signal waits until the process has reported
    it.
    """
    caught = Interrupts(agree)
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    current = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in current.items() if handler not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        caught.pending = number
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        if not isinstance(sys.exception(), Deserted):
            restore()
