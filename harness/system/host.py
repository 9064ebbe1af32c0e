"""Reads what the system reports about this machine and its processes: from /proc where there is one, else with
psutil."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Returns how many cores this process may use; if the system does not report that, the number of all cores."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def identify_machine() -> str:
    """Returns a text that is equal in all processes that share their process ids: it distinguishes containers of one
    name, or of one machine."""
    with suppress(OSError):
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(PROC / 'self/ns/pid').readlink()}"
    import psutil  # here and below: not needed where there is /proc

    machine = f"{socket.gethostname()} {psutil.boot_time():.0f}"
    # Linux has containers. Where it does not tell them apart, this process knows only itself, and the heartbeats of
    # others count (harness.system.locks).
    return f"{machine} {uuid.uuid4().hex}" if sys.platform == "linux" else machine


def find_start(pid: int) -> int | None:
    """Returns when a process began: clock ticks since the system did, or seconds where there is no /proc; 0 for one
    that has ended and waits for its parent; None where it cannot be read."""
    if not (PROC / "self/stat").exists():
        return _ask_start(pid)
    try:
        fields = (PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return 0 if fields[0] in "ZX" else int(fields[19])


def _ask_start(pid: int) -> int | None:
    import psutil

    try:
        process = psutil.Process(pid)
        ended = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return 0 if ended else int(process.create_time())
    except psutil.ZombieProcess:  # macOS says no more of one
        return 0
    except psutil.Error:
        return None


def read_peak_memory() -> float:
    """Returns the peak resident set of this process in MiB.

    Where there is no /proc it is what `getrusage` says, which counts what the parent held before the process was
    replaced: a large parent is reported as the child's.
    """
    peak = _read_status("VmHWM")
    return _ask_peak_memory() if peak is None else peak


def _ask_peak_memory() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, the others KiB


def read_memory() -> float:
    """Returns the resident set of this process now, in MiB."""
    resident = _read_status("VmRSS")
    return _ask_memory() if resident is None else resident


def _ask_memory() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


def _read_status(field: str) -> float | None:
    """Reads a field in MiB; None where there is no /proc, or the kernel (gVisor's) leaves this field out."""
    with suppress(OSError):
        for line in (PROC / "self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
    return None


def read_free_memory() -> float | None:
    """Returns the memory in GiB that processes may still take: what the system counts as available, or all of the
    machine's where it does not say, and no more than a container's limit; None where nothing is known."""
    free = _read_available_memory()
    free = read_total_memory() if free is None else free
    with suppress(OSError, ValueError):  # no container, or without a limit: "max"
        limit = int((CGROUP / "memory.max").read_text()) / 2**30
        return limit if free is None else min(free, limit)
    return free


def _read_available_memory() -> float | None:
    with suppress(OSError):
        for line in (PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 2**20
    return None


def read_total_memory() -> float | None:
    """Returns the machine's memory in GiB; None where the system does not say."""
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
