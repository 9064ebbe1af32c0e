"""Decodes a large JSON results file into one table of numbers, in parts, by one process or by two.

The text is cut between records into parts of about a quarter of a megabyte, which fit the processor's cache; a record
never becomes an object for longer than its part takes. Where it is safe, a forked process decodes in parallel into a
shared table, while this process imports modules and reads annotations.

This is a short cut: anything unusual in a file raises NotPlainError, and the caller reads the file again the careful
way (`benchmarks.readers.detections.load`), which reports the mistake. NumPy is imported late, because its threads
would make the fork unsafe.

Shape legend: n records of a part, D records of the file; a row of a table is in hotcoco's order: image_id, x, y, w,
h, score, category_id.
"""

from __future__ import annotations

import gc
import mmap
import os
import re
import signal
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Table = NDArray[np.float64]

LARGEST_ID = 2**53 - 1
"""Largest id: ids travel through float64 arrays on their way to the evaluator."""
PART = 2**18
"""Bytes of text that are decoded at a time."""
MOST_PARTS = 2**14
"""Largest number of parts: their numbers (4 bytes each) fit the buffer of a pipe."""
WINDOW, LARGEST_WINDOW = 2**12, 2**20
"""Bytes that are searched for a place to cut: at first, and at most."""
SHORTEST = len('{"image_id":0,"category_id":0,"bbox":[0,0,0,0],"score":0}')
COLUMNS = 7
QUOTES = 8
"""Quotes of a record with its four keys and nothing else."""
KEYS = (b'"image_id"', b'"category_id"', b'"bbox"', b'"score"')
BETWEEN_RECORDS = re.compile(rb"\}\s*,(?=\s*\{)")


class NotPlainError(Exception):
    """The file needs the careful reader: it is invalid, or valid in a way that is not handled here."""


Id = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_ID)]


class DetectionRecord(msgspec.Struct, gc=False):
    """One detection; other fields are skipped."""

    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True, slots=True)
class RowTable:
    """The rows of a file, which lie in stretches of a larger table; the rows between them are unused.

    rows [*, 7]; stretches: first row and the one after the last, ascending.
    """

    rows: Table
    stretches: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.stretches)

    def parts(self) -> Iterator[Table]:
        """Yields the rows of each stretch, each [n, 7], as views."""
        for start, stop in self.stretches:
            yield self.rows[start:stop]


class SharedDecoder:
    """Decodes the parts of one file, with a helper process if there is one.

    Use as a context: `start`, do other work, `finish`. The helper always ends with the context.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        size = os.fstat(self._descriptor).st_size
        self._edges = _cut(self._descriptor, size, max(PART, size // (MOST_PARTS // 2)))
        rows = [0, *((stop - start) // SHORTEST + 1 for start, stop in self._edges)]
        self._first = list(accumulate(rows))
        self._table = mmap.mmap(-1, max(1, self._first[-1] * COLUMNS * 8))
        self._counts = mmap.mmap(-1, 8 * len(self._edges))
        self._queue, entry = os.pipe()
        os.write(entry, struct.pack(f"<{len(self._edges)}I", *range(len(self._edges))))
        os.close(entry)
        self._helper: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the helper, if it still runs, and closes the files. Returned tables stay valid."""
        if self._helper is not None:
            with suppress(ProcessLookupError):
                os.kill(self._helper, signal.SIGKILL)
            self._wait()
        os.close(self._queue)
        os.close(self._descriptor)

    def start(self) -> None:
        """Forks the helper where that is safe: on Linux, in a process of one thread, with more than one part to do."""
        if len(self._edges) < 2 or not can_fork():
            return
        child = os.fork()
        if child:
            self._helper = child
            return
        status = 1
        try:  # the child: no handler, clean-up or output of the parent may run here
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            self._decode_parts()
            status = 0
        finally:
            os._exit(status)

    def finish(self) -> RowTable:
        """Decodes the rest, and returns all rows in the order of the file. Raises NotPlainError."""
        import numpy as np  # late: see above

        self._decode_parts()
        if self._helper is not None and self._wait() != 0:
            raise NotPlainError("the helper found something unusual")
        table = np.frombuffer(self._table, np.float64)[: self._first[-1] * COLUMNS].reshape(-1, COLUMNS)
        counts = struct.unpack(f"<{len(self._edges)}q", self._counts)
        del self._table  # the memory lives as long as the rows
        return RowTable(table, [(first, first + count) for first, count in zip(self._first, counts, strict=False)])

    def _wait(self) -> int:
        assert self._helper is not None
        _, status = os.waitpid(self._helper, 0)
        self._helper = None
        return status

    def _decode_parts(self) -> None:
        """Takes parts from the queue until it is empty."""
        import numpy as np  # late: see above

        table = np.frombuffer(self._table, np.float64)
        counts = np.frombuffer(self._counts, np.int64)
        decode = msgspec.json.Decoder(list[DetectionRecord]).decode
        buffer = bytearray(max(stop - start for start, stop in self._edges) + 2)
        with paused_collector():
            while claim := os.read(self._queue, 4):
                (part,) = struct.unpack("<I", claim)
                text = self._text(part, buffer)
                try:
                    records = decode(text)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    raise NotPlainError(str(error)) from None
                _require_keys_once(text, len(records))
                counts[part] = len(records)
                first = self._first[part] * COLUMNS
                _fill(table[first : first + len(records) * COLUMNS].reshape(-1, COLUMNS), records)

    def _text(self, part: int, buffer: bytearray) -> memoryview:
        """Reads a part and puts brackets around it; the file has the first and the last bracket."""
        start, stop = self._edges[part]
        size = stop - start
        read = os.preadv(self._descriptor, [memoryview(buffer)[1 : size + 1]], start)
        if read != size:
            raise NotPlainError("the file was changed")
        buffer[0:1], buffer[size + 1 : size + 2] = b"[", b"]"
        return memoryview(buffer)[1 if part == 0 else 0 : size + (1 if part == len(self._edges) - 1 else 2)]


