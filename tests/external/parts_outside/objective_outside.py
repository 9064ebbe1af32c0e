"""An objective of another package: cross-entropy plus a multiple of the entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.objectives import ObjectiveSpec
from harness.settings import at_least

if TYPE_CHECKING:
    from harness.objectives.token import PerToken, ScoredPositions


def loss(at: ScoredPositions, *, weight: float) -> PerToken:
    from harness.objectives.token import PerToken  # here, not above: a suite is read without torch

    entropy = -(at.log_p.exp() * at.log_p).sum(-1)
    return PerToken({"ce": at.nll, "entropy": entropy}, {"entropy": weight})


OBJECTIVE = ObjectiveSpec(
    level="token",
    equation="-log p_y + weight * H(p)",
    source="parts outside",
    settings={"weight": at_least(0, default=0.1)},
    function=loss,
)
