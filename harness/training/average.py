"""The mean of the weights along training (`train.ema`), which is evaluated and stored instead of the weights.

With d the setting and w_i the weights after step i, it is after t steps

    sum_i d^(t - i) * w_i / sum_i d^(t - i)

(Kingma and Ba, ICLR 2015, section 7.2): the exponential moving average without its bias to where it began, so that
short runs are not averaged with the base. Buffers are those of the model as it is.

In:  a model, and after each step how many there were.
Out: a dictionary of tensors by the names of the model's trained parameters, which a checkpoint holds too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def begin(model: nn.Module) -> dict[str, Tensor]:
    """Allocates the mean, before the first step."""
    return {name: weight.detach().clone() for name, weight in _trained(model).items()}


@torch.no_grad()
def update(mean: Mapping[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Updates the mean with the weights after a step.

    Args:
        decay: d, in (0, 1).
        step: t, how many there have been, this one included; the first replaces what was in the mean.
    """
    share = (1 - decay) / (1 - decay**step)  # of the newest weights: 1 / sum_i d^(t - i)
    for name, weight in _trained(model).items():
        mean[name].lerp_(weight, share)


@contextmanager
def shown(mean: Mapping[str, Tensor], model: nn.Module) -> Iterator[None]:
    """Replaces the weights by the mean while the block runs; does nothing without a mean."""
    _exchange(mean, model)
    try:
        yield
    finally:
        _exchange(mean, model)


@torch.no_grad()
def put_in_place(mean: Mapping[str, Tensor], model: nn.Module) -> None:
    """Replaces the weights by the mean permanently; does nothing without a mean."""
    for name, weight in _trained(model).items() if mean else ():
        weight.copy_(mean[name])


@torch.no_grad()
def _exchange(mean: Mapping[str, Tensor], model: nn.Module) -> None:
    """Exchanges weights and mean, one tensor at a time: only one is in memory twice."""
    for name, weight in _trained(model).items() if mean else ():
        before = weight.clone()
        weight.copy_(mean[name])
        mean[name].copy_(before)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
