"""Prepares an objective with what it takes from the base model: a calibrated threshold, a frozen reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from harness import objectives
from harness.errors import ConfigError, ObjectiveError
from harness.inference.teacher_forcing import top_k_masses
from harness.protocols import Adapter
from harness.suite.train_settings import Train
from harness.types import Example


@dataclass(frozen=True, slots=True)
class Objective:
    """The objective of a stage: the loss function, and whatever it needs from the base model.

    Args:
        settings: complete, as a record has them. reference: the frozen model for TokenBatch.selected (or, according
        to `needs`, TokenBatch.reference). selection: the selection by the logits of the reference. selections: the
        selections so far, by image and sequence. loss_weights: by kind of token, see
        harness.suite.train_settings.Train.
    """

    name: str
    settings: Mapping[str, Any]
    loss: objectives.LossFunction
    reference: Adapter | None = None
    needs: frozenset[objectives.Need] = frozenset()
    selection: objectives.Selection | None = None
    selections: dict[tuple[int, tuple[int, ...]], Tensor] = field(default_factory=dict)
    loss_weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def threshold(self) -> float | None:
        return self.settings.get("threshold")


SUPPLIED: frozenset[objectives.Need] = frozenset(
    {"reference", "reference_logits", "calibration", "sets", "samples", "experts"}
)


def prepare(
    name: str, settings: Mapping[str, Any], base: Adapter, heldout: Sequence[Example], plan: Train, seed: int
) -> Objective:
    """Calibrates a quantile on the held-out examples and makes the base the reference, where needed.

    Args:
        base: a copy that is not trained; it is put into eval mode here.
    """
    ready = objectives.ready(name, settings)
    needs = ready.needs
    if needs - SUPPLIED:
        raise ObjectiveError(f"{name} needs {sorted(needs - SUPPLIED)}, which this training loop does not supply")
    if base.codec.noise_objects and "sets" in needs:
        raise ConfigError(f"{name}: it compares whole sequences, which noise_objects extends at random; set it to 0")
    base.model.eval()
    if "calibration" in needs:
        ready = _calibrated(ready, base, heldout, plan.targets, seed)
    selects = "reference" in needs
    return Objective(
        name,
        ready.settings,
        ready.loss,
        reference=base if selects or "reference_logits" in needs else None,
        needs=needs,
        selection=ready.selection if selects else None,
        loss_weights=plan.loss_weights,
    )


def _calibrated(
    ready: objectives.ReadyObjective, base: Adapter, heldout: Sequence[Example], targets: str, seed: int
) -> objectives.ReadyObjective:
    """Computes the threshold from the masses of the base model on the held-out examples."""
    settings = ready.settings
    if not heldout:
        raise ConfigError(
            f"{ready.name}: quantile needs a calibration split, and the benchmark has none; "
            "give the benchmark calibration_images, or the objective a threshold"
        )
    number = settings.get("calibration_examples", len(heldout))
    if number > len(heldout):
        expected = f"at most the {len(heldout)} of the calibration split"
        raise ConfigError(f"{ready.name}: calibration_examples: expected {expected}, got {number}")
    top_k = settings.get("calibration_top_k", settings["top_k"])
    prompts = settings.get("calibration_positions") == "all"
    return ready.calibrated(top_k_masses(base, heldout[:number], targets, seed, top_k, prompts))
