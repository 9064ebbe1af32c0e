"""Signals: the first one waits, the second acts, and what was ignored stays ignored."""

from __future__ import annotations

import signal
import threading

import pytest

from harness.system import interrupts
from harness.system.interrupts import Interrupted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_waits_and_the_second_acts(number: signal.Signals, code: int) -> None:
    def acts(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, acts)
    try:
        with interrupts.deferred() as caught:
            caught.check()
            signal.raise_signal(number)
            assert caught.pending == number
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
            with pytest.raises(Interrupted, match=f"stopped by {number.name}; what was computed is saved") as stopped:
                caught.check()
        assert stopped.value.exit_code == code
        assert not isinstance(stopped.value, Exception)
        with interrupts.deferred():
            pass
        assert signal.getsignal(number) is acts
    finally:
        signal.signal(number, before)


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.deferred() as caught:
            signal.raise_signal(signal.SIGINT)
        assert caught.pending is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_have_no_handlers() -> None:
    before, handlers = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with interrupts.deferred() as caught:
            handlers.append((caught.pending, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [(None, before)]
