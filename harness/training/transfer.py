"""Brings what the host prepared to the device. To a GPU from pinned memory and without waiting for the copy, small
tensors of whole numbers packed into one; on a CPU nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def copied_to(device: torch.device, tensor: Tensor) -> Tensor:
    """A tensor of the host, on the device. What follows on the device waits for it, the host does not: the pinned copy
    is kept by torch until it has been read."""
    return tensor.to(device) if device.type != "cuda" else tensor.pin_memory().to(device, non_blocking=True)


def packed_to(
    device: torch.device, *tensors: Tensor, copy: Callable[[torch.device, Tensor], Tensor] = copied_to
) -> list[Tensor]:
    """Tensors of whole numbers or truth values of the host, on the device: copied as one, in their shapes and types."""
    if device.type == "cpu":
        return list(tensors)
    joined = copy(device, torch.cat([tensor.flatten().long() for tensor in tensors]))
    parts = torch.split(joined, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]
