"""The only place that knows where benchmarks, adapters and correctors live.

Names come from the string dicts of `benchmarks`, `model_zoo` and `harness.corrections`, and from the entry-point groups
`detmodes.benchmarks`, `detmodes.adapters` and `detmodes.correctors` of other packages; a class is imported only when it
is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import ConfigError, unknown

if TYPE_CHECKING:  # both import torch, which listing names does not need
    from harness.corrections import Corrector, Targets
    from harness.protocols import Benchmark, Predictor
    from harness.sequence import Codec
    from harness.types import Category

Kind = Literal["benchmark", "model", "corrector"]
_SOURCES = {
    "benchmark": ("benchmarks", "BENCHMARKS", "detmodes.benchmarks"),
    "model": ("model_zoo", "ADAPTERS", "detmodes.adapters"),
    "corrector": ("harness.corrections", "CORRECTORS", "detmodes.correctors"),
}


def names(kind: Kind) -> dict[str, str]:
    """Name -> "module:Class". What detmodes ships wins over a package that takes the same name."""
    package, attribute, group = _SOURCES[kind]
    own: dict[str, str] = getattr(importlib.import_module(package), attribute)
    return {**{point.name: point.value for point in entry_points(group=group)}, **own}


def find(kind: Kind, name: str) -> Any:
    """The class behind a name."""
    known = names(kind)
    if name not in known:
        raise ConfigError(unknown(kind, name, known))
    return resolve(known[name])


def resolve(reference: str) -> Any:
    """ "module:attribute" -> the object."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def problems(kind: Kind, name: str, settings: Mapping[str, object]) -> list[str]:
    """What is wrong with a name and its settings; empty if nothing is."""
    try:
        found = find(kind, name).problems(settings)
    except ConfigError as error:
        return list(error.problems)
    return list(found)


def benchmark(name: str, settings: Mapping[str, object], data: Path | None) -> Benchmark:
    made: Benchmark = find("benchmark", name)(settings, data)
    return made


def model(name: str, categories: Sequence[Category], settings: Mapping[str, object]) -> Predictor:
    made: Predictor = find("model", name)(categories, settings)
    return made


def corrector(name: str, codec: Codec, targets: Targets) -> Corrector:
    made: Corrector = find("corrector", name)(codec, targets)
    return made


def shipped_suites() -> dict[str, Path]:
    """Suite name -> file, of the suites that come with the package."""
    folder = Path(str(files("benchmarks"))) / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
