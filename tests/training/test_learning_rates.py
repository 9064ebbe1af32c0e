"""The learning rate along training is that of torch's and of transformers' schedulers, and what is set is used."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from harness.suite.train_settings import Schedule, Train
from harness.training.engines.optimizer import optimizer_of
from harness.training.objective import prepare
from harness.training.schedule import rate_share
from tests.support import small

STEPS, WARM_UP = 20, 5


def shares(schedule: Schedule, steps: int = STEPS, warm_up: int = WARM_UP) -> list[float]:
    return [rate_share(step, steps, warm_up, schedule) for step in range(1, steps + 1)]


def followed(make: Any, steps: int) -> list[float]:
    """The rates that a scheduler gives these steps, of 1."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_by_hand() -> None:
    """Four steps after a warm-up of two: a line falls by quarters; the cosine of 0, 45, 90 and 135 degrees."""
    assert shares("constant", 6, 2) == [0.5, 1, 1, 1, 1, 1]
    assert shares("linear", 6, 2) == [0.5, 1, 1, 0.75, 0.5, 0.25]
    half = math.sqrt(0.5)
    assert shares("cosine", 6, 2) == pytest.approx([0.5, 1, 1, (1 + half) / 2, 0.5, (1 - half) / 2])
    assert shares("cosine", 3, 5) == pytest.approx([0.2, 0.4, 0.6])  # a warm-up that training does not outlast
    assert shares("linear", 2, 0) == [1, 0.5]


def test_after_the_warm_up_it_is_torchs() -> None:
    rest = STEPS - WARM_UP
    cosine = followed(lambda optimizer: CosineAnnealingLR(optimizer, T_max=rest), rest)
    linear = followed(lambda optimizer: LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=rest), rest)
    assert shares("cosine")[WARM_UP:] == pytest.approx(cosine)
    assert shares("linear")[WARM_UP:] == pytest.approx(linear)


@pytest.mark.parametrize(
    ("schedule", "make"), [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)]
)
def test_it_is_that_of_transformers_but_for_a_first_step_at_zero(schedule: Schedule, make: Any) -> None:
    """There the first step of a warm-up has the rate 0, and teaches nothing; here the warm-up is one step ahead."""
    theirs = followed(lambda optimizer: make(optimizer, WARM_UP, STEPS), STEPS)
    assert shares(schedule)[WARM_UP:] == pytest.approx(theirs[WARM_UP:])
    assert shares(schedule)[: WARM_UP - 1] == pytest.approx(theirs[1:WARM_UP])
    assert theirs[0] == 0


def weights_after(**plan: Any) -> list[float]:
    adapter, full = small.fitted(), Train.model_validate({"steps": 4, "batch_size": 2, "warm_up": 1, **plan})
    small.fine_tune(adapter, prepare("ce", {}, small.fitted(), [], full, 0), full, small.train_examples(4))
    return torch.cat([parameter.detach().flatten()[:5] for parameter in adapter.model.parameters()]).tolist()


@pytest.mark.parametrize(
    "changed",
    [
        *({"schedule": "cosine"}, {"schedule": "linear"}),
        *({"optimizer": {"betas": [0.8, 0.999]}}, {"optimizer": {"betas": [0.9, 0.9]}}, {"optimizer": {"eps": 1e-2}}),
    ],
)
def test_each_setting_trains_another_model(changed: dict[str, Any]) -> None:
    plain = weights_after()
    assert weights_after(schedule="constant", optimizer={}) == plain
    assert weights_after(**changed) != plain


def test_the_optimizer_is_adamw_with_the_settings() -> None:
    plan = Train.model_validate({"optimizer": {"betas": [0.8, 0.95], "eps": 1e-6}})
    (group,) = optimizer_of(nn.Linear(1, 1), plan).param_groups
    assert (group["betas"], group["eps"], group["lr"]) == ((0.8, 0.95), 1e-6, 3e-4)
