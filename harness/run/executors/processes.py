"""Runs `detmodes run --jobs N`: N worker processes on one machine, each an ordinary run on the same folder (see
harness.system.locks)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

from harness.system.host import usable_cores
from harness.system.interrupts import SIGNALS, Interrupted
from harness.system.timing import THREAD_VARIABLES

POLL = 0.5
"""Seconds between two checks of the workers."""
SETTLED = (0, 1)
"""Exit codes of a worker after all cells are done: all finished, or some failed."""


@dataclass(frozen=True, slots=True)
class Worker:
    number: int
    process: subprocess.Popen[bytes]
    log: IO[bytes]


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a worker. code: as in subprocess, minus the signal's number for a killed process; log: its output."""

    number: int
    code: int
    log: str


def run(arguments: Sequence[str], jobs: int, gpus: Sequence[str], look: Callable[[], None]) -> list[Ended]:
    """Starts `detmodes ARGUMENTS` `jobs` times and waits until all have ended; calls `look` again and again meanwhile.

    gpus: their names in CUDA_VISIBLE_DEVICES; each worker gets one, in turn. A signal is passed to every worker once,
    and Interrupted is raised when they have ended. Workers notice when this process dies, and stop.
    """
    with ExitStack() as stack:
        logs = [stack.enter_context(TemporaryFile()) for _ in range(jobs)]
        workers = [_start(arguments, number, gpus, logs) for number in range(jobs)]
        for worker in workers:  # on any error: stop all workers, and wait for them
            stack.enter_context(worker.process)
        for worker in workers:
            assert worker.process.stdin is not None
            stack.callback(worker.process.stdin.close)
        with _forwarded(workers) as received:
            while any(worker.process.poll() is None for worker in workers):
                look()
                time.sleep(POLL)
        look()
        if received:
            raise Interrupted(received[0])
        return [_ended(worker) for worker in workers]


def environment(
    number: int, jobs: int, gpus: Sequence[str], cores: int, inherited: Mapping[str, str]
) -> dict[str, str]:
    """Returns the environment of a worker: its share of the cores, at least one, unless the user has set the number
    of threads; and one GPU."""
    threads = str(max(1, cores // jobs))
    variables = {name: threads for name in THREAD_VARIABLES if name not in inherited}
    if gpus:
        variables["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    return {**inherited, **variables}


def visible_gpus(device: str) -> list[str]:
    """Lists the GPUs as in CUDA_VISIBLE_DEVICES; empty where no GPU is used."""
    if device == "cpu":
        return []
    import torch  # takes seconds, and is not needed on a CPU

    count = torch.cuda.device_count()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return allowed.split(",")[:count] if allowed else [str(index) for index in range(count)]


def exit_code(ended: Sequence[Ended]) -> int:
    """Returns 0 or 1 as a worker that has seen every cell done; without such a worker 2 for bad input, 1 if all have
    crashed."""
    codes = [worker.code for worker in ended]
    settled = [code for code in codes if code in SETTLED]
    return max(settled) if settled else 2 if 2 in codes else 1


def messages(ended: Sequence[Ended]) -> list[str]:
    """Returns the lines that the workers printed, each once, and the causes of those that died."""
    lines = dict.fromkeys(line for worker in ended for line in worker.log.splitlines() if line.strip())
    died = [
        f"detmodes: worker {worker.number} was ended by {signal.Signals(-worker.code).name}; its cell is taken over by "
        "another one, or by the next run"
        for worker in ended
        if worker.code < 0
    ]
    return [*lines, *died]


def stop_with_parent() -> None:
    """Makes a worker send SIGTERM to itself when its parent is gone, which ends its standard input."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="watch of the parent").start()


def _start(arguments: Sequence[str], number: int, gpus: Sequence[str], logs: Sequence[IO[bytes]]) -> Worker:
    """Starts a worker in a separate process group: a terminal's Ctrl-C reaches it only through this process, so only
    once."""
    cores = usable_cores()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "detmodes", *arguments],
        stdin=subprocess.PIPE,
        stdout=logs[number],
        stderr=subprocess.STDOUT,
        env=environment(number, len(logs), gpus, cores, os.environ),
        start_new_session=True,
    )
    return Worker(number + 1, process, logs[number])


@contextmanager
def _forwarded(workers: Sequence[Worker]) -> Iterator[list[int]]:
    """Passes signals on to the workers and yields the list of them. An ignored signal (nohup, a background job) stays
    ignored."""
    received: list[int] = []

    def forward(number: int, _: object) -> None:
        received.append(number)
        for worker in workers:
            worker.process.send_signal(number)  # does nothing to one that has ended

    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in heeded}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended(worker: Worker) -> Ended:
    worker.log.seek(0)
    return Ended(worker.number, worker.process.returncode, worker.log.read().decode(errors="replace"))
