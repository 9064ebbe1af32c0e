"""Parts of memory against the bytes that a small model really takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.inference.outline import shape_of
from harness.inference.padding import target_batch
from harness.inference.precision import hold_frozen_in_bf16
from harness.run.cost import memory
from harness.run.cost.arithmetic import Passed
from harness.sequence.targets import target
from harness.suite.train_settings import Train
from harness.training.engines.optimizer import optimizer_of
from model_zoo.flamingo.published import OpenFlamingoHf
from model_zoo.flamingo.toy import OpenFlamingo
from tests.run.cost.test_arithmetic import TINY
from tests.support import small


def adapter_that_trains(trains: str) -> OpenFlamingoHf:
    torch.manual_seed(0)
    return OpenFlamingoHf(small.benchmark().categories, {"trains": trains})


@pytest.mark.parametrize("trains", ["all", "flamingo"])
def test_weights_gradients_and_moments_are_those_of_a_step(trains: str) -> None:
    adapter = adapter_that_trains(trains)
    hold_frozen_in_bf16(adapter.model)
    parts = memory.training_parts(memory.Weights.of(adapter.model), 0.0, reference=True)
    optimizer = optimizer_of(adapter.model, Train(steps=1))
    for parameter in adapter.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    parameters = list(adapter.model.parameters())
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    assert parts["trained weights"] == sum(p.nbytes for p in parameters if p.requires_grad)
    assert parts["frozen weights"] == sum(p.nbytes for p in parameters if not p.requires_grad)
    assert parts["gradients"] == sum(p.grad.nbytes for p in parameters if p.grad is not None)
    assert parts["optimizer"] == sum(value.nbytes for value in moments)
    assert parts["reference"] == parts["trained weights"]
    assert (parts["frozen weights"] > 0) == (trains == "flamingo")


@pytest.mark.parametrize("family", ["toy", "tokenizer"])
def test_activations_are_about_what_autograd_keeps(family: str) -> None:
    """Within a third: what a layer keeps is counted by its width, not tensor by tensor."""
    torch.manual_seed(0)
    adapter: OpenFlamingo | OpenFlamingoHf = small.fresh() if family == "toy" else adapter_that_trains("all")
    examples = small.train_examples(8)
    batch = target_batch([target(example, adapter.codec, "canonical") for example in examples], adapter.codec)
    weights = {p.untyped_storage().data_ptr() for p in adapter.model.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = tensor
        return tensor

    pixels = adapter.pixels(examples)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = adapter.hidden(pixels, batch.inputs)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    assert states.hidden.requires_grad
    rows, length = batch.inputs.shape
    passed = Passed(rows, rows, rows * length, rows * length**2, 0)
    shape, _ = shape_of(adapter)
    assert memory.activations(shape, passed, 4, recomputed=False) == pytest.approx(measured, rel=0.34)
    assert memory.activations(shape, passed, 4, recomputed=True) < measured


def test_keys_and_values_by_hand() -> None:
    """One layer keeps 8 numbers of a position; while its cache grows there are two of it: 2 x 8 x 3 rows x 10."""
    assert memory.cache(TINY, rows=3, positions=10, number=2) == 2 * (2 * 8 * 3 * 10)


def test_the_most_at_once_is_in_training_or_in_evaluation() -> None:
    parts = memory.training_parts(memory.Weights(trained=40, frozen=100, numbers=10), 500.0, reference=False)
    assert parts == {
        "trained weights": 40,
        "frozen weights": 100,
        "reference": 0,
        "gradients": 40,
        "optimizer": 80,
        "activations": 500,
    }
    assert memory.peak(parts, generation=30) == 40 + 100 + 40 + 80 + 500
    assert memory.peak(parts, generation=3000) == 40 + 100 + 80 + 3000
