"""What the host prepared is the same on the device, whichever way it took."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from harness.suite.train_settings import Train
from harness.training import step, transfer
from harness.training.finetuning import rows_of
from harness.training.objective import prepare
from harness.training.schedule import Draw
from tests.support import small

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Watched:
    """A tensor that notes how it is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def pin_memory(self) -> Watched:
        self.calls.append(("pin",))
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> Watched:
        self.calls.append((device.type, non_blocking))
        return self


def test_a_gpu_gets_pinned_memory_and_the_host_does_not_wait() -> None:
    for device, expected in ((GPU, [("pin",), ("cuda", True)]), (CPU, [("cpu", False)])):
        watched = Watched()
        transfer.copied_to(device, cast(Tensor, watched))
        assert watched.calls == expected


def tensors() -> list[Tensor]:
    return [torch.arange(6).view(2, 3), torch.tensor([[True], [False]]), torch.zeros(0, dtype=torch.long)]


def test_packed_tensors_are_one_copy_and_the_same_afterwards() -> None:
    copies: list[Tensor] = []

    def copy(device: torch.device, tensor: Tensor) -> Tensor:
        assert device == GPU
        copies.append(tensor)
        return tensor.clone()

    moved = transfer.packed_to(GPU, *tensors(), copy=copy)
    assert len(copies) == 1
    for tensor, wanted in zip(moved, tensors(), strict=True):
        assert (tensor.dtype, tensor.shape) == (wanted.dtype, wanted.shape)
        assert torch.equal(tensor, wanted)


def test_on_a_cpu_nothing_is_copied() -> None:
    given = tensors()
    assert all(one is other for one, other in zip(transfer.packed_to(CPU, *given), given, strict=True))


@pytest.fixture
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Batches are packed as for a GPU, and stay here."""
    packed: list[int] = []

    def on_gpu(_: torch.device, *given: Tensor) -> list[Tensor]:
        packed.append(len(given))
        return transfer.packed_to(GPU, *given, copy=lambda _, tensor: tensor)

    monkeypatch.setattr(step, "packed_to", on_gpu)
    yield packed
    assert packed


def gradients() -> dict[str, Tensor]:
    """Of cross-entropy on three images in micro-batches of two."""
    adapter = small.fresh()
    rows = rows_of(adapter, small.train_examples(3), [Draw(0, image, 0) for image in range(3)], "canonical", 0)
    objective = prepare("ce", {}, adapter, (), Train(steps=1, batch_size=3), seed=0)
    step.accumulate(adapter, rows, objective, 2, small.accelerator())
    return {name: p.grad.clone() for name, p in adapter.model.named_parameters() if p.grad is not None}


def test_a_step_of_packed_batches_has_the_same_gradient(request: pytest.FixtureRequest) -> None:
    expected = gradients()
    packed = request.getfixturevalue("_as_on_a_gpu")
    moved = gradients()
    assert packed == [5, 5]  # all there is of each micro-batch
    assert moved.keys() == expected.keys()
    assert all(torch.equal(moved[name], expected[name]) for name in expected)
