"""Continued fine-tuning as a stage of training: any objective, so minimum-risk training and its like too."""

from __future__ import annotations

from harness.feed import Parts
from harness.stages import Sft
from harness.suite import Train
from harness.train import FineTuning, prepare


def stage(settings: Sft, plan: Train, parts: Parts) -> FineTuning:
    """As harness.later makes it. Where the objective has a reference, that becomes the model as the stage begins."""
    name, own = settings.of
    ready = prepare(name, own, parts.fresh(), parts.heldout, plan, parts.seed)
    return FineTuning(ready, plan, ready.reference)
