"""What is known of processes where /proc is, and where it is not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness.run.executors import processes
from harness.system import host, locks, timing

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc to compare with")


@pytest.fixture
def no_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS. (psutil has a /proc of its own on Linux.)"""
    monkeypatch.setattr(host, "PROC", tmp_path / "proc")
    monkeypatch.setattr(sys, "platform", "darwin")
    host.identify_machine.cache_clear()


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    host.identify_machine.cache_clear()


# ---- cores -----------------------------------------------------------------------------------------------------------


def test_usable_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6}, raising=False)
    assert host.usable_cores() == timing.machine()["cores"] == 3


@pytest.mark.parametrize(("counted", "usable"), [(7, 7), (None, 1)])
def test_usable_cores_where_nothing_limits_them(
    monkeypatch: pytest.MonkeyPatch, counted: int | None, usable: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert host.usable_cores() == timing.machine()["cores"] == usable


def test_workers_start_where_nothing_limits_their_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    (ended,) = processes.run(["--help"], 1, [], lambda: None)
    assert ended.code == 0


# ---- memory ----------------------------------------------------------------------------------------------------------


@LINUX
def test_memory_is_the_same_from_both_sources() -> None:
    assert host.read_memory() == pytest.approx(host._ask_memory(), rel=0.1)


@pytest.mark.usefixtures("no_proc")
@pytest.mark.parametrize(("platform", "expected"), [("darwin", 3.0), ("freebsd14", 3 * 1024.0)])
def test_a_peak_has_the_unit_of_the_platform(monkeypatch: pytest.MonkeyPatch, platform: str, expected: float) -> None:
    """3 * 2**20 is 3 MiB in bytes, and 3072 MiB in KiB."""
    import resource

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: type("Usage", (), {"ru_maxrss": 3 * 2**20}))
    assert timing.peak_rss() == expected


@pytest.mark.usefixtures("no_proc")
def test_memory_is_known_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "freebsd14")  # whose unit is that of Linux
    timing.reset_peak_rss()
    assert 1 < timing.rss() < 2**20
    assert 1 < timing.peak_rss() < 2**20


def test_a_kernel_that_names_no_peak_is_asked_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text("Name:\tpython\nVmRSS:\t    2048 kB\n")
    monkeypatch.setattr(host, "PROC", tmp_path)
    assert timing.rss() == 2.0
    assert timing.peak_rss() == host._ask_peak_memory()


@pytest.mark.parametrize(
    ("meminfo", "limit", "expected"),
    [
        ("MemTotal: 9437184 kB\nMemAvailable:    3145728 kB\n", None, 3.0),
        ("MemTotal: 9437184 kB\nMemAvailable:    3145728 kB\n", "max\n", 3.0),
        ("MemTotal: 9437184 kB\nMemAvailable:    3145728 kB\n", "2147483648\n", 2.0),
        ("MemTotal: 9437184 kB\nMemAvailable:    3145728 kB\n", "4294967296\n", 3.0),
        (None, "4294967296\n", 4.0),
        (None, None, 7.0),
    ],
)
def test_free_memory_is_what_the_machine_and_the_container_leave(
    meminfo: str | None, limit: str | None, expected: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "PROC", tmp_path)
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    monkeypatch.setattr(host, "read_total_memory", lambda: 7.0)
    for name, content in (("meminfo", meminfo), ("memory.max", limit)):
        if content is not None:
            (tmp_path / name).write_text(content)
    assert host.read_free_memory() == expected


def test_the_machines_memory_may_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf_names", {})
    assert timing.machine()["memory_gib"] is None


# ---- processes -------------------------------------------------------------------------------------------------------


@LINUX
def test_a_machine_is_named_as_it_always_was() -> None:
    """Locks that are held in a shared folder name it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert host.identify_machine() == f"{boot} {Path('/proc/self/ns/pid').readlink()}"


@pytest.mark.usefixtures("no_proc")
def test_a_machine_without_proc_is_named_by_its_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    first = host.identify_machine()
    host.identify_machine.cache_clear()
    assert host.identify_machine() == first
    host.identify_machine.cache_clear()
    monkeypatch.setattr(psutil, "boot_time", lambda: 1.0)
    assert host.identify_machine() != first
    assert re.fullmatch("[0-9a-f]{12}", locks._machine())


@pytest.mark.usefixtures("no_proc")
def test_a_linux_that_hides_its_containers_is_never_the_same_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two containers of one name would take each other's living processes for dead."""
    monkeypatch.setattr(sys, "platform", "linux")
    first = host.identify_machine()
    host.identify_machine.cache_clear()
    assert host.identify_machine() != first


@pytest.mark.usefixtures("no_proc")
def test_a_lock_is_held_and_taken_over_without_proc(tmp_path: Path) -> None:
    held = locks.acquire(tmp_path, "cell")
    assert held is not None
    assert held.owner.started > 0
    assert locks.acquire(tmp_path, "cell") is None
    assert locks.owner(tmp_path, "cell") == held.owner
    held.release()

    program = f"""
import sys
from pathlib import Path
import psutil  # before the platform changes
from harness.system import host, locks
host.PROC, sys.platform = Path({str(tmp_path / "proc")!r}), "darwin"
assert locks.acquire(Path({str(tmp_path)!r}), "cell")
print("taken", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"taken\n"
        assert locks.acquire(tmp_path, "cell") is None
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
        assert host.find_start(other.pid) == 0
        assert locks.acquire(tmp_path, "cell") is not None
    assert host.find_start(other.pid) is None


@pytest.mark.usefixtures("no_proc")
def test_a_process_that_may_not_be_asked_shows_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: psutil.Process) -> str:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "status", refuse)
    assert host.find_start(os.getpid()) is None
