"""Checks and completes an objective's name and settings once, and makes the functions that they define.

In: a name and settings, as a suite file has them. Out: a ReadyObjective. torch is imported only when a loss or a mask
is requested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from harness import settings as checks
from harness.errors import ConfigError, ObjectiveError, unknown
from harness.objectives.names import CALIBRATION, OBJECTIVES
from harness.objectives.spec import Need, ObjectiveSpec
from harness.settings import Settings
from harness.types import LossOutput

if TYPE_CHECKING:
    from torch import Tensor

LossFunction = Callable[..., LossOutput]
"""`loss(batch, logged=True)` of a TokenBatch; statistics are computed only where they are `logged`."""
Selection = Callable[["Tensor"], "Tensor"]
"""A function from a frozen model's logits [N, V] to TokenBatch.selected, bool [N]."""

OF_THE_LOOP = ("samples",)
"""Settings for what the training loop supplies; the function does not take them."""


@dataclass(frozen=True, slots=True)
class ReadyObjective:
    """An objective whose settings are complete and valid; a record holds `settings`."""

    name: str
    settings: dict[str, Any]
    needs: frozenset[Need]

    @property
    def loss(self) -> LossFunction:
        """Returns the objective as a pure function of a TokenBatch."""
        from harness.objectives import apply, sets, token

        if "calibration" in self.needs:
            raise ObjectiveError(
                f"{self.name} has no threshold yet, only quantile {self.settings['quantile']}: "
                "calibrate it with the base model's top-k masses before training (ReadyObjective.calibrated)"
            )
        settings = {key: value for key, value in self.settings.items() if key not in OF_THE_LOOP}
        if OBJECTIVES[self.name].level == "set":
            function = partial(getattr(sets, self.name), **settings)
            return lambda batch, logged=True: apply.set_level(function, self.name, batch, logged)
        function = partial(getattr(token, self.name), **settings)
        return lambda batch, logged=True: apply.token_level(function, batch, logged)

    @property
    def selection(self) -> Selection:
        """Returns the function that selects positions by a frozen model's logits, if the objective needs a reference.
        ObjectiveError if it does not, or while its threshold is still a quantile."""
        from harness.objectives import token

        if "reference" not in self.needs or "calibration" in self.needs:
            raise ObjectiveError(f"{self.name} selects nothing by a reference under these settings: {self.settings}")
        return partial(getattr(token, f"{self.name}_selection"), **self.settings)

    def calibrated(self, masses: Tensor) -> ReadyObjective:
        """Replaces the quantile by the threshold calibrated for it.

        Args:
            masses: [N], `top_k_mass` at every position of the calibration examples, base model in eval mode.
        """
        from harness.objectives.calibration import threshold_at

        if "calibration" not in self.needs:
            raise ObjectiveError(f"{self.name} with these settings has no quantile to calibrate: {self.settings}")
        settings = {key: value for key, value in self.settings.items() if key not in CALIBRATION}
        return ready(self.name, {**settings, "threshold": threshold_at(masses, self.settings["quantile"])})


def ready(name: str, settings: Settings) -> ReadyObjective:
    """Checks the settings and fills in the defaults. Numbers become floats (5 is 5.0).

    Raises:
        ConfigError: with every problem of the name and the settings.
    """
    if wrong := problems(name, settings):
        raise ConfigError(*wrong)
    spec = OBJECTIVES[name]
    complete = {key: spec.settings[key].kind(value) for key, value in _with_defaults(spec, settings).items()}
    needs = spec.needs(complete)
    return ReadyObjective(name, complete, needs | {"sets"} if spec.level == "set" else needs)


def build(name: str, **settings: Any) -> LossFunction:
    """Returns the objective as a pure function of a TokenBatch; ConfigError as in `ready`."""
    return ready(name, settings).loss


def problems(name: str, settings: Settings) -> list[str]:
    """Lists all mistakes in an objective's name and settings, one line each."""
    if name not in OBJECTIVES:
        return [unknown("objective", name, OBJECTIVES)]
    spec = OBJECTIVES[name]
    between = spec.problems(_with_defaults(spec, settings))
    return [*checks.problems(name, settings, spec.settings), *(f"{name}: {problem}" for problem in between)]


def _with_defaults(spec: ObjectiveSpec, settings: Settings) -> dict[str, Any]:
    """Orders the settings as the spec does; defaults where none is given, absent where there is no default."""
    given = {**checks.defaults(spec.settings), **settings}
    return {key: given[key] for key in spec.settings if key in given}
