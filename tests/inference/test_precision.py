"""Numbers that are computed in, frozen weights that are held in fewer bits, and those that two models share."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness import registry
from harness.inference.device import base_of
from harness.inference.padding import target_batch
from harness.inference.precision import (
    HeldLinear,
    choose_numbers,
    describe_precision,
    hold_frozen_in_bf16,
    numbers_in_use,
    share_frozen,
)
from harness.protocols import Adapter
from harness.sequence.targets import target
from harness.system.provenance.versions import describe_device
from tests.support import small

CPU = torch.device("cpu")


def test_the_first_precision_that_is_not_auto_counts() -> None:
    assert choose_numbers(CPU, "auto", "auto").describe() == "float32"
    assert choose_numbers(torch.device("cuda"), "auto", "auto").describe() == "bf16 autocast"
    assert choose_numbers(CPU, "auto", "bf16").describe() == "bf16 autocast"
    assert choose_numbers(torch.device("cuda"), "fp32", "bf16").describe() == "float32"


def test_a_record_says_what_was_computed_in() -> None:
    whole, half = choose_numbers(CPU, "fp32"), choose_numbers(CPU, "bf16")
    assert describe_precision(None, whole) == describe_precision(whole, whole) == "float32"
    assert describe_precision(half, half) == "bf16 autocast"
    assert describe_precision(half, whole) == "bf16 autocast, evaluated in float32"
    assert describe_device(CPU, 1, "bf16 autocast, evaluated in float32")["batch_invariant"]
    assert not describe_device(CPU, 1, "bf16 autocast")["batch_invariant"]


def test_what_is_in_use_is_told_where_it_is_used() -> None:
    assert numbers_in_use(CPU) == "float32"
    with choose_numbers(CPU, "bf16").autocast():
        assert numbers_in_use(CPU) == "bf16 autocast"
        with choose_numbers(CPU, "fp32").autocast():
            assert numbers_in_use(CPU) == "float32"


def flamingo(trains: str = "flamingo") -> Adapter:
    torch.manual_seed(0)
    made = registry.model(
        "open_flamingo_hf", small.benchmark().categories, {"language": "toy-gpt_neox", "trains": trains}
    )
    assert isinstance(made, Adapter)
    return made


def trained(adapter: Adapter) -> list[tuple[float, float]]:
    """Loss and gradient norm of three steps in bf16."""
    examples = small.benchmark().split("train")[:4]
    batch = target_batch([target(e, adapter.codec, "canonical") for e in examples], adapter.codec)
    pixels, parameters = adapter.pixels(examples), [p for p in adapter.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    curve = []
    for _ in range(3):
        with choose_numbers(CPU, "bf16").autocast():
            loss = F.cross_entropy(adapter.logits(pixels, batch.inputs).flatten(0, 1).float(), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        curve.append((loss.item(), float(nn.utils.clip_grad_norm_(parameters, 1e9))))
        optimizer.step()
    return curve


def test_frozen_matrices_in_bf16_train_alike() -> None:
    whole, held = flamingo(), flamingo()
    saved = hold_frozen_in_bf16(held.model)
    frozen = [m.weight for m in held.model.modules() if type(m) is HeldLinear]
    assert {weight.dtype for weight in frozen} == {torch.bfloat16}
    assert saved == sum(2 * weight.numel() for weight in frozen) > 0
    assert all(p.dtype == torch.float32 for p in held.model.parameters() if p.requires_grad)
    expected = trained(whole)
    assert len(set(expected)) == 3
    for step, other in zip(trained(held), expected, strict=True):
        assert step == pytest.approx(other, abs=5e-5)  # four decimals


def test_held_matrices_work_without_autocast_too() -> None:
    linear = nn.Linear(4, 3).requires_grad_(False)
    held = nn.Sequential(copy.deepcopy(linear))
    assert hold_frozen_in_bf16(held) == 2 * 12
    x = torch.randn(2, 4)
    torch.testing.assert_close(held(x), linear(x), rtol=1e-2, atol=1e-2)
    assert held(x).dtype == torch.float32


def test_a_weight_that_two_modules_share_is_not_touched() -> None:
    embedding, head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, head).requires_grad_(False)
    assert hold_frozen_in_bf16(model) == 0
    assert head.weight.dtype == torch.float32


def addresses(adapter: Adapter, trains: bool) -> dict[str, int]:
    return {n: p.data_ptr() for n, p in adapter.model.named_parameters() if p.requires_grad == trains}


def test_a_reference_uses_the_frozen_tensors_of_the_model_that_trains() -> None:
    def make() -> Any:
        return registry.model(
            "open_flamingo_hf", small.benchmark().categories, {"language": "toy-gpt_neox", "trains": "flamingo"}
        )

    model = base_of(make, small.accelerator(), frozen_in_bf16=True)
    assert isinstance(model, Adapter)
    reference = base_of(make, small.accelerator(), frozen_in_bf16=True, like=model)
    assert isinstance(reference, Adapter)
    assert addresses(reference, trains=False) == addresses(model, trains=False)
    ours, other = addresses(reference, trains=True), addresses(model, trains=True)
    assert ours.keys() == other.keys()
    assert not set(ours.values()) & set(other.values())
    # What both need together: the frozen tensors once, the others twice.
    tensors = {p.data_ptr(): p.nbytes for m in (model, reference) for p in m.model.parameters()}
    sizes = {trains: sum(p.nbytes for p in model.model.parameters() if p.requires_grad == trains) for trains in (0, 1)}
    assert sum(tensors.values()) == sizes[0] + 2 * sizes[1]


def test_another_model_shares_nothing() -> None:
    with pytest.raises(ValueError, match="expected a copy of the model"):
        share_frozen(nn.Linear(2, 3), nn.Linear(2, 4))


def test_the_cache_of_generation_holds_what_autocast_computes_with(monkeypatch: pytest.MonkeyPatch) -> None:
    from model_zoo.cache_name import AutocastCache

    kinds = []
    update = AutocastCache.update

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        cached = update(self, *args, **kwargs)
        kinds.append(cached[0].dtype)
        return cached

    monkeypatch.setattr(AutocastCache, "update", watched)
    adapter, examples = flamingo(), small.benchmark().split("val")[:2]
    adapter.model.eval()
    for precision, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        kinds.clear()
        with choose_numbers(CPU, precision).autocast():  # type: ignore[arg-type]
            answers = adapter.generate(examples, [0.0, 1.0], 0, 6)
        assert [len(of_image) for of_image in answers] == [2, 2]
        assert set(kinds) == {kind}
