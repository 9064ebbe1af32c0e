"""Where the time of a cell goes: wall-clock seconds by phase.

Code says what it is doing, `with phase("forward"):`; this costs nothing unless somebody is `recording`. What other
threads do is nobody's phase.
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
    """Gives the seconds of a block to this phase, where a recorder is at work in this thread."""
    recorder = _ACTIVE.get()
    return _NOTHING if recorder is None else recorder.phase(name)


@contextmanager
def recording(recorder: PhaseRecorder | None) -> Iterator[None]:
    """Has the recorder measure every `phase` in the block; None measures nothing."""
    token = _ACTIVE.set(recorder)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


class PhaseRecorder:
    """Adds up `seconds` by phase, those outside of any phase as OTHER: together they are the time since it was made.
    A phase within another one is not part of that one.

    settle: called at every border; on a GPU, which is asked to do things and does them later, it waits for them.
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
        """Until now, OTHER last."""
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
    """What a PhaseRecorder has added up, and the wall-clock time that it makes together."""
    path.parent.mkdir(exist_ok=True)
    files.write_text(path, json.dumps({"wall": sum(seconds.values()), "seconds": seconds}, indent=1) + "\n")


def read(folder: Path) -> dict[str, dict[str, float]]:
    """Seconds by phase of every cell in a folder of such files. DataError (one line) for a file that is none."""
    by_process = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text())
            by_process[path.stem] = {str(phase): float(seconds) for phase, seconds in content["seconds"].items()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(f"{path}: expected the profile of a cell, got: {error!r}; remove it") from None
    return by_process


def total(profiles: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds by phase of all together, the longest first, OTHER last."""
    added: Counter[str] = Counter()
    for seconds in profiles:
        added.update(seconds)
    return dict(sorted(added.items(), key=lambda item: (item[0] == OTHER, -item[1])))
