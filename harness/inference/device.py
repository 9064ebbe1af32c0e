"""Chooses the device, and makes a base that is the same model for every cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from harness.errors import ConfigError
from harness.inference.precision import hold_frozen_in_bf16, share_frozen
from harness.protocols import Adapter, Predictor

BASE_SEED = 0
"""Parts of a base that have no weights (random configurations, new vocabulary rows) are drawn from this seed,
the same for every cell: the base is one model."""

SPLIT = (DistributedType.FSDP, DistributedType.DEEPSPEED)
"""Kinds of training that split a model's tensors, so that no other model can share them."""
Device = Literal["auto", "cpu", "cuda"]


def accelerator_on(device: Device) -> Accelerator:
    """Makes an accelerator with bf16 autocast on a GPU, and float32 on a CPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no CUDA device here; use --device cpu")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    return Accelerator(cpu=not on_gpu, mixed_precision="bf16" if on_gpu else "no")


def base_of(
    make: Callable[[], Predictor], accelerator: Accelerator, frozen_in_bf16: bool = False, like: Adapter | None = None
) -> Predictor:
    """Returns what `make` makes, always with the same random numbers, on the device.

    Args:
        make: Builds a model.
        accelerator: Says where it computes.
        frozen_in_bf16: Whether to hold matrices that do not train in bf16 (see harness.inference.precision).
        like: A model that `make` made before, whose frozen tensors this one uses too.
    """
    torch.manual_seed(BASE_SEED)
    made = make()
    if isinstance(made, Adapter):
        if frozen_in_bf16:
            hold_frozen_in_bf16(made.model)
        if like is not None and accelerator.distributed_type not in SPLIT:
            share_frozen(made.model, like.model)
        made.model.to(accelerator.device)
    return made
