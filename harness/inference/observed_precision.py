"""In which numbers a model really computes: seen in its forward passes, not concluded from device or settings."""

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
    """Notes what the forward passes of a model compute in, while it trains and otherwise.

    It looks at one linear map: of those that train (of all if none does) the first that is called, for some, as those
    inside torch's attention, never are. Under autocast all of them compute alike. found: for each use that was seen,
    "float32" or "bf16 autocast", with the type of weights that are not held in float32; several, with "; " between
    them, where passes differed.
    """

    def __init__(self, path: Path | None = None) -> None:
        """path: of a file that keeps what was seen, for a process that goes on with the same cell."""
        self._path = path
        self.observed: dict[str, str] = {}
        if path is not None:
            with suppress(DataError):
                self.observed = read_json(path)

    def watch(self, model: nn.Module, device: torch.device) -> None:
        """Looks at the passes of this model from now on."""
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
        """Notes what a pass computed in."""
        kinds = {*self.observed.get(use, numbers).split("; "), numbers}
        text = "; ".join(sorted(kinds))
        if self.observed.get(use) == text:
            return
        self.observed[use] = text
        if self._path is not None:
            write_json(self._path, self.observed)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
