"""Finds benchmarks, adapters and correctors by name; no other module knows where they are defined.

Names come from the string dicts of `benchmarks`, `model_zoo` and `harness.training.stages.corrections`, and from the
entry points of other packages (harness.extensions); a class is imported only when it is used. Parts that are values
and no classes (objectives, rewards) are found where they are listed, by the same rules.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness import extensions
from harness.benchmark_checks import require_valid
from harness.errors import ConfigError, DataError, unknown
from harness.extension_checks import blaming, origin, require_class, require_json, require_lines, require_methods
from harness.settings import Setting
from harness.system.extras import install_command

if TYPE_CHECKING:  # both import torch, which listing names does not need
    from numpy.random import Generator

    from harness.metrics.diagnosis.codebook import SampleErrors
    from harness.protocols import Benchmark, Correction, Corrector, Predictor, Targets
    from harness.sequence import Codec
    from harness.types import Card, Category, Example, Parsed

Kind = Literal["benchmark", "model", "corrector"]
_SOURCES = {
    "benchmark": ("benchmarks", "BENCHMARKS"),
    "model": ("model_zoo", "ADAPTERS"),
    "corrector": ("harness.training.stages.corrections", "CORRECTORS"),
}


def names(kind: Kind) -> dict[str, str]:
    """Maps each name to "module:Class": those of other packages, then ours."""
    return {**{point.name: point.value for point in extensions.foreign_points(kind)}, **_ours(kind)}


def _ours(kind: Kind) -> dict[str, str]:
    package, attribute = _SOURCES[kind]
    built_in: dict[str, str] = getattr(importlib.import_module(package), attribute)
    return built_in


def foreign(kind: Kind, name: str) -> EntryPoint | None:
    """Returns the entry point of another package for this name; None if the name belongs to detmodes, or is unknown.
    ConfigError where two parts have the name."""
    return extensions.find_point(kind, name, _ours(kind))


def find(kind: Kind, name: str) -> Any:
    """Returns the class of a name."""
    available = names(kind)
    if name not in available:
        raise ConfigError(unknown(kind, name, available))
    point = foreign(kind, name)
    try:
        with blaming(kind, name, point, "importing it"):
            made_by = resolve(available[name])
    except ModuleNotFoundError as error:
        command = install_command(error.name or "")
        how = "" if command is None else f"; install it with: {command}"
        who = f"{kind} {name}" if point is None else origin(kind, name, point)
        raise ConfigError(f"{who}: it needs {error.name}, which is not installed here{how}") from error
    except AttributeError as error:
        raise ConfigError(f"{kind} {name}: expected the class {available[name]}, got: {error}") from error
    require_class(kind, name, point, made_by)
    return made_by


def resolve(reference: str) -> Any:
    """Imports "module:attribute" and returns the object."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _settings_of(kind: Kind, name: str) -> Any:
    """Returns what answers for the settings of a name: of our own models a module that imports no torch, with functions
    as in harness.protocols; of everything else the class itself."""
    modules: dict[str, str] = importlib.import_module("model_zoo").SETTINGS
    if kind == "model" and name in modules:
        return importlib.import_module(modules[name])
    return find(kind, name)


def problems(kind: Kind, name: str, settings: Mapping[str, object]) -> list[str]:
    """Lists the mistakes in a name and its settings; empty if there is none.

    What only the model's own libraries know (timm's list of backbones) is checked when the model is made.
    """
    try:
        point = foreign(kind, name)
        checks = _settings_of(kind, name)
        with blaming(kind, name, point, "problems(settings)"):
            reported = checks.problems(settings)
        return require_lines(kind, name, point, reported)
    except ConfigError as error:
        return list(error.problems)


def known_settings(kind: Kind, name: str) -> dict[str, Setting]:
    """Returns the settings of a name with their defaults, for lists and for the reference, where they are declared as
    SETTINGS and DEFAULTS beside what checks them; empty where they are not."""
    source = _settings_of(kind, name)
    defaults = getattr(source, "DEFAULTS", {})
    return {
        key: replace(setting, default=defaults.get(key, setting.default))
        for key, setting in getattr(source, "SETTINGS", {}).items()
    }


def places(kind: Kind, name: str, settings: Mapping[str, Any]) -> list[str]:
    """Lists what settings name to be read: files, folders, repositories. See harness.protocols.NamesPlaces: of a class
    that does not say, every text among its settings could be one."""
    tell = getattr(_settings_of(kind, name), "places", None)
    with blaming(kind, name, foreign(kind, name), "places(settings)"):
        return list(_texts(settings) if tell is None else tell(settings))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for item in inner:
        yield from _texts(item)


def places_behind(name: str, place: str) -> list[str]:
    """Lists what a model reads beside a place, as that place says. See harness.protocols.NamesPlaces."""
    tell = getattr(_settings_of("model", name), "places_behind", None)
    return [] if tell is None else list(tell(place))


