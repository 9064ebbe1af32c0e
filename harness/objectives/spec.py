"""Describes a training objective without torch: its equation, its settings, and what must be supplied.

The values here are data; the functions that compute the losses of detmodes' own objectives are looked up by name (see
harness.objectives.ready). An objective of another package brings its function along, which imports torch when it is
called, so that suites can be read without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.settings import Setting, Settings

Level = Literal["token", "set"]
"""token: a sum over target positions (harness.objectives.token). set: cross-entropy plus a sum over equivalence sets
(harness.objectives.sets)."""
Need = Literal["reference", "reference_logits", "calibration", "sets", "samples", "experts"]
"""The inputs of an objective besides logits and labels:

reference         TokenBatch.selected, from the base model
reference_logits  TokenBatch.reference, from a frozen model
calibration       a threshold calibrated on the base model's masses before training (ReadyObjective.calibrated)
sets              TokenBatch.members, with sets of two or more targets of one image in the batch
samples           sequences drawn from the model during training among the members, with their costs
experts           in the prompt of each target, the token of the expert that it is likeliest under
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
        function: computes the loss; `(at, **settings) -> PerToken` as in harness.objectives.token, or, at the level of
            sets, `(of, **settings) -> Term` as in harness.objectives.sets. None for the one of this name there.
        selection: for one that needs "reference": `(logits [N, V], **settings) -> bool [N]` of the base model.
    """

    level: Level
    equation: str
    source: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    problems: Callable[[Settings], list[str]] = lambda settings: []
    needs: Callable[[Settings], frozenset[Need]] = lambda settings: frozenset()
    function: Callable[..., Any] | None = None
    selection: Callable[..., Any] | None = None
