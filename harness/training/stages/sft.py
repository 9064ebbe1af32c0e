"""Continued fine-tuning as a stage of training: any objective, so minimum-risk training and its like too."""

from __future__ import annotations

from harness.suite.schema import Train
from harness.suite.stage_settings import Sft
from harness.training.finetuning import FineTuning
from harness.training.objective import prepare
from harness.training.stage import Parts


def stage(settings: Sft, plan: Train, parts: Parts) -> FineTuning:
    """As harness.training.stages.kinds makes it. Where the objective has a reference, that becomes the model as the
    stage begins."""
    name, own = settings.of
    ready = prepare(name, own, parts.fresh(), parts.heldout, plan, parts.seed)
    return FineTuning(ready, plan, ready.reference)
