"""Provides training objectives by name: pure functions from a TokenBatch to a LossOutput.

To add one, write its function (token.py: a contribution per target position; sets.py: one per equivalence set), and
under the same name its line in OBJECTIVES (names.py): equation, source, settings. Importing this package does not
import torch; computing a loss does.
"""

from __future__ import annotations

from harness.objectives.names import OBJECTIVES
from harness.objectives.ready import LossFunction, ReadyObjective, Selection, build, problems, ready
from harness.objectives.spec import Need, ObjectiveSpec

__all__ = [
    "OBJECTIVES",
    "LossFunction",
    "Need",
    "ObjectiveSpec",
    "ReadyObjective",
    "Selection",
    "build",
    "problems",
    "ready",
]
