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
from harness.errors import ConfigError, ObjectiveError
from harness.objectives.names import CALIBRATION, OBJECTIVES
from harness.objectives.spec import Need, ObjectiveSpec
from harness.settings import Settings
from harness.types import LossOutput, TokenBatch

if TYPE_CHECKING:
    from torch import Tensor

LossFunction = Callable[..., LossOutput]
"""`loss(batch, logged=True)` of a TokenBatch; statistics are computed only where they are `logged`."""
Selection = Callable[["Tensor"], "Tensor"]
"""A function from a frozen model's logits [N, V] to TokenBatch.selected, bool [N]."""

OF_THE_LOOP = ("samples", "experts")
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
        spec = OBJECTIVES[self.name]
        settings = {key: value for key, value in self.settings.items() if key not in OF_THE_LOOP}
        of_level = sets if spec.level == "set" else token
        function = partial(spec.function or getattr(of_level, self.name), **settings)

        def loss(batch: TokenBatch, logged: bool = True) -> LossOutput:
            with OBJECTIVES.blaming(self.name, "computing its loss"):
                if spec.level == "set":
                    return apply.set_level(function, self.name, batch, logged)
                return apply.token_level(function, batch, logged)

        return loss

    @property
    def selection(self) -> Selection:
        """Returns the function that selects positions by a frozen model's logits, if the objective needs a reference.
        ObjectiveError if it does not, or while its threshold is still a quantile."""
        from harness.objectives import token

        if "reference" not in self.needs or "calibration" in self.needs:
            raise ObjectiveError(f"{self.name} selects nothing by a reference under these settings: {self.settings}")
        select = OBJECTIVES[self.name].selection or getattr(token, f"{self.name}_selection")
        return partial(select, **self.settings)

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
    with OBJECTIVES.blaming(name, "needs(settings)"):
        needs = spec.needs(complete)
    return ReadyObjective(name, complete, needs | {"sets"} if spec.level == "set" else needs)


def build(name: str, **settings: Any) -> LossFunction:
    """Returns the objective as a pure function of a TokenBatch; ConfigError as in `ready`."""
    return ready(name, settings).loss


def problems(name: str, settings: Settings) -> list[str]:
    """Lists all mistakes in an objective's name and settings, one line each."""
    if wrong := OBJECTIVES.problems(name):
        return wrong
    spec = OBJECTIVES[name]
    try:
        with OBJECTIVES.blaming(name, "problems(settings)"):
            between = list(spec.problems(_with_defaults(spec, settings)))
    except ConfigError as error:
        return list(error.problems)
    return [*checks.problems(name, settings, spec.settings), *(f"{name}: {problem}" for problem in between)]


def _with_defaults(spec: ObjectiveSpec, settings: Settings) -> dict[str, Any]:
    """Orders the settings as the spec does; defaults where none is given, absent where there is no default."""
    given = {**checks.defaults(spec.settings), **settings}
    return {key: given[key] for key in spec.settings if key in given}
