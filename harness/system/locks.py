"""Who works on what: locks in a folder that several processes share, on one machine or on several.

    FOLDER/<name>/<owner>     held: a folder with one empty file, whose name says who has it
    no FOLDER/<name>          free (as is an empty folder: its owner was about to remove it)

Only two renamings decide, which a POSIX file system, NFS included, does for exactly one of several that try:

- a free lock is taken by renaming a folder that has the owner's file in it to <name>: this fails where <name> is there
  and not empty;
- the lock of a dead owner is taken over by renaming that owner's file to one's own: names are never used twice, so
  who comes second finds nothing to rename.

An owner on this machine is dead when its process is; a process id that was given out again is told by the time at
which the process started. An owner elsewhere is dead when it has not touched its file for LEASE seconds, by the clock
of the file system. An owner that has only been cut off for so long (a stopped machine, a broken network) finds its file
gone: it must look, with `Lock.check`, before it writes.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from harness.system import files, host

LEASE = 120.0
"""Seconds without a heartbeat after which an owner on another machine is taken for dead."""
BEAT = 10.0
"""Seconds between heartbeats. A file system's cached times may be a minute old: LEASE leaves room for that."""


class LostError(Exception):
    """The lock was taken over by another process, which took this one for dead."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, and one of its locks. `machine`: where its process ids mean something; `started`: see
    `host.find_start`."""

    host: str
    machine: str
    pid: int
    started: int
    token: str

    @property
    def file_name(self) -> str:
        return f"{self.host}~{self.machine}~{self.pid}~{self.started}~{self.token}"

    @classmethod
    def of(cls, file_name: str) -> Owner | None:
        """The inverse of `file_name`; None for a file that is no owner's."""
        match = re.fullmatch(r"([^~]+)~([0-9a-f]+)~([0-9]+)~([0-9]+)~([0-9a-f]+)", file_name)
        if match is None:
            return None
        host, machine, pid, started, token = match.groups()
        return cls(host, machine, int(pid), int(started), token)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


@dataclass(slots=True)
class Lock:
    """A lock that this process holds. `beat` runs until it is released."""

    path: Path
    owner: Owner
    _ended: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises LostError if another process has it now."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            raise LostError(f"{self.path.parent.name}: taken over while this process was cut off") from None

    def release(self) -> None:
        """Frees it; does nothing to a lock that was lost."""
        self._ended.set()
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # someone else has taken it meanwhile, and rightly
            self.path.parent.rmdir()

    def beat(self, every: float) -> None:
        while not self._ended.wait(every):
            with suppress(OSError):  # lost, or the folder is out of reach for a while: `check` tells which
                os.utime(self.path)


@contextmanager
def held(folder: Path, name: str) -> Iterator[Lock | None]:
    """The lock of this name while the block runs, with a heartbeat; None if another process has it."""
    lock = acquire(folder, name)
    if lock is None:
        yield None
        return
    threading.Thread(target=lock.beat, args=(BEAT,), daemon=True, name=f"heartbeat of {name}").start()
    try:
        yield lock
    finally:
        lock.release()


def acquire(folder: Path, name: str) -> Lock | None:
    """Takes a free lock, or that of a dead owner, without waiting; None if another process has it or was faster."""
    owner = _myself()
    lock = Lock(folder / name / owner.file_name, owner)
    holder = _file(folder / name)
    if holder is None:
        return lock if _take(folder, lock) else None
    if not _dead(holder):
        return None
    return lock if _take_over(holder, lock) else None


def owner(folder: Path, name: str) -> Owner | None:
    """Who has the lock, and is alive; None if it is free for the taking."""
    holder = _file(folder / name)
    return None if holder is None or _dead(holder) else Owner.of(holder.name)


def names(folder: Path) -> list[str]:
    """Every lock that somebody has, or left."""
    return sorted(path.name for path in folder.glob("*") if not path.name.startswith(".") and _file(path))


def _file(lock: Path) -> Path | None:
    """The file of whoever has it."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return next((path for path in sorted(lock.iterdir()) if Owner.of(path.name)), None)
    return None


def _take(folder: Path, lock: Lock) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    prepared = folder / f".{lock.owner.token}{files.PARTIAL}"
    prepared.mkdir()
    (prepared / lock.path.name).touch()
    with suppress(OSError):  # the place is taken
        prepared.rename(lock.path.parent)
    shutil.rmtree(prepared, ignore_errors=True)
    return lock.path.exists()  # asked of the file system: a network may lose the answer to a renaming that was done


def _take_over(holder: Path, lock: Lock) -> bool:
    with suppress(FileNotFoundError):  # another was faster
        os.utime(holder)  # renaming keeps its time: the new owner must not look dead for lack of a heartbeat
        holder.rename(lock.path)
    return lock.path.exists()


def _dead(holder: Path) -> bool:
    who = Owner.of(holder.name)
    assert who is not None
    if who.machine == _machine():
        started = host.find_start(who.pid)
        if started is not None or not _exists(who.pid):
            return started != who.started
    try:  # elsewhere, or a process of another user that this one may not look at
        return files.clock(holder.parents[1]) - holder.stat().st_mtime > LEASE
    except FileNotFoundError:  # released a moment ago
        return False


def _myself() -> Owner:
    pid = os.getpid()
    name = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())
    return Owner(name, _machine(), pid, host.find_start(pid) or 0, uuid.uuid4().hex)


def _machine() -> str:
    """The running system and its process ids: containers of one name, or of one machine, are told apart."""
    return sha256(host.identify_machine().encode()).hexdigest()[:12]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
