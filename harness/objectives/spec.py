"""Describes a training objective without torch: its equation, its settings, and what must be supplied.

The values here are data; the functions that compute the losses are looked up by the objective's name (see
harness.objectives.ready).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.settings import Setting, Settings

Level = Literal["token", "set"]
"""token: a sum over target positions (harness.objectives.token). set: cross-entropy plus a sum over equivalence sets
(harness.objectives.sets)."""
Need = Literal["reference", "reference_logits", "calibration", "sets", "samples"]
"""The inputs of an objective besides logits and labels:

reference         TokenBatch.selected, from the base model
reference_logits  TokenBatch.reference, from a frozen model
calibration       a threshold calibrated on the base model's masses before training (ReadyObjective.calibrated)
sets              TokenBatch.members, with sets of two or more targets of one image in the batch
samples           sequences drawn from the model during training among the members, with their costs
"""


@dataclass(frozen=True, slots=True)
class ObjectiveSpec:
    """The description of an objective that is available before torch is imported.

    Args:
        level: whether its function stands in harness.objectives.token or in harness.objectives.sets, under its name.
        equation: in one line; `sg` stops the gradient.
        source: who published it.
        settings: by name; each is one keyword argument of the function, but for those of the calibration and the loop.
        problems: says what is wrong between the settings, defaults included.
        needs: says what must be supplied under complete settings, beside what its level needs.
    """

    level: Level
    equation: str
    source: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    problems: Callable[[Settings], list[str]] = lambda settings: []
    needs: Callable[[Settings], frozenset[Need]] = lambda settings: frozenset()
