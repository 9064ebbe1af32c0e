"""A frozen model beside the one that the Trainer trains: it is asked what that one was asked.

A `compute_loss_func` is given outputs and labels, no inputs; so a hook on the trained model notes its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from harness.errors import ObjectiveError

NOT_ASKED = ("labels", "num_items_in_batch")
"""Inputs that are about the loss."""


@contextmanager
def asked(model: nn.Module) -> Iterator[None]:
    """Evaluates the model without a gradient while the block runs; afterwards it is in the mode that it was in."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


class FrozenReference:
    """A reference model, and what the trained model was last asked."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hook: RemovableHandle | None = None
        self._inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._numbers: torch.dtype | None = None

    def watch(self, trained: nn.Module, numbers: torch.dtype | None = None) -> None:
        """Notes what the trained model is asked from now on, and puts the reference on its device.

        Args:
            numbers: of automatic mixed precision; None without.

        Raises:
            ObjectiveError: where the two share a parameter that is trained.
        """
        if {id(p) for p in trained.parameters() if p.requires_grad} & {id(p) for p in self._model.parameters()}:
            raise ObjectiveError(
                "reference: shares weights with the model that is trained, and would change with it; give "
                "copy.deepcopy(model), made before training"
            )
        self.release()
        self._model.to(next(trained.parameters()).device)
        self._numbers = numbers
        self._hook = trained.register_forward_pre_hook(self._note, with_kwargs=True)

    def release(self) -> None:
        """Notes nothing any more."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._inputs = None

    def _note(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del model
        self._inputs = args, {key: value for key, value in kwargs.items() if key not in NOT_ASKED}

    def outputs(self, device: torch.device) -> Any:
        """Returns what the reference makes of the inputs of the trained model's last forward pass, which are forgotten.

        Raises:
            ObjectiveError: where no forward pass was noted.
        """
        if self._inputs is None:
            raise ObjectiveError(
                "reference: what the model was asked is not known; give the Trainer callbacks=[loss.guard()], or call "
                "loss.watch(model) before the forward pass"
            )
        (args, kwargs), self._inputs = self._inputs, None
        mixed = torch.autocast(device.type, self._numbers or torch.bfloat16, enabled=self._numbers is not None)
        with asked(self._model), mixed:
            return self._model(*_on(device, args), **_on(device, kwargs))


def _on(device: torch.device, value: Any) -> Any:
    """Moves the tensors of a row or mapping of inputs."""
    if isinstance(value, Mapping):
        return {key: _on(device, item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_on(device, item) for item in value)
    return value.to(device) if isinstance(value, Tensor) else value
