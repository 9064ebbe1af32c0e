"""Training objectives: pure functions from a TokenBatch to a LossOutput.

To add one, write the function (in token.py, or a file beside it) and its line in OBJECTIVES.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_args

from torch import Tensor

from harness.errors import ConfigError, ObjectiveError, unknown
from harness.objectives.calibration import log_probs, threshold_at, top_k_mass
from harness.objectives.token import Mask, by_kind, ce, sed_sft, sed_sft_needs, sed_sft_problems, select
from harness.types import LossOutput, TokenBatch

__all__ = [
    "OBJECTIVES",
    "Objective",
    "Setting",
    "Spec",
    "build",
    "by_kind",
    "complete",
    "problems",
    "reference_selection",
    "resolve",
    "selection",
    "top_k_mass",
]

Objective = Callable[[TokenBatch], LossOutput]
Settings = Mapping[str, Any]


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


def _nothing_wrong(_: Settings) -> list[str]:
    return []


def _nothing_needed(_: Settings) -> frozenset[str]:
    return frozenset()


@dataclass(frozen=True, slots=True)
class Spec:
    """What there is to know about an objective.

    `problems` checks the settings against each other; `needs` names what must be supplied besides logits and
    labels: "reference" (TokenBatch.selected from the base model), "calibration" (`resolve` before training).
    """

    function: Callable[..., LossOutput]
    equation: str
    source: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    problems: Callable[[Settings], list[str]] = _nothing_wrong
    needs: Callable[[Settings], frozenset[str]] = _nothing_needed


OBJECTIVES: dict[str, Spec] = {
    "ce": Spec(ce, "-log p_y", "cross-entropy, the maximum-likelihood baseline"),
    "sed_sft": Spec(
        sed_sft,
        "-log p_y + weight * m * (p_y*(p_y - 1) + 1/4), m = 1 where the top_k mass < threshold, else 0",
        "Chen et al., ACL 2026; arXiv 2602.07464",
        {
            "top_k": Setting(int, "an integer >= 1", lambda k: k >= 1),
            "threshold": Setting(float, "a number in (0, 1]", lambda t: 0 < t <= 1),
            "quantile": Setting(float, "a number in (0, 1)", lambda q: 0 < q < 1),
            "weight": Setting(float, "a finite number >= 0", lambda w: 0 <= w < math.inf, 1.0),
            "mask": Setting(str, "live, none or base", lambda m: m in get_args(Mask), "live"),
        },
        sed_sft_problems,
        sed_sft_needs,
    ),
}


def build(name: str, **settings: Any) -> Objective:
    """The objective as a pure callable; ConfigError with every problem of the name and the settings."""
    full = complete(name, settings)
    return partial(OBJECTIVES[name].function, **full)


def problems(name: str, settings: Settings) -> list[str]:
    """Everything that is wrong with an objective's name and settings, one line each; empty if nothing is."""
    if name not in OBJECTIVES:
        return [unknown("objective", name, OBJECTIVES)]
    spec = OBJECTIVES[name]
    found = [problem for key, value in settings.items() for problem in _problem(spec, str(key), value)]
    found += spec.problems(_with_defaults(spec, settings))
    return [f"{name}: {problem}" for problem in found]


def complete(name: str, settings: Settings) -> dict[str, Any]:
    """Checked settings with the defaults filled in: what a record holds. Numbers become floats (5 is 5.0)."""
    if found := problems(name, settings):
        raise ConfigError(*found)
    spec = OBJECTIVES[name]
    return {key: spec.settings[key].kind(value) for key, value in _with_defaults(spec, settings).items()}


def resolve(name: str, settings: Settings, masses: Tensor) -> dict[str, Any]:
    """Complete settings in which `quantile` has become the `threshold` that it stands for.

    masses [N]: `top_k_mass` at every target position of the calibration examples, base model in eval mode.
    """
    full = complete(name, settings)
    if "calibration" not in OBJECTIVES[name].needs(full):
        raise ObjectiveError(f"{name} with these settings has no quantile to calibrate: {dict(settings)}")
    threshold = threshold_at(masses, full.pop("quantile"))
    return complete(name, full | {"threshold": threshold})


def selection(logits: Tensor, settings: Settings, selected: Tensor | None = None) -> Tensor:
    """Which positions sed_sft's penalty acts on under these settings: bool [N] for logits [N, V].

    The very mask that the objective applies, for logging by token kind; means nothing at ignored positions.
    """
    full = complete("sed_sft", settings)
    del full["weight"]
    return select(log_probs(logits.detach()), selected, **full)


def reference_selection(logits: Tensor, settings: Settings) -> Tensor:
    """`TokenBatch.selected` for mask `base`: bool [N] from the base model's logits [N, V]."""
    return selection(logits, {**settings, "mask": "live"})


def _problem(spec: Spec, key: str, value: object) -> list[str]:
    if key not in spec.settings:
        return [unknown("setting", key, spec.settings)]
    setting = spec.settings[key]
    return [] if setting.valid(value) else [f"{key} must be {setting.expected}, got {value!r}"]


def _with_defaults(spec: Spec, settings: Settings) -> dict[str, Any]:
    """Settings in the order of the Spec, defaults where none is given, absent where there is no default."""
    defaults = {key: setting.default for key, setting in spec.settings.items() if setting.default is not None}
    given = {**defaults, **settings}
    return {key: given[key] for key in spec.settings if key in given}
