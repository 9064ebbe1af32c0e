"""Defines how weights, gradients and the optimizer's state are distributed over the processes of a run.

A step is the same under every engine: losses are divided by global counts already, so gradients are *summed* over the
processes. accelerate's configuration alone says which engine it is (`accelerate launch --config_file FILE`); files for
a node are in harness/launch_configs.

    DataParallel   every process has everything; the default, and always used by a single process
    FullySharded   FSDP2: weights, gradients and the optimizer's state are split; a block is whole while it runs
    DeepSpeed      ZeRO stage 2: gradients and the optimizer's state are split, weights are whole

The last two are in harness.training.engines.sharding. Precision is the suite's (`train.precision`), not accelerate's:
weights, gradients and their sums are float32 everywhere, and bf16 means autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn

from harness.errors import ConfigError
from harness.types import Projection

Precision = Literal["auto", "fp32", "bf16"]
Logits = Tensor | Projection
FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
"""Environment variables."""
MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


class DataParallel:
    """Every process has the whole model; gradients are added up once per step."""

    optimizer: torch.optim.Optimizer
    resumes = True
    """Whether harness.training.checkpoints can save and restore training under this engine."""

    def __init__(self, model: nn.Module, accelerator: Accelerator, precision: Precision = "auto") -> None:
        """precision: auto is bf16 where accelerate's is (harness.run.context: on a GPU), float32 elsewhere."""
        self.model, self._accelerator = model, accelerator
        self._bf16 = precision == "bf16" or (precision == "auto" and accelerator.mixed_precision == "bf16")

    def prepare(self, make_optimizer: MakeOptimizer) -> None:
        """Prepares model and optimizer before the first step. make_optimizer: gets the model whose parameters it
        updates."""
        self.optimizer = make_optimizer(self.model)

    def autocast(self) -> AbstractContextManager[None]:
        """Returns the context for a forward pass and its loss."""
        return torch.autocast(self._accelerator.device.type, torch.bfloat16, enabled=self._bf16)

    def forward(self, call: Callable[[], Logits]) -> Logits:
        """Runs `call`, a forward pass of the model in training, and returns its result. Every process makes equally
        many."""
        return call()

    def rounds(self, needed: int) -> int:
        """Returns how many forward passes a step has where this process needs `needed`; a collective call."""
        return needed

    def backward(self, loss: Tensor, last: bool) -> None:  # noqa: ARG002
        """Adds to the gradients. loss: this process's part of the global mean; last: whether it is the step's last
        pass."""
        torch.autograd.backward(loss)

    def reduce(self) -> None:
        """Sums gradients over the processes; those that no process has stay None."""
        if self._accelerator.num_processes == 1:
            return
        parameters = trained(self.model)
        has_gradient = torch.tensor([p.grad is not None for p in parameters], device=self._accelerator.device).int()
        for parameter, used in zip(parameters, self._accelerator.reduce(has_gradient, "sum").tolist(), strict=True):
            if used:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self._accelerator.reduce(gradient, "sum")

    def clip(self, largest: float) -> float:
        """Scales the gradients down to this global norm; returns the previous norm."""
        return float(nn.utils.clip_grad_norm_(trained(self.model), largest))

    def step(self) -> None:
        """Updates the weights and clears the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Gives every process whole weights in the block, so that nothing in it waits for another process: for
        evaluation, generation and saving. Entering is a collective call. Changes to the weights may be lost."""
        yield

    def finish(self) -> None:
        """Makes the weights whole permanently, after the last step. A collective call."""


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters that training changes, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def require_whole_weights(ema: float | None, accelerator: Accelerator) -> None:
    """Raises ConfigError where weights are to be averaged (`train.ema`) that are split."""
    if ema is not None and wants_sharding(accelerator):
        raise ConfigError("train.ema: expected processes that have the whole model each; not with FSDP, ZeRO")


def wants_sharding(accelerator: Accelerator) -> bool:
    """Tells whether accelerate is configured for another engine than DataParallel, and there are several processes.

    `accelerate launch` passes its configuration on in the environment, of which accelerate reads no more on a CPU.
    """
    return accelerator.num_processes > 1 and any(map(parse_flag_from_env, (FSDP, DEEPSPEED)))
