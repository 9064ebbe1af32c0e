"""Settings that a suite gives an objective, a model or a benchmark by name: their types and ranges, checked in one way.

In: the written values, and a Setting for each allowed key. Out: problems, one line each: `pix2seq.bins: expected an
integer from 2 to 10000, got True`. (Keys that every suite has are checked by its schema, harness.suite.schema.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import unknown

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting has a range, in words and as a predicate of the whole value, its type included.

    Args:
        kind: what a right value becomes in complete settings, so that 5 and 5.0 are one number.
        default: None where it is absent unless given.
        names: where it is one of these names, of which the nearest to a wrong one is suggested.
        meaning: one sentence, for lists and for the reference.
    """

    expected: str
    accepts: Callable[[Any], bool]
    default: Any = None
    kind: Callable[[Any], Any] = lambda value: value
    names: tuple[str, ...] = ()
    meaning: str = ""

    def means(self, meaning: str) -> Setting:
        """Returns the setting with its meaning."""
        return replace(self, meaning=meaning)

    def problem(self, place: str, value: object) -> str | None:
        """Describes the mistake in a value at this place (`pix2seq.bins`); None if there is none."""
        if self.accepts(value):
            return None
        if self.names:
            return unknown(place, str(value), self.names)
        return f"{place}: expected {self.expected}, got {value!r}"


def problems(owner: str, given: Settings, allowed: Mapping[str, Setting]) -> list[str]:
    """Lists unknown keys and wrong values among the settings of an owner (`pix2seq`), one line each."""
    lines = []
    for key, value in given.items():
        if key not in allowed:
            lines.append(f"{owner}: {unknown('setting', str(key), allowed)}")
        elif (problem := allowed[key].problem(f"{owner}.{key}", value)) is not None:
            lines.append(problem)
    return lines


def defaults(allowed: Mapping[str, Setting]) -> dict[str, Any]:
    """Returns the settings that have a default."""
    return {key: setting.default for key, setting in allowed.items() if setting.default is not None}


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole(low: int, high: int | None = None, default: int | None = None) -> Setting:
    """Describes an integer of at least `low`, or from `low` to `high`."""
    expected = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    top = math.inf if high is None else high
    return Setting(expected, lambda value: _whole(value) and low <= value <= top, default)


def number(expected: str, accepts: Callable[[float], bool], default: float | None = None) -> Setting:
    """Describes a real number in a range; an integer is one too."""
    return Setting(expected, lambda value: _number(value) and accepts(value), default, float)


def at_least(low: float, default: float | None = None) -> Setting:
    """Describes a finite number of at least `low`."""
    return number(f"a finite number >= {low:g}", lambda x: low <= x < math.inf, default)


def above(low: float, default: float | None = None) -> Setting:
    """Describes a finite number greater than `low`."""
    return number(f"a finite number > {low:g}", lambda x: low < x < math.inf, default)


def fraction(default: float | None = None) -> Setting:
    """Describes a number in [0, 1)."""
    return number("a number in [0, 1)", lambda x: 0 <= x < 1, default)


def one_of(words: tuple[str, ...], default: str | None = None) -> Setting:
    """Describes one of a few words."""
    expected = ", ".join(words[:-1]) + f" or {words[-1]}"
    return Setting(expected, lambda value: isinstance(value, str) and value in words, default)


def named(names: Iterable[str]) -> Setting:
    """Describes one of many names, of which the nearest is suggested."""
    allowed = tuple(names)
    return Setting("a name", lambda value: isinstance(value, str) and value in allowed, names=allowed)


def text(expected: str = "text", accepts: Callable[[str], bool] = lambda value: True) -> Setting:
    """Describes a text, or one that is accepted."""
    return Setting(expected, lambda value: isinstance(value, str) and accepts(value))


def flag() -> Setting:
    """Describes true or false."""
    return Setting("true or false", lambda value: isinstance(value, bool))
