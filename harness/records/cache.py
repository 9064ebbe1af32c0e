"""What is made once: a value goes by a name, and who asks for it again, in a later process too, need not make it again.

Here is what code asks of a cache, and one that keeps nothing; those that keep files are in harness.run.
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
        """Returns the value of this name: as it was kept, or as `make` makes it now. Of several processes that compute
        a cell together all make it, and all get that of rank 0."""
        ...


class SharedCache(Cache, Protocol):
    """A cache whose processes share the making of many values."""

    def get_or_make_each(
        self, makers: Mapping[str, Callable[[], Any]], ready: Callable[[str], None] = _ignore
    ) -> list[Any]:
        """Returns the values of all names, in order; each that was not kept is made by one of the processes.

        Values are such as JSON has. Calls `ready` with each name whose value is there. Only rank 0 gets the values, the
        others an empty list.
        """
        ...


class NoCache:
    """A SharedCache of one process that keeps nothing: everything is made when it is asked for."""

    def get_or_make(self, name: str, make: Callable[[], T], /) -> T:
        """Makes it."""
        del name
        return make()

    def get_or_make_each(
        self, makers: Mapping[str, Callable[[], Any]], ready: Callable[[str], None] = _ignore
    ) -> list[Any]:
        """Makes them all."""
        values = []
        for name, make in makers.items():
            values.append(make())
            ready(name)
        return values
