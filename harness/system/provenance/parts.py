"""Describes the parts of other packages that a cell uses (adapters, benchmarks and correctors that an entry point
names) and their source. In: an entry point. Out: its description for a record, with the digest that identifies a
cell."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path

from harness.system.strict import StrictModel

UNKNOWN = "unknown"


class PartInfo(StrictModel):
    """reference: "module:Class"; package, version: the distribution that names it ("unknown" where there is none);
    source: sha256 of its Python files, see `digest_source`."""

    reference: str
    package: str
    version: str
    source: str


def describe_part(point: EntryPoint) -> PartInfo:
    """Describes the part that an entry point names, without importing it."""
    dist = point.dist
    return PartInfo(
        reference=point.value,
        package=UNKNOWN if dist is None else dist.name,
        version=UNKNOWN if dist is None else dist.version,
        source=digest_source(point.module),
    )


@cache
def digest_source(module: str) -> str:
    """Computes the sha256 of the Python files, with their names, of the top-level package of a module (of a single
    file where the module is one): a part may use any of them. "unknown" where there is no source."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec is None:
        return UNKNOWN
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    sources = [(path.relative_to(folder).as_posix(), path) for folder in folders for path in folder.rglob("*.py")]
    if not folders and spec.origin is not None and spec.origin.endswith(".py"):
        sources = [(Path(spec.origin).name, Path(spec.origin))]
    if not sources:
        return UNKNOWN
    digest = hashlib.sha256()
    for name, path in sorted(sources):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
