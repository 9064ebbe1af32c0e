"""SIGTERM and SIGINT while a cell is computed: the first one is waited for, the second one acts at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """A signal came, and what had been computed is saved. No Exception: nobody takes it for a failure of the cell."""

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        super().__init__(f"stopped by {self.number.name}; what was computed is saved: run the same command to go on")

    @property
    def exit_code(self) -> int:
        """As a shell has it for a program that a signal ended: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


class Interrupts:
    """`pending`: the signal that came, None before."""

    def __init__(self) -> None:
        self.pending: int | None = None

    def check(self) -> None:
        """Raises Interrupted if a signal came: called where everything so far is saved."""
        if self.pending is not None:
            raise Interrupted(self.pending)


@contextmanager
def deferred() -> Iterator[Interrupts]:
    """The first SIGTERM or SIGINT within the block becomes `pending`; with it, and at the end, the handlers are again
    what they were, so that a second one has its usual effect. A signal that was ignored (nohup, a background job) stays
    ignored. Outside the main thread, which alone may have handlers, nothing is ever pending."""
    caught = Interrupts()
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
        restore()
