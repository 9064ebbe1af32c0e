"""Groups of parameters with their own rates, precision, and what a record says of a plan."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import nn

from harness import records
from harness.errors import ConfigError
from harness.records import CellInfo
from harness.suite.train_settings import Train
from harness.training.engines.data_parallel import DataParallel
from harness.training.engines.optimizer import optimizer_of, scale_rates
from tests.support import small
from tests.training.engines.small_trainings import assert_same_bits, curve_of

# ---- groups ---------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    """Parameters: head.weight, perceiver.0.weight, perceiver.0.bias, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1, bias=False)
        self.perceiver = nn.Sequential(nn.Linear(1, 1))
        self.frozen = nn.Linear(1, 1).requires_grad_(False)


def groups_of(*groups: dict[str, Any]) -> list[tuple[int, float, float]]:
    """Number of parameters, learning rate and weight decay of each of the optimizer's groups."""
    plan = Train.model_validate({"lr": 1e-3, "weight_decay": 0.1, "groups": groups})
    made = optimizer_of(Two(), plan).param_groups
    return [(len(group["params"]), group["lr"], group["weight_decay"]) for group in made]


def test_groups_by_pattern() -> None:
    """The first that matches counts; what is not given, and what no pattern matches, is the plan's."""
    assert groups_of() == [(3, 1e-3, 0.1)]
    assert groups_of({"match": "perceiver.*", "lr": 1e-4}) == [(2, 1e-4, 0.1), (1, 1e-3, 0.1)]
    assert groups_of({"match": "*.bias", "weight_decay": 0.0}, {"match": "perceiver.*", "lr": 1e-4}) == [
        (1, 1e-3, 0.0),
        (1, 1e-4, 0.1),
        (1, 1e-3, 0.1),
    ]
    assert groups_of({"match": "*", "lr": 2e-4}) == [(3, 2e-4, 0.1)]


@pytest.mark.parametrize("match", ["percever.*", "frozen.*", "perceiver.0.bias"])
def test_a_pattern_that_takes_nothing_is_an_error(match: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{match!r} matches no trained parameter")) as caught:
        groups_of({"match": "perceiver.*"}, {"match": match})
    assert "head.weight" in str(caught.value)


def test_each_group_warms_up_to_its_own_rate() -> None:
    plan = Train.model_validate({"lr": 1e-3, "groups": [{"match": "head.*", "lr": 4e-3}]})
    optimizer = optimizer_of(Two(), plan)
    scale_rates(optimizer, 0.25)
    scale_rates(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [2e-3, 5e-4]


def test_groups_without_a_difference_change_no_bit() -> None:
    assert_same_bits(curve_of(), curve_of(groups=[{"match": "*"}]))


def test_a_group_without_a_rate_stays_as_it_is() -> None:
    before = dict(small.fitted().model.named_parameters())
    after = curve_of(groups=[{"match": "perceiver.*", "lr": 0.0, "weight_decay": 0.0}])["weights"]
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed
    assert not any(name.startswith("perceiver.") for name in changed)


# ---- precision ------------------------------------------------------------------------------------------------------


def test_precision_is_the_suites() -> None:
    """On a CPU auto is fp32; bf16 is autocast, so weights stay float32 and the curve is a little off."""
    plain, bf16 = curve_of(), curve_of(precision="bf16")
    assert_same_bits(plain, curve_of(precision="fp32"))
    assert {tensor.dtype for tensor in bf16["weights"].values()} == {torch.float32}
    assert plain["curve"] != bf16["curve"]
    assert bf16["curve"] == pytest.approx(plain["curve"], rel=0.05)


def test_fp32_also_where_accelerate_says_bf16(bf16: Accelerator) -> None:
    model = nn.Linear(2, 2)
    kinds = {}
    for precision in ("auto", "fp32", "bf16"):
        with DataParallel(model, bf16, precision).autocast():
            kinds[precision] = model(torch.ones(1, 2)).dtype
    assert kinds == {"auto": torch.bfloat16, "fp32": torch.float32, "bf16": torch.bfloat16}


# ---- what a record says ---------------------------------------------------------------------------------------------


KNOWN: dict[str, Any] = {
    "targets": "canonical",
    "batching": "shuffled",
    "collision_rate": None,
    "steps": 240,
    "batch_size": 16,
    "micro_batch": None,
    "lr": 0.0003,
    "weight_decay": 0.01,
    "warm_up": 10,
    "clip": 1.0,
    "log_every": 20,
    "eval_at": [],
    "probe": None,
}
"""What the first records say of a plan without settings of its own: cells that are finished must be found again."""


def test_plans_without_later_settings_are_described_as_ever() -> None:
    assert Train().described == KNOWN
    info = CellInfo(benchmark={}, model={}, objective={}, seed=0, train=Train().described, sample={}, score="name")
    assert records.digest_of(info) == "f9c51dcdd2fd3004d1bb1ab864905aa47f7bc42e6ffd73b1c4777000cc24f190"


@pytest.mark.parametrize(
    "changed", [{"gradient_checkpointing": True}, {"groups": [{"match": "a", "lr": 0.1}]}, {"precision": "bf16"}]
)
def test_later_settings_are_described_where_they_are_used(changed: dict[str, Any]) -> None:
    [name] = changed
    assert name in Train.LATER
    described = Train.model_validate(changed).described
    assert described[name] == Train.model_validate(changed).model_dump(mode="json")[name]
    assert {key: value for key, value in described.items() if key != name} == KNOWN


def test_a_group_has_no_other_settings() -> None:
    with pytest.raises(ValidationError, match="momentum"):
        Train.model_validate({"groups": [{"match": "*", "momentum": 0.9}]})
