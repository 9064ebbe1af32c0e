"""Observes the number formats of a model's forward passes, instead of concluding them from device or settings."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from harness.errors import DataError
from harness.inference.precision import numbers_in_use
from harness.system.files import read_json, write_json

Use = Literal["training", "generation"]


class PrecisionObserver:
    """Records the number formats of a model's forward passes, in training and otherwise.

    It observes one linear layer: of the trained ones (of all if none is trained) the first that is called, as some,
    such as those inside torch's attention, never are. Under autocast all of them compute alike. observed: for each
    use, "float32" or "bf16 autocast", with the type of weights that are not float32; several, separated by "; ",
    where passes differed.
    """

    def __init__(self, path: Path | None = None) -> None:
        """path: a file that stores the observations, for a process that resumes the same cell."""
        self._path = path
        self.observed: dict[str, str] = {}
        if path is not None:
            with suppress(DataError):
                self.observed = read_json(path)

    def watch(self, model: nn.Module, device: torch.device) -> None:
        """Observes the passes of this model from now on."""
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        chosen = [module for module in linear if module.weight.requires_grad] or linear
        hooks: dict[nn.Module, RemovableHandle] = {}

        def look(module: nn.Module, inputs: object) -> None:
            del inputs
            use: Use = "training" if model.training else "generation"
            numbers, weight = numbers_in_use(device), next(module.parameters(recurse=False))
            self.add(use, numbers if weight.dtype == torch.float32 else f"{numbers}, weights {_name(weight.dtype)}")
            for other in [other for other in hooks if other is not module]:
                hooks.pop(other).remove()

        for module in chosen:
            hooks[module] = module.register_forward_pre_hook(look)

    def add(self, use: Use, numbers: str) -> None:
        """Records the number format of a pass."""
        kinds = {*self.observed.get(use, numbers).split("; "), numbers}
        text = "; ".join(sorted(kinds))
        if self.observed.get(use) == text:
            return
        self.observed[use] = text
        if self._path is not None:
            write_json(self._path, self.observed)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
