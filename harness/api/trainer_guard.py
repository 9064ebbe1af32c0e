"""A callback of transformers' Trainer that sees that a loss is asked before every step."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn
from transformers import TrainerCallback

from harness.errors import ObjectiveError


class CountedLoss(Protocol):
    """What is watched: a loss that counts how often it was asked."""

    calls: int

    @property
    def name(self) -> str: ...

    def watch(self, model: nn.Module, numbers: torch.dtype | None = None) -> None: ...


class Guard(TrainerCallback):
    """Raises ObjectiveError before a step that was computed without the loss, and before training that would not
    honour it. From then on the loss knows what the model is asked."""

    def __init__(self, loss: CountedLoss) -> None:
        self._loss = loss
        self._calls = loss.calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuses what would change the loss without a word."""
        del state, control
        self._calls = self._loss.calls
        if args.label_smoothing_factor:
            raise ObjectiveError(
                "label_smoothing_factor has no effect beside compute_loss_func; use detmodes.loss('label_smoothing')"
            )
        parallel = getattr(args, "parallelism_config", None)
        if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
            raise ObjectiveError("context and sequence parallelism cut rows apart, which a causal loss cannot follow")
        numbers = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        self._loss.watch(kwargs["model"], numbers)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Compares how often the loss has been asked."""
        del args, control, kwargs
        if self._loss.calls == self._calls:
            raise ObjectiveError(
                f"step {state.global_step + 1} was computed without {self._loss.name}: something else makes the loss "
                "(a subclass of Trainer, a parallel engine), and compute_loss_func is not asked"
            )
        self._calls = self._loss.calls
