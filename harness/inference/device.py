"""Where to compute, and a base that is the same model for every cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from accelerate import Accelerator

from harness.errors import ConfigError
from harness.protocols import Adapter, Predictor

BASE_SEED = 0
"""Parts of a base that have no weights (random configurations, new vocabulary rows) are drawn from this seed,
the same for every cell: the base is one model."""

Device = Literal["auto", "cpu", "cuda"]


def accelerator_on(device: Device) -> Accelerator:
    """bf16 autocast on a GPU, float32 on a CPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no CUDA device here; use --device cpu")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    return Accelerator(cpu=not on_gpu, mixed_precision="bf16" if on_gpu else "no")


def base_of(make: Callable[[], Predictor], accelerator: Accelerator) -> Predictor:
    """What `make` makes, always with the same random numbers, on the device."""
    torch.manual_seed(BASE_SEED)
    made = make()
    if isinstance(made, Adapter):
        made.model.to(accelerator.device)
    return made
