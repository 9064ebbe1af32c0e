"""States of training: small ones, and everything in them."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.training import checkpoints
from harness.training.checkpoints import Checkpoint, TrainingState


def state_of(seed: int = 0, width: int = 3) -> TrainingState:
    """A model with a frozen part and buffers that training changes, one of them not persistent."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
    model[2].requires_grad_(False)
    model.register_buffer("counter", torch.zeros((), dtype=torch.bfloat16), persistent=False)
    return TrainingState(
        model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=True)
    )


def step(state: TrainingState) -> None:
    """Inputs from torch's global generator, as dropout would use it."""
    state.model(torch.randn(4, 2)).square().sum().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.model.get_buffer("counter").add_(1)
    state.step += 1
    state.seconds += 0.1
    state.last = {"step": state.step, "loss": math.inf, "grad_norm": 0.1 + 0.2}
    state.selections[7, (state.step, 5)] = torch.rand(3) < 0.5


def everything(state: TrainingState) -> tuple[Any, ...]:
    """All of it as values that compare exactly."""
    tensors = {**state.model.state_dict(), "counter": state.model.get_buffer("counter")}
    moments = [
        (i, name, t.tolist())
        for i, moments in state.optimizer.state_dict()["state"].items()
        for name, t in moments.items()
    ]
    selections = {key: selection.tolist() for key, selection in state.selections.items()}
    return {n: t.tolist() for n, t in tensors.items()}, moments, selections, state.step, state.seconds, state.last


def draws() -> tuple[float, ...]:
    """The next number of each global generator; a normal one also of what NumPy and Python keep in reserve."""
    return random.random(), random.gauss(0, 1), np.random.normal(), np.random.random(), float(torch.rand(()))


def newest(folder: Path, *warnings: str, settings: str = "cell") -> Checkpoint | None:
    """The newest usable one, with these warnings."""
    messages: list[str] = []
    checkpoint = checkpoints.newest(folder, settings, lambda checkpoint: None, messages.append)
    assert len(messages) == len(warnings)
    for text, expected in zip(messages, warnings, strict=True):
        assert expected in text
    return checkpoint


def three_checkpoints(folder: Path) -> TrainingState:
    state = state_of()
    for _ in range(3):
        step(state)
        checkpoints.write(folder, state, "cell", {})
    return state


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])
