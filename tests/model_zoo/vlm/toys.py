"""A toy of every family of transformers' vision-language models; all but the first are tried in the slow tier."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.inference.padding import target_batch
from harness.sequence.targets import target
from harness.suite.train_settings import Train
from harness.training.objective import prepare
from model_zoo.vlm.adapter import Vlm
from model_zoo.vlm.families import FAMILIES
from tests.support import small

FIRST, *OTHERS = FAMILIES
EACH = [FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
"""Every family; all but one in the slow tier."""


def fresh(family: str = FIRST, seed: int = 0, **settings: Any) -> Vlm:
    """In eval mode."""
    torch.manual_seed(seed)
    adapter = Vlm(small.benchmark().categories, {"family": family, **settings})
    adapter.model.eval()
    return adapter


@cache
def shared(family: str) -> Vlm:
    """Never change it."""
    return fresh(family)


def canonical(adapter: Vlm, count: int = 3) -> tuple[Tensor, Tensor]:
    """Pixels and inputs of the first training images."""
    examples = small.train_examples(count)
    sequences = [target(example, adapter.codec, "canonical") for example in examples]
    return adapter.pixels(examples), target_batch(sequences, adapter.codec).inputs


def trained(adapter: Vlm) -> Vlm:
    plan = Train(steps=2, batch_size=4)
    objective = prepare("ce", {}, adapter, (), plan, 0)
    small.fine_tune(adapter, objective, plan)
    adapter.model.eval()
    return adapter


def published(family: str, folder: Path) -> Vlm:
    """A toy in a folder, as transformers writes a model."""
    adapter = fresh(family)
    adapter.model.save_pretrained(folder)
    adapter.tokens._tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    return adapter
