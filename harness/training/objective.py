"""An objective made ready to train with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from harness import objectives
from harness.errors import ConfigError, ObjectiveError
from harness.inference.teacher_forcing import top_k_masses
from harness.protocols import Adapter
from harness.suite.schema import Train
from harness.types import Example


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective ready to train with: the callable, and whatever it needs from the base model."""

    name: str
    settings: Mapping[str, Any]
    loss: objectives.Objective
    reference: Adapter | None = None
    """The frozen model that TokenBatch.selected (or, where `needs` says so, TokenBatch.reference) has to come from."""
    needs: frozenset[objectives.Need] = frozenset()
    selections: dict[tuple[int, tuple[int, ...]], Tensor] = field(default_factory=dict)
    """What the reference has selected so far, by image and sequence."""
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    """By kind of token, see harness.suite.schema.Train."""

    @property
    def threshold(self) -> float | None:
        return self.settings.get("threshold")


SUPPLIED: frozenset[objectives.Need] = frozenset({"reference", "calibration", "sets", "samples"})


def prepare(
    name: str, settings: Mapping[str, Any], base: Adapter, heldout: Sequence[Example], plan: Train, seed: int
) -> Objective:
    """Resolves a quantile on the held-out examples and keeps the base as the reference, as far as needed.

    `base` must be a copy that is not trained: it is put into eval mode here.
    """
    needs = objectives.needs(name, settings)
    if needs - SUPPLIED:
        raise ObjectiveError(f"{name} needs {sorted(needs - SUPPLIED)}, which this training loop does not supply")
    if base.codec.noise_objects and "sets" in needs:
        raise ConfigError(f"{name}: it compares whole sequences, which noise_objects extends at random; set it to 0")
    base.model.eval()
    if "calibration" in needs:
        if not heldout:
            raise ConfigError(
                f"{name}: quantile needs a calibration split, and the benchmark has none; "
                "give the benchmark calibration_images, or the objective a threshold"
            )
        masses = top_k_masses(base, heldout, plan.targets, seed, settings["top_k"])
        settings = objectives.resolve(name, settings, masses)
    full = objectives.complete(name, settings)
    reference = base if "reference" in needs else None
    return Objective(name, full, objectives.build(name, **full), reference, needs, loss_weights=plan.loss_weights)
