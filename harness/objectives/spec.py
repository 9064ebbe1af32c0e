"""What there is to know about an objective: its function, its settings, and what it has to be given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.objectives.token import PerToken
from harness.types import Term

Settings = Mapping[str, Any]
Need = Literal["reference", "reference_logits", "calibration", "sets", "samples"]
"""What an objective is given besides logits and labels:

reference         TokenBatch.selected, from the base model
reference_logits  TokenBatch.reference, from a frozen model
calibration       `resolve` before training
sets              TokenBatch.members, with sets of two or more targets of one image in the batch
samples           sequences drawn from the model in training among the members, with their costs
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its type, its range in words and as a predicate. `default` None: absent unless given."""

    kind: type[int] | type[float] | type[str]
    expected: str
    accepts: Callable[[Any], bool]
    default: int | float | str | None = None

    def valid(self, value: object) -> bool:
        """Whether the value has the type (an int is a number, a bool is not) and lies in the range."""
        kinds = (int, float) if self.kind is float else (self.kind,)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.accepts(value)


def at_least(low: float, default: float | None = None) -> Setting:
    return Setting(float, f"a finite number >= {low:g}", lambda x: low <= x < math.inf, default)


def above(low: float, default: float | None = None) -> Setting:
    return Setting(float, f"a finite number > {low:g}", lambda x: low < x < math.inf, default)


def fraction(default: float | None = None) -> Setting:
    return Setting(float, "a number in [0, 1)", lambda x: 0 <= x < 1, default)


def count(default: int | None = None) -> Setting:
    return Setting(int, "an integer >= 1", lambda k: k >= 1, default)


def one_of(choices: tuple[str, ...], default: str) -> Setting:
    words = ", ".join(choices[:-1]) + f" or {choices[-1]}"
    return Setting(str, words, lambda value: value in choices, default)


def _nothing_wrong(_: Settings) -> list[str]:
    return []


def _nothing_needed(_: Settings) -> frozenset[Need]:
    return frozenset()


@dataclass(frozen=True, slots=True)
class TokenLevel:
    """An objective that is a sum over target positions.

    `problems` checks the settings against each other; `needs` says what must be supplied.
    """

    function: Callable[..., PerToken]
    equation: str
    source: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    problems: Callable[[Settings], list[str]] = _nothing_wrong
    needs: Callable[[Settings], frozenset[Need]] = _nothing_needed


@dataclass(frozen=True, slots=True)
class SetLevel:
    """Cross-entropy plus a sum over equivalence sets."""

    function: Callable[..., Term]
    equation: str
    source: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    problems: Callable[[Settings], list[str]] = _nothing_wrong
    needs: Callable[[Settings], frozenset[Need]] = lambda _: frozenset({"sets"})


Spec = TokenLevel | SetLevel
