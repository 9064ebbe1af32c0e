"""Defines caches of named values: a value that was made once need not be made again, in a later process too.

This module has the interface and a cache that stores nothing; those that store files are in harness.run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


def _ignore(name: str) -> None:
    del name


class Cache(Protocol):
    """Values by name."""

    def get_or_make(self, name: str, make: Callable[[], T], /) -> T:
        """Returns the value of this name: the stored one, or the one that `make` makes now. If several processes
        compute one cell, all of them call `make` and all get the value of rank 0."""
        ...


class SharedCache(Cache, Protocol):
    """A cache whose processes share the making of many values. processes: how many they are."""

    @property
    def processes(self) -> int: ...

    def get_or_make_each(
        self, makers: Mapping[str, Callable[[], Any]], ready: Callable[[str], None] = _ignore
    ) -> list[Any]:
        """Returns the values of all names, in order; each that was not stored is made by one of the processes.

        Values must be JSON values. Calls `ready` with each name whose value is available. Only rank 0 gets the
        values, the others an empty list.
        """
        ...


class NoCache:
    """A SharedCache of one process that stores nothing: every value is made whenever it is requested."""

    processes = 1

    def get_or_make(self, name: str, make: Callable[[], T], /) -> T:
        """Makes the value."""
        del name
        return make()

    def get_or_make_each(
        self, makers: Mapping[str, Callable[[], Any]], ready: Callable[[str], None] = _ignore
    ) -> list[Any]:
        """Makes all values."""
        values = []
        for name, make in makers.items():
            values.append(make())
            ready(name)
        return values
