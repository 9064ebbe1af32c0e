"""Caches what was computed from a large cell for the next report: figures and their bootstrap replicates.

    DIR/estimates/<cell>/<step>-<temperature>-<points | replicates>.npz    beside the cells of a run
    <user's cache>/estimates/<cell>/...                                    where the folder of the run is read-only

The first line of a file names what it was computed from (the record, which names the digests of its tables; the code
that computes) and the digest of the rest. A file whose first line differs, or that is damaged, counts as absent.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

import harness.metrics
from harness.metrics.stats import REPLICATES
from harness.records import Record, tables
from harness.report import estimates
from harness.report.estimates import Estimates
from harness.system.files import cache_root, replacing

WORTH = 100_000
"""Images times categories from which on a cell is cached: below, computing takes no longer than reading."""


@dataclass(frozen=True, slots=True)
class EstimatesCache:
    """The cached estimates of all cells of a run."""

    folder: Path

    def of(self, cell: Path, record: Record, what: tuple[int, float, bool]) -> KeptEstimates | None:
        """Returns the cache of a cell's folder at (step, temperature, with replicates or not); None for a cell that
        is too small to be worth it."""
        if len(record.image_ids) * len(record.categories) < WORTH:
            return None
        step, temperature, replicates = what
        made_of = hashlib.sha256(record.model_dump_json().encode())
        made_of.update(f"{what} {REPLICATES} {np.__version__} {_code()}".encode())
        name = f"{step}-{temperature:g}-{'replicates' if replicates else 'points'}.npz"
        places = self.folder / cell.name / name, cache_root() / "estimates" / cell.name / name
        return KeptEstimates(places, made_of.hexdigest())


@dataclass(frozen=True, slots=True)
class KeptEstimates:
    """The cached estimates of one cell; the first of the places that can be written is used."""

    places: tuple[Path, ...]
    made_of: str

    def read(self) -> Estimates | None:
        """Reads the estimates; None where there is no valid file."""
        for place in self.places:
            with suppress(OSError):
                head, _, content = place.read_bytes().partition(b"\n")
                if head == self._head(content):
                    return _unpack(content)
        return None

    def write(self, estimates: Estimates) -> bool:
        """Writes the estimates and tells whether a place could be written; without one they are computed again next
        time."""
        content = _pack(estimates)
        for place in self.places:
            with suppress(OSError):
                place.parent.mkdir(parents=True, exist_ok=True)
                with replacing(place) as partial, partial.open("wb") as stream:
                    stream.writelines((self._head(content), b"\n", content))
                return True
        return False

    def _head(self, content: bytes | memoryview) -> bytes:
        return f"{self.made_of} {hashlib.sha256(content).hexdigest()}".encode()


@cache
def _code() -> str:
    """Returns the digest of the sources that compute estimates."""
    of_metrics = sorted(Path(harness.metrics.__path__[0]).rglob("*.py"))
    digest = hashlib.sha256()
    for path in (*of_metrics, Path(str(tables.__file__)), Path(estimates.__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _pack(estimates: Estimates) -> memoryview:
    """Makes the content of a file; it is large, and not copied."""
    file = io.BytesIO()
    np.savez(
        file,
        names=np.array(list(estimates.figures)),
        figures=np.stack(list(estimates.figures.values())),
        columns=np.array(list(estimates.categories)),
        categories=np.stack(list(estimates.categories.values())),
        support=estimates.support,
    )
    return file.getbuffer()


def _unpack(content: bytes) -> Estimates:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Estimates(
            dict(zip(arrays["names"].tolist(), arrays["figures"], strict=True)),
            dict(zip(arrays["columns"].tolist(), arrays["categories"], strict=True)),
            arrays["support"],
        )
