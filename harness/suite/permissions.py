"""What the command line allows beyond the files that it names itself: `--allow PLACE`, `--trust-remote-code MODEL`.

A suite file is given on the command line and speaks for itself: the files, folders and repositories that it names are
read. A record is not: whoever wrote the folder wrote it too. What it names is read inside the folder of its own run,
and anywhere else only where the command line names the place. Code that comes with a model runs only where the command
line names that model, whatever suite and record say. docs/explain/security.md has the whole picture.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import registry
from harness.errors import ConfigError
from harness.records.layout import CELLS, SUITE
from harness.suite.schema import NamedModel, Suite

TRUST = "trust_remote_code"
"""The setting by which a model is told that it may run the code that comes with it."""
MOST_CELLS = 20
"""So many cells may have been fine-tuned one from the other."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """What the command line allows.

    Args:
        places: paths, with all that is below them, and names of repositories (hub:OWNER/NAME@REVISION).
        trusted: models whose own code may run, as a suite's or record's settings name them.
    """

    places: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()

    @classmethod
    def of(cls, places: Iterable[str] | None, trusted: Iterable[str] | None) -> Permissions:
        """From the options of a verb, which are None where they were not given."""
        return cls(tuple(places or ()), tuple(trusted or ()))

    def allows(self, place: str, run: Path) -> bool:
        """Says whether a place that a record names may be read. run: the folder of the record's run."""
        if place in (*self.places, *self.trusted):
            return True
        if _is_remote(place) or "\0" in place:
            return False
        folders = (run, *map(Path, self.places))
        return any(Path(place).resolve().is_relative_to(folder.resolve()) for folder in folders)


NOTHING = Permissions()


def permit_suite(suite: Suite, permissions: Permissions) -> Suite:
    """Returns the suite as it may be run: models that the command line trusts may run their code.

    Raises ConfigError for a model that says itself that its code may run, for a model to trust that the suite has not,
    and where the record of a cell that a model begins with names places that are not allowed.
    """
    models, problems = [], []
    for model in suite.models:
        settings = _trusting(model.name, model.settings, permissions.trusted)
        models.append(model.model_copy(update=settings))
        lines = [*_untrusted(model.name, settings, permissions.trusted), *_refused_behind(model, permissions)]
        problems += [f"models.{model.label}: {problem}" for problem in lines]
    problems += _strangers(permissions.trusted, [(model.name, model.settings) for model in suite.models])
    if problems:
        raise ConfigError(*problems)
    return suite.model_copy(update={"models": tuple(models)}) if permissions.trusted else suite


def permit_record(folder: Path, name: str, settings: Mapping[str, Any], permissions: Permissions) -> dict[str, Any]:
    """Returns the settings of a cell's model as it may be built again.

    folder: of the cell. Raises ConfigError as `trust_models`, and where the record names places that are not allowed:
    all of them in one line, with the option that allows them.
    """
    given = trust_models(name, settings, permissions.trusted, f"{folder}: ")
    run, places = run_of(folder), registry.places("model", name, given)
    refused = [place for place in places if not permissions.allows(place, run)]
    refused += [further for place in places if place not in refused for further in _behind(name, place, permissions)]
    if refused:
        raise ConfigError(f"{folder}: {_refusal(refused)}")
    return given


def permit_benchmark(results: Path, name: str, settings: Mapping[str, Any], permissions: Permissions) -> None:
    """Raises ConfigError where the suite that lies in a run's folder names places that are not allowed. Those that it
    names relative to a data set are no such places: their folder is given on the command line."""
    refused = [p for p in registry.places("benchmark", name, settings) if not permissions.allows(p, results)]
    if refused:
        raise ConfigError(f"{results}: {_refusal(refused)}")


def trust_models(name: str, settings: Mapping[str, Any], trusted: Sequence[str], where: str = "") -> dict[str, Any]:
    """Returns a model's settings, with TRUST where the command line trusts it.

    where: what problems begin with. Raises ConfigError for settings that have TRUST themselves, and for a model to
    trust that is not this one.
    """
    given = _trusting(name, settings, trusted)
    problems = [f"{where}{problem}" for problem in _untrusted(name, given, trusted)]
    problems += _strangers(trusted, [(name, given)])
    if problems:
        raise ConfigError(*problems)
    return given


def run_of(cell: Path) -> Path:
    """Returns the folder of the run that a cell's folder lies in; that of the cell where it lies in none."""
    place = cell.resolve()
    run = place.parent.parent
    return run if place.parent.name == CELLS and (run / SUITE).is_file() else place


def _refused_behind(model: NamedModel, permissions: Permissions) -> list[str]:
    places = registry.places("model", model.name, model.settings)
    refused = [further for place in places for further in _behind(model.name, place, permissions)]
    return [_refusal(refused)] if refused else []


def _behind(name: str, place: str, permissions: Permissions, before: tuple[Path, ...] = ()) -> Iterator[str]:
    """Yields what may not be read of what a place names in turn: the record of a cell says what its model began with.

    before: the cells on the way here. ConfigError where one begins with itself: reading it would never end.
    """
    if "\0" in place:
        raise ConfigError(f"{place!r}: expected the name of a place, which has no null character")
    here = Path(place).resolve()
    if here in before or len(before) > MOST_CELLS:
        raise ConfigError(f"{place}: a cell that begins with itself, or with a row of more than {MOST_CELLS} others")
    for further in registry.places_behind(name, place):
        if permissions.allows(further, run_of(Path(place))):
            yield from _behind(name, further, permissions, (*before, here))
        else:
            yield further


def _trusting(name: str, settings: Mapping[str, Any], trusted: Sequence[str]) -> dict[str, Any]:
    return {**settings, **({TRUST: True} if registry.remote_code(name, settings) in trusted else {})}


def _untrusted(name: str, settings: Mapping[str, Any], trusted: Sequence[str]) -> list[str]:
    """Says that settings ask for what the command line alone can give."""
    code = registry.remote_code(name, settings)
    if settings.get(TRUST) in (None, False) or code in trusted:
        return []
    how = "no model of this kind has any" if code is None else f"give --trust-remote-code {shlex.quote(code)}"
    return [f"{TRUST}: code that comes with a model runs only where the command line says so: {how}"]


def _strangers(trusted: Sequence[str], models: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Says which of the models to trust are none of these: a misspelled one would silently not be trusted."""
    codes = [code for name, settings in models if (code := registry.remote_code(name, settings)) is not None]
    expected = f"one of {', '.join(codes)}" if codes else "none, as no model here comes with code"
    return [f"--trust-remote-code {name}: expected {expected}" for name in trusted if name not in codes]


def _refusal(places: Sequence[str]) -> str:
    options = " ".join(f"--allow {shlex.quote(place)}" for place in places)
    return f"a record names what lies outside of its run; if it is to be read, give {options}"


def _is_remote(place: str) -> bool:
    """Says whether it is a repository or a URL, which only its own name allows."""
    return place.startswith("hub:") or "://" in place
