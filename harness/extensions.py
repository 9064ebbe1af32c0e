"""Finds the parts that other packages bring, by entry points: one group for each kind of part, one rule for all.

In:  a kind ("objective") and a name. Out: the entry point that brings it, or what that names, imported and checked.

A name stands for one part: one that detmodes has itself, or that two packages bring, is refused when it is used.
Every process finds the same parts, as it reads them from what is installed (or stands on PYTHONPATH).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterator, MutableMapping
from contextlib import AbstractContextManager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Literal, TypeVar

from harness.errors import ConfigError, unknown
from harness.extension_checks import blaming, origin, require_kind

Kind = Literal["benchmark", "model", "corrector", "objective", "reward", "stage", "family", "measure"]
GROUPS: dict[str, str] = {
    "benchmark": "detmodes.benchmarks",
    "model": "detmodes.adapters",
    "corrector": "detmodes.correctors",
    "objective": "detmodes.objectives",
    "reward": "detmodes.rewards",
    "stage": "detmodes.stages",
    "family": "detmodes.families",
    "measure": "detmodes.measures",
}
"""The entry-point group of each kind of part."""

Part = TypeVar("Part")


def foreign_points(kind: str) -> tuple[EntryPoint, ...]:
    """Lists what other packages bring of this kind, without importing any of it."""
    return _points_on(tuple(sys.path), GROUPS[kind])


@cache
def _points_on(path: tuple[str, ...], group: str) -> tuple[EntryPoint, ...]:
    """Reads the metadata of all that is installed on this path once: it takes milliseconds."""
    del path
    return tuple(sorted(entry_points(group=group), key=lambda point: point.name))


def find_point(kind: str, name: str, ours: Container[str] = ()) -> EntryPoint | None:
    """Returns the entry point of another package for this name; None where no other package has it.

    Raises:
        ConfigError: where the name is one of `ours` too, or two packages bring it.
    """
    points = [point for point in foreign_points(kind) if point.name == name]
    owners = [*(["detmodes"] if points and name in ours else []), *(_owner(point) for point in points)]
    if len(owners) > 1:
        raise ConfigError(
            f"{kind} {name}: expected one part of this name, got those of {' and '.join(owners)}; "
            f"rename one in its package's entry points ({GROUPS[kind]})"
        )
    return points[0] if points else None


def _owner(point: EntryPoint) -> str:
    return point.value if point.dist is None else f"{point.dist.name} {point.dist.version} ({point.value})"


class Extended(MutableMapping[str, Part], Generic[Part]):
    """Parts by name: those of detmodes, then those of other packages, each imported when it is looked up.

    Args:
        kind: of all of them. ours: those of detmodes; what is set later counts as one of them. is_one: whether what an
            entry point names is a part of this kind.
    """

    def __init__(self, kind: Kind, ours: dict[str, Part], is_one: Callable[[Any], bool]) -> None:
        self.kind, self.ours, self._is_one = kind, ours, is_one

    def __getitem__(self, name: str) -> Part:
        point = self.point(name)
        if point is None:
            return self.ours[name]
        with blaming(self.kind, name, point, "importing it"):
            try:
                made: Part = point.load()
            except ModuleNotFoundError as error:
                missing = f"it needs {error.name}, which is not installed here"
                raise ConfigError(f"{origin(self.kind, name, point)}: {missing}") from error
        require_kind(self.kind, name, point, made, self._is_one)
        return made

    def __setitem__(self, name: str, part: Part) -> None:
        self.ours[name] = part

    def __delitem__(self, name: str) -> None:
        del self.ours[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.ours, *(point.name for point in foreign_points(self.kind))]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self.ours or any(point.name == name for point in foreign_points(self.kind))

    def point(self, name: str) -> EntryPoint | None:
        """Returns the entry point of another package for this name; see `find_point`."""
        return find_point(self.kind, name, self.ours)

    def problems(self, name: str) -> list[str]:
        """Lists what is wrong with a name: it is unknown, taken twice, or its part cannot be imported."""
        if name not in self:
            return [unknown(self.kind, name, self)]
        try:
            _ = self[name]
        except ConfigError as error:
            return list(error.problems)
        return []

    def blaming(self, name: str, doing: str) -> AbstractContextManager[None]:
        """Around calls of a part: what another package's code raises becomes an error that names it."""
        return blaming(self.kind, name, self.point(name), doing)