def remote_code(name: str, settings: Mapping[str, Any]) -> str | None:
    """Returns what a model's code would come from if it were allowed to run some; None for a model that never does. See
    harness.protocols.RunsRemoteCode."""
    tell = getattr(_settings_of("model", name), "remote_code", None)
    code: str | None = None if tell is None else tell(settings)
    return code


def is_small_model(name: str, settings: Mapping[str, Any]) -> bool:
    """Tells whether a model is so small that several of it fit on any machine, and a core each is enough: whether
    `is_small` of what answers for its settings says so. Models that do not say are not."""
    tell = getattr(_settings_of("model", name), "is_small", None)
    return tell is not None and bool(tell(settings))


def benchmark(name: str, settings: Mapping[str, object], data: Path | None, every_picture: bool = True) -> Benchmark:
    """Makes a benchmark, and checks that its examples have what training and evaluation rely on. every_picture: whether
    the picture of every image must be there."""
    from harness.protocols import NeedsPictures  # late: listing names needs no contracts

    made_by = find("benchmark", name)
    with blaming("benchmark", name, foreign("benchmark", name), "making it"):
        made: Benchmark = made_by(settings, data)
        require_valid(name, made)
    if every_picture and isinstance(made, NeedsPictures):
        made.require_pictures()
    return made


def model(name: str, categories: Sequence[Category], settings: Mapping[str, object]) -> Predictor:
    made_by, point = find("model", name), foreign("model", name)
    with blaming("model", name, point, "making it"):
        made: Predictor = made_by(categories, settings)
        require_methods(name, point, made)
    return made


def describe_model(name: str, made: Predictor) -> dict[str, Any]:
    """Returns what identifies a model in a record."""
    point = foreign("model", name)
    with blaming("model", name, point, "describe()"):
        described = made.describe()
    return require_json(name, point, described)


def corrector(name: str, codec: Codec, targets: Targets) -> Corrector:
    """Makes a corrector. What one of another package raises, or gives in the place of corrections, is a ConfigError
    that names the package."""
    made_by, point = find("corrector", name), foreign("corrector", name)
    with blaming("corrector", name, point, "making it"):
        made: Corrector = made_by(codec, targets)
    return made if point is None else partial(_corrected, name, point, made)


def _corrected(
    name: str,
    point: EntryPoint,
    made: Corrector,
    example: Example,
    parsed: Parsed,
    errors: SampleErrors,
    rng: Generator,
) -> Sequence[Correction]:
    from harness.protocols import Correction

    with blaming("corrector", name, point, "correcting an answer"):
        corrections = list(dict.fromkeys(made(example, parsed, errors, rng)))
        if other := [item for item in corrections if not isinstance(item, Correction)]:
            raise TypeError(f"expected Corrections (harness.protocols), got {other[0]!r:.60}")
    return corrections


def first_sentence(reference: str) -> str:
    """Reads the first sentence of the docstring of the module of "module:Class" from its source; empty without one."""
    path = _source_of(reference)
    words = "" if path is None else " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    return re.split(r"(?<=\.)\s", words, maxsplit=1)[0]


def _source_of(reference: str) -> Path | None:
    module, _, _ = reference.partition(":")
    spec = importlib.util.find_spec(module)
    path = Path(spec.origin) if spec is not None and spec.origin is not None else None
    return path if path is not None and path.suffix == ".py" else None


def cards(reference: str) -> list[Card]:
    """Reads CARDS of the module of "module:Class" from its source, importing only the packages that contain it. Empty
    if it has none; DataError if they are not literals, or do not fit harness.types.Card."""
    from harness.types import Card

    path = _source_of(reference)
    if path is None:
        return []
    try:
        return [Card(**card) for card in _literal(path.read_text(), "CARDS") or []]
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: CARDS: expected a list of literals as in harness.types.Card, got: {error}") from None


def _literal(source: str, name: str) -> Any:
    """Returns the value that a module assigns to this name; None if it does not."""
    for statement in ast.parse(source).body:
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return ast.literal_eval(statement.value)  # type: ignore[attr-defined]
    return None


def lvis_categories() -> tuple[Category, ...]:
    """Returns the categories of LVIS v1 with all their names, followed by the names that differ in v0.5: 1,937
    awkward names."""
    from harness.types import Category

    text = files("benchmarks").joinpath("data/lvis_names.json").read_text()
    named = json.loads(text)
    return tuple(Category(id, tuple(names), None) for id, names in enumerate([*named["v1"], *named["v0.5"]], start=1))


def shipped_suites() -> dict[str, Path]:
    """Maps the name of each shipped suite to its file."""
    folder = Path(str(files("benchmarks"))) / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
