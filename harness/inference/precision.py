"""Chooses the number formats of a model that is not being trained, and of its frozen weights.

bf16 means autocast: trained weights, summed logits and everything written stay float32. Frozen matrices may be stored
in bf16, as autocast would round them to the same numbers each time.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, slots=True)
class Numbers:
    """The number format of a model on a device. bf16: autocast; else float32."""

    device: torch.device
    bf16: bool

    def autocast(self) -> AbstractContextManager[None]:
        """Returns the context for forward passes, also for nested ones that ask for float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def describe(self) -> str:
        """Returns the text for a record."""
        return "bf16 autocast" if self.bf16 else "float32"


def choose_numbers(device: torch.device, *precisions: Precision) -> Numbers:
    """Returns the format of the first precision that is not "auto"; if all are, bf16 on a GPU and float32 elsewhere.

    `choose_numbers(device, sample.precision, train.precision)` is the format of an evaluation.
    """
    chosen = next((precision for precision in precisions if precision != "auto"), None)
    return Numbers(device, bf16=device.type == "cuda" if chosen is None else chosen == "bf16")


def describe_precision(training: Numbers | None, evaluation: Numbers) -> str:
    """Describes the number formats of a cell for its record. training: None where nothing was trained."""
    if training is None or training.bf16 == evaluation.bf16:
        return evaluation.describe()
    return f"{training.describe()}, evaluated in {evaluation.describe()}"


def numbers_in_use(device: torch.device) -> str:
    """Describes the number format that a forward pass would use here, for a record."""
    on = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.bfloat16
    return Numbers(device, on).describe()


def is_exact(device: torch.device) -> bool:
    """Whether a forward pass at this very place would compute the same for a row in any batch, to the last bit."""
    return device.type == "cpu" and not torch.is_autocast_enabled("cpu")


# ---- frozen weights --------------------------------------------------------------------------------------------------


class HeldLinear(nn.Linear):
    """A linear layer whose frozen weights have fewer bits than its input: they are widened unless autocast narrows
    the input."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, self.weight.to(x.dtype), bias)


def hold_frozen_in_bf16(model: nn.Module) -> int:
    """Stores the frozen weights of linear layers in bf16; returns the bytes that this saves.

    Embeddings, normalisations and convolutions are unchanged, as autocast does not round all of their computations.
    So are weights that several modules share.
    """
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    saved = 0
    for module in model.modules():
        if type(module) is not nn.Linear or module.weight.requires_grad or owners[id(module.weight)] > 1:
            continue
        saved += module.weight.nbytes // 2 if module.weight.dtype == torch.float32 else 0
        module.weight.data = module.weight.data.bfloat16()
        module.__class__ = HeldLinear
    return saved


def share_frozen(copy: nn.Module, original: nn.Module) -> int:
    """Lets a copy of a model share the original's frozen tensors; returns the bytes that this saves. Raises
    ValueError for a copy whose names or shapes differ."""
    theirs = dict(original.named_parameters())
    mine = dict(copy.named_parameters())
    shapes = [{name: tuple(parameter.shape) for name, parameter in tensors.items()} for tensors in (theirs, mine)]
    if shapes[0] != shapes[1]:
        raise ValueError("expected a copy of the model, got one with other parameters")
    saved = 0
    for name, parameter in mine.items():
        if not theirs[name].requires_grad and parameter.data_ptr() != theirs[name].data_ptr():
            saved += parameter.nbytes
            parameter.data = theirs[name].data
    return saved
