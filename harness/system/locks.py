"""Provides locks in a folder that several processes share, on one machine or on several.

    FOLDER/<name>/<owner>     held: a folder with one empty file, whose name says who has it
    no FOLDER/<name>          free (an empty folder is free too: its owner was about to remove it)

Only two renamings decide, which a POSIX file system, NFS included, does for exactly one of several that try:

- a free lock is taken by renaming a folder that has the owner's file in it to <name>: this fails where <name> is there
  and not empty;
- the lock of a dead owner is taken over by renaming that owner's file: names are never used twice, so the rename
fails for all but one process.

An owner on this machine is dead when its process is; a reused process id is recognised by the time at which the
process started. An owner elsewhere is dead when it has not touched its file for LEASE seconds, by the clock of the
file system. An owner that was only cut off for that long (a stopped machine, a broken network) no longer has its
file: it must call `Lock.check` before it writes.
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
"""Seconds without a heartbeat after which an owner on another machine counts as dead."""
BEAT = 10.0
"""Seconds between heartbeats. A file system's cached times may be a minute old: LEASE leaves room for that."""


class LostError(Exception):
    """Another process took the lock over, because this one seemed dead."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that holds a lock. `machine`: the machine or container of its process id; `started`: see
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
        """Parses a `file_name`; None for a file that names no owner."""
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
        """Raises LostError if another process has the lock now."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            raise LostError(f"{self.path.parent.name}: taken over while this process was cut off") from None

    def release(self) -> None:
        """Frees the lock; does nothing to a lock that was lost."""
        self._ended.set()
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # another process has taken it over
            self.path.parent.rmdir()

    def beat(self, every: float) -> None:
        while not self._ended.wait(every):
            with suppress(OSError):  # lost, or the folder cannot be reached for a while: `check` tells which
                os.utime(self.path)


@contextmanager
def held(folder: Path, name: str) -> Iterator[Lock | None]:
    """Holds the lock of this name while the block runs, with a heartbeat; yields None if another process has it."""
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
    """Returns the living owner of a lock; None if the lock is free."""
    holder = _file(folder / name)
    return None if holder is None or _dead(holder) else Owner.of(holder.name)


def names(folder: Path) -> list[str]:
    """Lists the names of all locks that have an owner, living or dead."""
    return sorted(path.name for path in folder.glob("*") if not path.name.startswith(".") and _file(path))


def _file(lock: Path) -> Path | None:
    """Returns the file of the lock's owner."""
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
    return lock.path.exists()  # look whether it worked: a network may lose the answer to a successful rename


def _take_over(holder: Path, lock: Lock) -> bool:
    with suppress(FileNotFoundError):  # another process was faster
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
    try:  # on another machine, or a process of another user that this one may not inspect
        return files.clock(holder.parents[1]) - holder.stat().st_mtime > LEASE
    except FileNotFoundError:  # released a moment ago
        return False


def _myself() -> Owner:
    pid = os.getpid()
    name = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())
    return Owner(name, _machine(), pid, host.find_start(pid) or 0, uuid.uuid4().hex)


def _machine() -> str:
    """Identifies the running system and its process ids, so that containers of one name, or of one machine, differ."""
    return sha256(host.identify_machine().encode()).hexdigest()[:12]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
