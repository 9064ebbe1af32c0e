"""Gradients against finite differences, in float64, through logits and through a Projection.

Some objectives hold a factor that carries no gradient (dft: p_y; gem: q and h; eaft: the entropy). Finite differences
of the objective itself would differentiate that factor too, so they are taken of a stand-in, written here from the
formula, in which the factor is a constant computed at the point where the gradient is taken. A factor that carried a
gradient after all would show as a difference. (sed_sft's mask is a constant near any point off the threshold.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.objectives import build
from harness.objectives.calibration import top_k_mass
from harness.types import IGNORED_LABEL, Projection, TokenBatch
from tests.objectives.cases import (
    CASES,
    LIVE,
    SET_LEVEL,
    chunks_of,
    every_objective,
    factored_batch,
    outcome,
    over,
    plain,
    random_batch,
)

Function = Callable[[Tensor], Tensor]
"""Logits [N, V] -> loss."""


def mean_over_targets(values: Tensor, labels: Tensor) -> Tensor:
    return values[labels != IGNORED_LABEL].mean()


def chosen(values: Tensor, labels: Tensor) -> Tensor:
    """values [N, V] at the labels; anything where ignored."""
    return values.gather(1, labels.clamp(min=0)[:, None])[:, 0]


def frozen_dft(batch: TokenBatch) -> Function:
    factor = chosen(plain(batch).softmax(-1), batch.labels)
    return lambda z: mean_over_targets(-factor * chosen(z.log_softmax(-1), batch.labels), batch.labels)


def frozen_gem(batch: TokenBatch, *, beta: float, h: str = "linear") -> Function:
    at = plain(batch)
    factor = (at / beta).softmax(-1)
    if h == "logsigmoid":
        factor = factor * torch.sigmoid(0.01 * (at - chosen(at, batch.labels)[:, None]))

    def loss(z: Tensor) -> Tensor:
        log_p = z.log_softmax(-1)
        return mean_over_targets(-(factor * (chosen(log_p, batch.labels)[:, None] - log_p)).sum(-1), batch.labels)

    return loss


def frozen_eaft(batch: TokenBatch, *, alpha: float = 1.0, top_k: int = 20, z: float | None = None) -> Function:
    at = plain(batch)
    k = min(top_k, at.shape[-1])
    p = at.sort(descending=True).values[:, :k].softmax(-1)
    factor = (torch.special.entr(p).sum(-1) / (z or math.log(k))) ** alpha
    return lambda logits: mean_over_targets(-factor * chosen(logits.log_softmax(-1), batch.labels), batch.labels)


def frozen_precision_recall(batch: TokenBatch, *, lam: float, gamma: float) -> Function:
    q = chosen(plain(batch).softmax(-1), batch.labels)
    target = batch.labels != IGNORED_LABEL
    factor = torch.zeros_like(q)
    assert batch.group is not None
    for sequence in sorted({*batch.group.tolist()}):
        targets = [n for n in range(len(q)) if target[n] and int(batch.group[n]) == sequence]
        for place, n in enumerate(targets):
            share = lam ** (1 / len(targets))
            if q[n] <= share * (gamma + (1 - gamma) * q[n]):
                factor[n] = lam ** (place / len(targets)) * q[n] / (gamma + (1 - gamma) * q[n])
    return lambda z: mean_over_targets(-factor * chosen(z.log_softmax(-1), batch.labels), batch.labels)


FROZEN: dict[str, Callable[..., Function]] = {
    "dft": frozen_dft,
    "gem": frozen_gem,
    "eaft": frozen_eaft,
    "precision_recall": frozen_precision_recall,
}


def stand_in(name: str, settings: dict[str, Any], batch: TokenBatch) -> Function:
    """A function whose derivative at the batch's logits is the objective's gradient."""
    if name in FROZEN:
        return FROZEN[name](batch, **settings)
    objective = build(name, **settings)
    return lambda logits: objective(replace(batch, logits=logits)).mean()


def finite_differences(function: Function, at: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences of a scalar function, one entry of `at` at a time; error of the order of 1e-9."""
    slopes = torch.empty_like(at)
    for index in range(at.numel()):
        shift = torch.zeros_like(at)
        shift.view(-1)[index] = step
        slopes.view(-1)[index] = (function(at + shift) - function(at - shift)) / (2 * step)
    return slopes


@every_objective
def test_stand_in_has_the_value_of_the_objective(name: str, settings: dict[str, Any]) -> None:
    batch = random_batch(31)
    expected = build(name, **settings)(batch).mean()
    torch.testing.assert_close(stand_in(name, settings, batch)(plain(batch)), expected, rtol=0, atol=1e-12)


@every_objective
def test_gradient_on_logits(name: str, settings: dict[str, Any]) -> None:
    batch = random_batch(32, n=12, vocabulary=5)
    assert_mask_is_constant(plain(batch))
    _, (gradient,) = outcome(name, settings, batch)
    expected = finite_differences(stand_in(name, settings, batch), plain(batch))
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


@every_objective
def test_gradient_through_a_projection(name: str, settings: dict[str, Any]) -> None:
    batch = factored_batch(33, n=12, vocabulary=5, width=3)
    assert isinstance(batch.logits, Projection)
    hidden, weight = batch.logits.hidden, batch.logits.weight
    assert_mask_is_constant(plain(batch))
    with chunks_of(5, 5):
        _, gradients = outcome(name, settings, batch)
    function = stand_in(name, settings, batch)
    expected = [
        finite_differences(lambda moved: function(moved @ weight.T), hidden),
        finite_differences(lambda moved: function(hidden @ moved.T), weight),
    ]
    torch.testing.assert_close(gradients, expected, rtol=1e-6, atol=1e-8)


@over([case for case in CASES if case[0] not in FROZEN])
def test_gradcheck(name: str, settings: dict[str, Any]) -> None:
    batch = random_batch(34, n=6, vocabulary=5)
    assert_mask_is_constant(plain(batch))
    function = stand_in(name, settings, batch)
    assert torch.autograd.gradcheck(function, (plain(batch).clone().requires_grad_(),))


@over(SET_LEVEL)
def test_gradcheck_of_sets_through_a_projection(name: str, settings: dict[str, Any]) -> None:
    # Sequence-level objectives may be differentiated more than once (token-level ones may not).
    batch = factored_batch(35, n=12, vocabulary=5, width=3)
    assert isinstance(batch.logits, Projection)
    inputs = [part.clone().requires_grad_() for part in (batch.logits.hidden, batch.logits.weight)]
    objective = build(name, **settings)
    with chunks_of(5, 5):
        assert torch.autograd.gradcheck(
            lambda hidden, weight: objective(replace(batch, logits=Projection(hidden, weight))).mean(), inputs
        )


@pytest.mark.parametrize("name", FROZEN)
def test_finite_differences_see_a_factor_that_is_not_frozen(name: str) -> None:
    # What the stand-ins are for: the objective's own slope is another one.
    settings = dict(CASES)[name]
    batch = random_batch(36, n=6, vocabulary=5)
    objective = build(name, **settings)
    unfrozen = finite_differences(lambda logits: objective(replace(batch, logits=logits)).mean(), plain(batch))
    _, (gradient,) = outcome(name, settings, batch)
    assert (unfrozen - gradient).abs().max() > 1e-3


def assert_mask_is_constant(logits: Tensor) -> None:
    """No finite difference flips the live mask."""
    masses = top_k_mass(logits, LIVE["top_k"])
    assert ((masses - LIVE["threshold"]).abs() > 1e-3).all()
    assert 0 < int((masses < LIVE["threshold"]).sum()) < len(masses)