def can_fork() -> bool:
    """Tells whether this process can be forked safely: a copied lock of another thread would never be released."""
    if sys.platform != "linux" or threading.active_count() > 1:
        return False
    try:
        return len(list(Path("/proc/self/task").iterdir())) == 1 and len(os.sched_getaffinity(0)) > 1
    except OSError:
        return False


@contextmanager
def paused_collector() -> Iterator[None]:
    """Keeps the garbage collector from scanning millions of numbers again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _cut(descriptor: int, size: int, part: int) -> list[tuple[int, int]]:
    """Finds the beginning and end of each part.

    A cut is between "}" and ", {". Inside a record (a list of objects among its other fields) such a cut leaves a
    text with an open bracket, which is refused. So if every part can be decoded, the parts contain exactly the
    records of the file.
    """
    cuts = [(0, 0)]
    while cuts[-1][1] + part < size and (place := _next_cut(descriptor, size, cuts[-1][1] + part)):
        cuts.append(place)
    cuts.append((size, size))
    return [(start, stop) for (_, start), (stop, _) in pairwise(cuts)]


def _next_cut(descriptor: int, size: int, position: int) -> tuple[int, int] | None:
    """Returns the end of the first record after `position` and the start of the next one; None if there is none
    nearby."""
    window = WINDOW
    while window <= LARGEST_WINDOW:
        match = BETWEEN_RECORDS.search(os.pread(descriptor, window, position))
        if match is not None:
            return position + match.start() + 1, position + match.end()
        if position + window >= size:
            return None
        window *= 4
    return None


def _require_keys_once(text: memoryview, records: int) -> None:
    """Raises NotPlainError if a record may have one of its keys twice: JSON readers take the last of two values."""
    import numpy as np  # late: see above

    if np.count_nonzero(np.frombuffer(text, np.uint8) == ord('"')) == QUOTES * records:
        return
    content = bytes(text)
    if any(content.count(key) != records for key in KEYS):
        raise NotPlainError("a key is there twice")


def _fill(rows: Table, records: list[DetectionRecord]) -> None:
    """Writes the records into the rows [n, 7] of a table."""
    import numpy as np  # late: see above

    n = len(records)
    numbers: Any = np.float64
    rows[:, 0] = np.fromiter(map(attrgetter("image_id"), records), numbers, n)
    boxes = np.fromiter(chain.from_iterable(map(attrgetter("bbox"), records)), numbers, 4 * n)
    rows[:, 1:5] = boxes.reshape(n, 4)
    rows[:, 5] = np.fromiter(map(attrgetter("score"), records), numbers, n)
    rows[:, 6] = np.fromiter(map(attrgetter("category_id"), records), numbers, n)
