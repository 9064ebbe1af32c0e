from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.errors import ObjectiveError
from harness.objectives import policy
from harness.types import Members, Projection, Rated, TokenBatch


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    (derivative,) = torch.autograd.grad(loss.sum(), of, retain_graph=True)
    return derivative


# ---- advantages ----------------------------------------------------------------------------------------------------


def test_advantages_by_hand() -> None:
    """Mean 0.5, deviations -0.5, -0.1, 0.1, 0.5: their squares add up to 0.25 + 0.01 + 0.01 + 0.25 = 0.52, so the
    variance of the sample is 0.52 / 3."""
    advantages = policy.advantages(torch.stack([values(0.0, 0.4, 0.6, 1.0), values(0.3, 0.3, 0.3, 0.3)]))
    assert advantages[0].tolist() == pytest.approx([d / math.sqrt(0.52 / 3) for d in (-0.5, -0.1, 0.1, 0.5)])
    assert advantages[1].tolist() == [0.0] * 4  # no spread: not nan
    assert policy.has_spread(torch.stack([values(0.0, 1.0), values(0.1, 0.1)])).tolist() == [True, False]


def test_equal_rewards_that_do_not_average_exactly_have_no_spread() -> None:
    """The mean of ten times 0.1 is not 0.1 in floating point: deviations of 1e-17 must not become advantages of 1."""
    rewards = torch.full((1, 10), 0.1, dtype=torch.float32)
    assert policy.advantages(rewards).tolist() == [[0.0] * 10]


# ---- clipping ------------------------------------------------------------------------------------------------------


def test_the_first_step_has_ratio_1_and_the_policy_gradient() -> None:
    log_p = values(-0.1, -2.0, -30.0).requires_grad_()
    advantage = values(1.5, -0.5, 2.0)
    loss = policy.clipped(log_p, log_p, advantage, 0.2, 0.28)
    assert torch.equal(loss.detach(), -advantage)  # exactly: exp(0) = 1
    assert torch.equal(gradient(loss, log_p), -advantage)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        # slope: of the loss with respect to log_p, - ratio * A where the ratio is not clipped, else 0
        (1.1, 1.0, -1.1, -1.1),
        (1.5, 1.0, -1.28, 0.0),  # good and already likelier: no more is gained beyond 1.28
        (0.5, 1.0, -0.5, -0.5),  # good and less likely: pulled back
        (0.5, -1.0, 0.8, 0.0),  # bad and already less likely: no more is gained below 0.8
        (1.5, -1.0, 1.5, 1.5),  # bad and likelier: pushed down
    ],
)
def test_the_two_bounds(ratio: float, advantage: float, loss: float, slope: float) -> None:
    log_p = values(math.log(ratio)).requires_grad_()
    clipped = policy.clipped(log_p, values(0.0), values(advantage), 0.2, 0.28)
    assert clipped.tolist() == pytest.approx([loss])
    assert gradient(clipped, log_p).tolist() == pytest.approx([slope])


# ---- KL ------------------------------------------------------------------------------------------------------------


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_kl_is_never_negative_and_0_where_they_agree(one: float, other: float) -> None:
    assert float(policy.kl(values(one), values(other))) >= 0
    assert float(policy.kl(values(one), values(one))) == 0


def test_kl_is_unbiased() -> None:
    """Over all tokens, weighted with their probabilities under the model, it is sum p log(p / q)."""
    p, q = values(0.7, 0.2, 0.1), values(0.2, 0.3, 0.5)
    assert float((p * policy.kl(p.log(), q.log())).sum()) == pytest.approx(float((p * (p / q).log()).sum()))


# ---- shapes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: policy.clipped(values(0.0, 0.0), values(0.0), values(0.0, 0.0), 0.2, 0.28),
        lambda: policy.kl(values(0.0)[:, None], values(0.0)),
    ],
)
def test_shapes_that_would_be_broadcast_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ObjectiveError, match="one shape"):
        wrong()


# ---- GRPO ----------------------------------------------------------------------------------------------------------


def rated(logits: Tensor, reference: Tensor | None = None) -> TokenBatch:
    """Two positions of a sequence, with ratios 1.5 and 1, and one of a sequence that counts for nothing."""
    return TokenBatch(
        logits,
        torch.tensor([0, 1, 0]),
        torch.tensor([0, 0, 1]),
        Members(torch.tensor([0, 1]), torch.tensor([False, True]), torch.zeros(2)),
        rated=Rated(values(1.0, -1.0, 5.0), values(1 / 3, 1 / 2, 1 / 2).log(), reference),
    )


def test_grpo_by_hand() -> None:
    """p = 1/2 throughout. -min(1.5, 1.28) + 1 = -0.28 over two positions, of which the first is clipped. A reference
    with 1/4: exp(-log 2) + log 2 - 1 = log 2 - 1/2 at both."""
    batch = rated(torch.zeros(3, 2, dtype=torch.float64), values(0.25, 0.25, 0.25).log())
    output = policy.grpo(batch, low=0.2, high=0.28, kl_weight=0.1, temperature=1.0)
    assert [int(term.count) for term in output.terms.values()] == [2, 2]
    assert float(output.terms["policy"].sum) == pytest.approx(-0.28)
    assert float(output.terms["kl"].sum) == pytest.approx(2 * (math.log(2) - 0.5))
    assert float(output.mean()) == pytest.approx(-0.14 + 0.1 * (math.log(2) - 0.5))
    assert [float(part) for part in output.stats["clipped"]] == [1, 2]
    assert "kl" not in policy.grpo(batch, low=0.2, high=0.28, kl_weight=0.0, temperature=1.0).terms


def test_grpo_has_the_temperature_that_was_sampled_at() -> None:
    logits = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    expected = -math.log1p(math.exp(-4.0))  # of (2 - 0) / 0.5
    assert policy.log_probability(logits, torch.tensor([0]), 0.5).tolist() == pytest.approx([expected])
    projected = Projection(logits, torch.eye(2, dtype=torch.float64))
    assert policy.log_probability(projected, torch.tensor([0]), 0.5).tolist() == pytest.approx([expected])


def test_grpo_says_what_it_lacks() -> None:
    batch = rated(torch.zeros(3, 2))
    for lacking, weight in ((replace(batch, rated=None), 0.0), (replace(batch, group=None), 0.0), (batch, 0.1)):
        with pytest.raises(ObjectiveError, match=r"grpo needs TokenBatch\.rated"):
            policy.grpo(lacking, low=0.2, high=0.28, kl_weight=weight, temperature=1.0)
