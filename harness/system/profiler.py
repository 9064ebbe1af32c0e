"""Measures where the time of a cell goes: wall-clock seconds by phase.

Code names what it does with `with phase("forward"):`; this costs nothing unless a recorder is active (`recording`).
Other threads are not measured.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path

from harness.errors import DataError
from harness.system import files

OTHER = "other"

_NOTHING = nullcontext()


def phase(name: str) -> AbstractContextManager[None]:
    """Counts the seconds of a block as this phase, if a recorder is active in this thread."""
    recorder = _ACTIVE.get()
    return _NOTHING if recorder is None else recorder.phase(name)


@contextmanager
def recording(recorder: PhaseRecorder | None) -> Iterator[None]:
    """Activates the recorder for every `phase` in the block; None measures nothing."""
    token = _ACTIVE.set(recorder)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


class PhaseRecorder:
    """Adds up `seconds` by phase, and those outside of any phase as OTHER, so that their sum is the time since it was
    made. The time of an inner phase does not count for the outer one.

    settle: called whenever the phase changes; on a GPU, which works asynchronously, it waits for the work to be done.
    """

    def __init__(
        self, settle: Callable[[], object] = lambda: None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._settle, self._clock = settle, clock
        self._open = [OTHER]
        self._seconds: dict[str, float] = {}
        self._since = clock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._border()
        self._open.append(name)
        try:
            yield
        finally:
            self._border()
            self._open.pop()

    @property
    def seconds(self) -> dict[str, float]:
        """Returns the seconds until now, OTHER last."""
        self._border()
        other = self._seconds.pop(OTHER)
        self._seconds[OTHER] = other
        return dict(self._seconds)

    def _border(self) -> None:
        self._settle()
        now = self._clock()
        name = self._open[-1]
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._since = now


_ACTIVE: ContextVar[PhaseRecorder | None] = ContextVar("phase recorder", default=None)


# ---- on disk ---------------------------------------------------------------------------------------------------------


def write(path: Path, seconds: Mapping[str, float]) -> None:
    """Writes what a PhaseRecorder has added up, and the total wall-clock time."""
    path.parent.mkdir(exist_ok=True)
    files.write_text(path, json.dumps({"wall": sum(seconds.values()), "seconds": seconds}, indent=1) + "\n")


def read(folder: Path) -> dict[str, dict[str, float]]:
    """Reads seconds by phase of every cell from a folder of such files. DataError (one line) for an invalid file."""
    by_process = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text())
            by_process[path.stem] = {str(phase): float(seconds) for phase, seconds in content["seconds"].items()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(f"{path}: expected the profile of a cell, got: {error!r}; remove it") from None
    return by_process


def total(profiles: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sums seconds by phase over all cells, the longest first, OTHER last."""
    added: Counter[str] = Counter()
    for seconds in profiles:
        added.update(seconds)
    return dict(sorted(added.items(), key=lambda item: (item[0] == OTHER, -item[1])))
