"""Measures time and memory for the speed commands: of tasks that take turns in one process, and of tasks that run in
a new process each.

Times are wall-clock seconds, memory is the peak resident set in MiB. No test and no record depends on this: timings
describe one machine at one moment, so only ratios measured in one run are compared.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.system import host

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")

_CHILD = """
import json, sys, time
from pathlib import Path
from harness.registry import resolve
from harness.system.timing import peak_rss

request = json.loads(Path(sys.argv[1]).read_text())
function = resolve(request["reference"])
start, busy = time.perf_counter(), time.process_time()
value = function(*request["arguments"])
seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - busy
result = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_rss_mib": peak_rss(), "value": value}
Path(sys.argv[2]).write_text(json.dumps(result))
"""


@dataclass(frozen=True, slots=True)
class Result:
    """One run in a separate process: seconds of the call, peak memory of the process (MiB), returned value.

    `cpu_seconds` sums over threads. On an idle machine it is at most `seconds` times the cores in use; where it is
    less than `seconds`, the process waited, for files or for other processes.
    """

    seconds: float
    cpu_seconds: float
    peak_rss_mib: float
    value: Any


def interleaved(tasks: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Measures the seconds of each of `repeats` runs of every task, by name.

    The tasks take turns (A B C A B C ...), so that a drift of the machine affects all alike; `warm_up` rounds before
    are not timed. Raises ValueError for fewer than one repeat or no task.
    """
    if repeats < 1 or not tasks:
        raise ValueError(f"expected at least one repeat and one task, got {repeats} and {len(tasks)}")
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(warm_up + repeats):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if turn >= warm_up:
                times[name].append(time.perf_counter() - start)
    return times


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns the median seconds of each task."""
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def ratios(times: Mapping[str, Sequence[float]], baseline: str) -> dict[str, float]:
    """Returns each task's time over the baseline's: the median over rounds of the ratio within a round.

    Within a round both ran in the same state of the machine; the ratio of two medians may come from different rounds.
    """
    base = times[baseline]
    return {
        name: statistics.median(a / b for a, b in zip(seconds, base, strict=True)) for name, seconds in times.items()
    }


GIVING_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Environment that makes glibc's malloc return freed memory to the system, so that a peak is the memory in use at one
time. By default it retains blocks of up to 32 MiB, and a peak grows with their number."""


def isolated(
    reference: str, *arguments: Any, threads: int | None = None, environment: Mapping[str, str] = {}
) -> Result:
    """Calls "module:function" with these arguments (JSON values, as is what it returns) in a fresh Python process.

    The seconds are those of the call alone, without starting Python and importing the module; the memory is that of
    the whole process. `threads` limits OpenMP, BLAS and Rayon. environment: variables it has besides this process's.
    RuntimeError with the end of its output if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        request.write_text(json.dumps({"reference": reference, "arguments": arguments}))
        command = [sys.executable, "-P", "-c", _CHILD, str(request), str(answer)]
        done = subprocess.run(command, env={**_environment(threads), **environment}, capture_output=True, text=True)
        if done.returncode or not answer.exists():
            raise RuntimeError(f"{reference} failed with exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
        return Result(**json.loads(answer.read_text()))


def _environment(threads: int | None) -> dict[str, str]:
    """Returns this process's environment with its import path; prints of the called function are discarded."""
    limits = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **limits}


def peak_rss() -> float:
    """Returns the peak resident set of this process in MiB.

    From /proc if there is one, not `getrusage`: that counts what the parent held before the process was replaced, so a
    large parent would be reported as the child's.
    """
    return host.read_peak_memory()


def reset_peak_rss() -> None:
    """Resets `peak_rss` so that it counts from now on; where the kernel does not allow it, the peak stays that of the
    process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def rss() -> float:
    """Returns the resident set of this process now, in MiB."""
    return host.read_memory()


def machine() -> dict[str, object]:
    """Describes the machine for a table of timings: processor, usable cores, memory (GiB), load, Python."""
    memory = host.read_total_memory()
    return {
        "processor": _processor(),
        "cores": host.usable_cores(),
        "memory_gib": None if memory is None else round(memory, 1),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
