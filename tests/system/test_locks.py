"""One owner at a time, whoever dies; without models and without waiting for leases to run out."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.system import files, host, locks
from harness.system.locks import LEASE, Lock, LostError, Owner, acquire, held, names, owner

NAME = "ce-s0-0123abcd"
CONTENDERS = 20


@pytest.fixture
def gone() -> int:
    """The process id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def myself() -> Owner:
    return locks._myself()


def left_by(folder: Path, who: Owner, age: float = 0.0) -> Path:
    """A lock of this owner, last touched `age` seconds ago by the clock of the file system."""
    path = folder / NAME / who.file_name
    path.parent.mkdir(parents=True)
    path.touch()
    moment = files.clock(folder) - age
    os.utime(path, (moment, moment))
    return path


def mine(folder: Path) -> Lock:
    lock = acquire(folder, NAME)
    assert lock is not None
    return lock


# ---- one at a time -------------------------------------------------------------------------------------------------


def test_a_lock_has_one_owner_until_it_is_released(tmp_path: Path) -> None:
    first = mine(tmp_path)
    assert acquire(tmp_path, NAME) is None
    assert owner(tmp_path, NAME) == first.owner
    assert str(first.owner).endswith(f":{os.getpid()}")
    assert acquire(tmp_path, "another") is not None
    first.release()
    assert owner(tmp_path, NAME) is None
    assert mine(tmp_path).owner != first.owner
    assert names(tmp_path) == ["another", NAME]


def test_nothing_is_left_of_a_released_lock(tmp_path: Path) -> None:
    with held(tmp_path, NAME) as lock:
        assert lock is not None
        with held(tmp_path, NAME) as second:
            assert second is None
        assert names(tmp_path) == [NAME]
    assert list(tmp_path.iterdir()) == []


def test_an_exception_releases(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), held(tmp_path, NAME):
        raise KeyboardInterrupt
    assert acquire(tmp_path, NAME) is not None


def test_a_folder_that_its_owner_was_about_to_remove_is_free(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    assert owner(tmp_path, NAME) is None
    assert mine(tmp_path).path.is_file()


def test_owners_are_file_names_and_back() -> None:
    who = Owner("node-1.example", "0123abcdef", 4321, 987654, "fedc")
    assert Owner.of(who.file_name) == who
    me = myself()
    assert Owner.of(me.file_name) == me
    for other in ("", "record.json", "a~b~c~d~e", who.file_name + "~x"):
        assert Owner.of(other) is None


# ---- who is dead ---------------------------------------------------------------------------------------------------


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, gone: int) -> None:
    path = left_by(tmp_path, replace(myself(), pid=gone))
    assert owner(tmp_path, NAME) is None
    taken = mine(tmp_path)
    assert not path.exists()
    assert owner(tmp_path, NAME) == taken.owner
    assert acquire(tmp_path, NAME) is None


def test_a_process_id_that_was_given_out_again_is_not_the_owner(tmp_path: Path) -> None:
    """Our own id is alive, but its process started at another time than the owner."""
    who = myself()
    left_by(tmp_path, replace(who, started=who.started - 1))
    assert acquire(tmp_path, NAME) is not None


def test_a_process_that_nobody_waited_for_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        started = host.find_start(process.pid)
        assert started is not None
        left_by(tmp_path, replace(myself(), pid=process.pid, started=started))
        assert acquire(tmp_path, NAME) is None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
        assert acquire(tmp_path, NAME) is not None


@pytest.mark.parametrize(("age", "dead"), [(LEASE - 5, False), (LEASE + 5, True)])
def test_elsewhere_the_heartbeat_counts(tmp_path: Path, age: float, dead: bool) -> None:
    """Our process id and start mean nothing there."""
    left_by(tmp_path, replace(myself(), machine="0123456789ab"), age)
    assert (owner(tmp_path, NAME) is None) == dead
    assert (acquire(tmp_path, NAME) is not None) == dead


@pytest.mark.parametrize("wrong", [-3600.0, 3600.0])
def test_the_clock_of_the_file_system_counts(tmp_path: Path, wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose clock is an hour off from this machine's, as files in the folder show."""
    left_by(tmp_path, replace(myself(), machine="0123456789ab"), age=-wrong)
    monkeypatch.setattr(files, "clock", lambda folder: folder.stat().st_mtime + wrong)
    assert acquire(tmp_path, NAME) is None
    monkeypatch.setattr(files, "clock", lambda folder: folder.stat().st_mtime + wrong + LEASE + 5)
    assert acquire(tmp_path, NAME) is not None


@pytest.mark.parametrize(("age", "dead"), [(LEASE - 5, False), (LEASE + 5, True)])
def test_a_process_that_may_not_be_looked_at(
    tmp_path: Path, age: float, dead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another user, where /proc hides those: its heartbeat counts."""
    left_by(tmp_path, replace(myself(), pid=1), age)
    monkeypatch.setattr(host, "find_start", lambda pid: None if pid == 1 else 5)
    assert (acquire(tmp_path, NAME) is not None) == dead


def test_a_new_owner_looks_alive_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not be robbed for the old owner's silence before its own first heartbeat."""
    left_by(tmp_path, replace(myself(), machine="0123456789ab"), LEASE + 5)
    mine(tmp_path)
    monkeypatch.setattr(locks, "_machine", lambda: "another")
    assert acquire(tmp_path, NAME) is None


# ---- an owner that was taken for dead ------------------------------------------------------------------------------


def test_who_was_cut_off_finds_out_and_leaves_the_new_owner_alone(tmp_path: Path) -> None:
    with held(tmp_path, NAME) as lock:
        assert lock is not None
        lock.check()
        new = locks.Lock(lock.path.with_name(myself().file_name), myself())
        assert locks._take_over(lock.path, new)
        with pytest.raises(LostError, match="ce-s0-0123abcd: taken over while this process was cut off"):
            lock.check()
    assert new.path.is_file()


def test_heartbeats_come_until_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.01)
    with held(tmp_path, NAME) as lock:
        assert lock is not None
        os.utime(lock.path, (0, 0))
        deadline = threading.Event()
        for _ in range(500):
            if lock.path.stat().st_mtime > 0:
                break
            deadline.wait(0.01)
        assert lock.path.stat().st_mtime > 0
        (thread,) = [
            thread_of_lock for thread_of_lock in threading.enumerate() if thread_of_lock.name == f"heartbeat of {NAME}"
        ]
    thread.join(5)
    assert not thread.is_alive()


# ---- several at once -----------------------------------------------------------------------------------------------


def at_once(action: Callable[[], None], count: int = CONTENDERS) -> None:
    """All threads begin at the same moment."""
    start = threading.Barrier(count)

    def run() -> None:
        start.wait()
        action()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_one_wins(tmp_path: Path, gone: int, stale: bool) -> None:
    for trial in range(10):
        folder = tmp_path / str(trial)
        folder.mkdir()
        if stale:
            left_by(folder, replace(myself(), pid=gone))
        winners: list[Lock] = []

        def fight(folder: Path = folder, winners: list[Lock] = winners) -> None:
            if (lock := acquire(folder, NAME)) is not None:
                winners.append(lock)

        at_once(fight)
        assert len(winners) == 1
        assert owner(folder, NAME) == winners[0].owner


def test_never_two_inside(tmp_path: Path) -> None:
    """Taken, released and taken again by threads that all want it: what two at once would write is not lost."""
    inside: set[int] = set()
    at_a_time: list[set[int]] = []

    def work() -> None:
        me, entries = threading.get_ident(), 0
        while entries < 5:
            if (lock := acquire(tmp_path, NAME)) is None:
                continue
            inside.add(me)
            time.sleep(0.001)
            at_a_time.append(set(inside))
            inside.discard(me)
            entries += 1
            lock.release()

    at_once(work, count=6)
    assert [len(who) for who in at_a_time] == [1] * 30
    assert sorted(Counter(min(who) for who in at_a_time).values()) == [5] * 6
    assert list(tmp_path.iterdir()) == []


CONTENDER = """
import sys
from pathlib import Path
from harness.system.locks import acquire

folder, count = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
taken = [name for name in map(str, range(count)) if acquire(folder, name)]
print(*taken, flush=True)
sys.stdin.readline()  # alive until all have tried, or the locks would be free again
"""


def test_of_many_processes_one_wins(tmp_path: Path, gone: int) -> None:
    count, contenders = 200, 4
    for name in range(0, count, 2):  # every other one was left by a dead process
        left = tmp_path / str(name) / replace(myself(), pid=gone, token=f"{name:x}").file_name
        left.parent.mkdir()
        left.touch()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(tmp_path), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(contenders)
    ]
    for _ in "ready", "taken":
        lines = [process.stdout.readline() for process in processes if process.stdout]
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
    for process in processes:
        process.communicate(timeout=30)
        assert process.returncode == 0
    won = Counter(name for line in lines for name in line.split())
    assert won == Counter(map(str, range(count)))
