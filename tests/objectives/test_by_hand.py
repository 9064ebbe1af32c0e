"""Losses and gradients derived by hand, through logits and through a Projection (one chunk per position).

Everything is built from the logits (ln 3, 0): p = (3/4, 1/4), -log p = (ln 4/3, ln 4),
H = H(p) = 3/4 ln 4/3 + 1/4 ln 4 = 2 ln 2 - 3/4 ln 3.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.objectives import build
from harness.types import LossOutput, Members, TokenBatch
from tests.objectives.cases import chunks_of, outcome, projected

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)
LN43 = LN4 - LN3
ENTROPY = 2 * LN2 - 0.75 * LN3
SIGMOID = 1 / (1 + 3**0.01)  # sigmoid(0.01 * (0 - ln 3))

both_paths = pytest.mark.parametrize("given_as", ["logits", "projection"])


def outcome_as(given_as: str, name: str, settings: dict[str, Any], batch: TokenBatch) -> tuple[LossOutput, Tensor]:
    """The output and the gradient of its mean on the logits."""
    with chunks_of(1, 2):
        output, gradients = outcome(name, settings, batch if given_as == "logits" else projected(batch))
    return output, gradients[0]


def near(values: object) -> Any:
    return pytest.approx(values, rel=0, abs=1e-12)


@both_paths
@pytest.mark.parametrize(
    ("name", "settings", "label", "loss", "slope"),
    [
        # slope: d loss / d z_0; d loss / d z_1 is its negative, since only the difference of two logits matters.
        ("ce", {}, 0, LN43, -1 / 4),
        ("ce", {}, 1, LN4, 3 / 4),
        # Target (1 - e) one-hot + e/2 = (0.9, 0.1): cross-entropy 0.9 ln 4/3 + 0.1 ln 4; gradient p - target.
        ("label_smoothing", {"epsilon": 0.2}, 0, 0.9 * LN43 + 0.1 * LN4, 0.75 - 0.9),
        # (1/4)^2 ln 4/3. d/dp of -(1-p)^2 ln p is 2(1-p) ln p - (1-p)^2/p = -1/2 ln 4/3 - 1/12; dp/dz_0 = 3/16.
        ("focal", {"gamma": 2.0}, 0, LN43 / 16, 3 / 16 * (-LN43 / 2 - 1 / 12)),
        # (1/4)^1 ln 4/3; d/dp of -(1-p) ln p is ln p - (1-p)/p = -ln 4/3 - 1/3.
        ("focal", {"gamma": 1.0}, 0, LN43 / 4, 3 / 16 * (-LN43 - 1 / 3)),
        # The factor p_y = 3/4 is a constant: 3/4 of cross-entropy's loss and gradient.
        ("dft", {}, 0, 0.75 * LN43, -3 / 16),
        ("dft", {}, 1, 0.25 * LN4, 3 / 16),
        # top_k = 20 > V = 2: k = 2, Z = ln 2, and the factor H / ln 2 is a constant.
        ("eaft", {}, 0, ENTROPY / LN2 * LN43, -ENTROPY / LN2 / 4),
        ("eaft", {"z": 3.0}, 1, ENTROPY / 3 * LN4, ENTROPY / 3 * 3 / 4),
        ("eaft", {"alpha": 2.0}, 1, (ENTROPY / LN2) ** 2 * LN4, (ENTROPY / LN2) ** 2 * 3 / 4),
        # k = 1: a softmax over one logit has entropy 0.
        ("eaft", {"top_k": 1}, 1, 0.0, 0.0),
        # ce - H/2. d(-H)/dz_v = p_v (log p_v + H), at v = 0: 3/4 * (H - ln 4/3) = 3/4 * (1/4 ln 3) = 3/16 ln 3.
        ("entropy_bonus", {"weight": 0.5}, 0, LN43 - ENTROPY / 2, -1 / 4 + 3 / 32 * LN3),
        # q = p: -1/4 * (log p_0 - log p_1) = -1/4 ln 3. The gradient is q - one-hot, cross-entropy's.
        ("gem", {"beta": 1.0}, 0, -LN3 / 4, -1 / 4),
        ("gem", {"beta": 1.0}, 1, 3 / 4 * LN3, 3 / 4),
        # q = softmax(2 ln 3, 0) = (9/10, 1/10).
        ("gem", {"beta": 0.5}, 0, -LN3 / 10, -1 / 10),
        # h_1 = sigmoid(0.01 * (z_1 - z_0)); the term of v = y is 0 whatever h_0 = 1/2.
        ("gem", {"beta": 1.0, "h": "logsigmoid"}, 0, -SIGMOID * LN3 / 4, -SIGMOID / 4),
        # top_k 1: mass 3/4, below 0.8 (m = 1), not below 0.7 (m = 0). Penalty 3/4 * (-1/4) + 1/4 = 1/16, times 2.
        # Gradient: cross-entropy's, -1/4, times 1 - 2*2*(3/4)*(3/4 - 1/2) = 1/4.
        ("sed_sft", {"top_k": 1, "threshold": 0.8, "weight": 2.0}, 0, LN43 + 1 / 8, -1 / 16),
        # 1/4 * (-3/4) + 1/4 = 1/16 again; 3/4 times 1 - 2*2*(1/4)*(1/4 - 1/2) = 5/4.
        ("sed_sft", {"top_k": 1, "threshold": 0.8, "weight": 2.0}, 1, LN4 + 1 / 8, 15 / 16),
        ("sed_sft", {"top_k": 1, "threshold": 0.7, "weight": 2.0}, 0, LN43, -1 / 4),
    ],
)
def test_one_position(
    given_as: str, name: str, settings: dict[str, Any], label: int, loss: float, slope: float
) -> None:
    logits = torch.tensor([[LN3, 0.0]], dtype=torch.float64)
    output, gradient = outcome_as(given_as, name, settings, TokenBatch(logits, torch.tensor([label])))
    assert output.mean().item() == near(loss)
    assert gradient[0].tolist() == near([slope, -slope])


@both_paths
def test_eaft_takes_the_entropy_of_the_largest_logits_only(given_as: str) -> None:
    # p proportional to (3, 1, 1/4): p_y = 1/17 for label 2. The two largest alone are (3/4, 1/4): factor H / ln 2.
    batch = TokenBatch(torch.tensor([[LN3, 0.0, -LN4]], dtype=torch.float64), torch.tensor([2]))
    output, gradient = outcome_as(given_as, "eaft", {"top_k": 2}, batch)
    factor = ENTROPY / LN2
    assert output.mean().item() == near(factor * math.log(17))
    assert gradient[0].tolist() == near([factor * 12 / 17, factor * 4 / 17, -factor * 16 / 17])


# ---- sets ------------------------------------------------------------------------------------------------------------


def sequences(
    *labels: tuple[int, ...], sets: list[int], sampled: Container[int] = (), cost: Sequence[float] = ()
) -> TokenBatch:
    """Sequences with these labels, every position of which has the logits (ln 3, 0)."""
    flat = [label for sequence in labels for label in sequence]
    group = [index for index, sequence in enumerate(labels) for _ in sequence]
    members = Members(
        torch.tensor(sets),
        torch.tensor([index in sampled for index in range(len(labels))]),
        torch.tensor(cost or [0.0] * len(labels)),
    )
    logits = torch.tensor([[LN3, 0.0]], dtype=torch.float64).repeat(len(flat), 1)
    return TokenBatch(logits, torch.tensor(flat), torch.tensor(group), members)


@both_paths
@pytest.mark.parametrize(
    ("name", "settings", "labels", "sets", "ce", "value", "count"),
    [
        # log P = ln 3/4 and ln 1/4, which differ by ln 3: population variance (ln 3 / 2)^2. The third is alone in
        # its set: it adds to the cross-entropy, and neither to the sum nor to the count of the sets.
        ("eco", {}, [(0,), (1,), (1,)], [0, 0, 1], (LN43 + LN4 + LN4) / 3, LN3**2 / 4, 1),
        ("eco", {"log_prob": "mean"}, [(0,), (1,), (1,)], [0, 0, 1], (LN43 + LN4 + LN4) / 3, LN3**2 / 4, 1),
        # Two tokens in the second: sums ln 3/4 and 2 ln 1/4 differ by ln 12; the means still by ln 3.
        ("eco", {}, [(0,), (1, 1)], [0, 0], (LN43 + 2 * LN4) / 3, math.log(12) ** 2 / 4, 1),
        ("eco", {"log_prob": "mean"}, [(0,), (1, 1)], [0, 0], (LN43 + 2 * LN4) / 3, LN3**2 / 4, 1),
        # A duplicate is a member: values 0, 0, -d with d = ln 3 have mean -d/3 and variance
        # (1/9 + 1/9 + 4/9) d^2 / 3 = 2/9 d^2.
        ("eco", {}, [(0,), (0,), (1,)], [0, 0, 0], (2 * LN43 + LN4) / 3, 2 / 9 * LN3**2, 1),
        # Two sets, of variances (ln 3)^2/4 and 0: their mean.
        ("eco", {}, [(0,), (1,), (0,), (0,)], [0, 0, 1, 1], (3 * LN43 + LN4) / 4, LN3**2 / 8, 2),
        # P in the ratio 3 : 1, q = (3/4, 1/4): KL = -ln 2 - 1/2 (ln 3/4 + ln 1/4) = 1/2 ln 4/3.
        ("kl_uniform", {}, [(0,), (1,)], [0, 0], (LN43 + LN4) / 2, LN43 / 2, 1),
        ("kl_uniform", {}, [(0, 1), (1, 0)], [0, 0], (LN43 + LN4) / 2, 0.0, 1),
        # q = (3/7, 3/7, 1/7): -ln 3 - 1/3 ln(9/343) = ln 7 - 5/3 ln 3.
        ("kl_uniform", {}, [(0,), (0,), (1,)], [0] * 3, (2 * LN43 + LN4) / 3, math.log(7) - 5 / 3 * LN3, 1),
    ],
)
def test_members_of_sets(
    given_as: str,
    name: str,
    settings: dict[str, Any],
    labels: list[tuple[int, ...]],
    sets: list[int],
    ce: float,
    value: float,
    count: int,
) -> None:
    output, _ = outcome_as(given_as, name, {"weight": 2.0, **settings}, sequences(*labels, sets=sets))
    term = output.terms[name]
    assert (term.count.item(), term.weight, term.unit) == (count, 2.0, "sets")
    assert term.sum.item() == near(value * count)
    assert output.mean().item() == near(ce + 2 * value)


@both_paths
@pytest.mark.parametrize(
    ("name", "slopes"),
    [
        # d variance / d log P_i = 2/n * (log P_i - mean) = +-(ln 3)/2.
        ("eco", (LN3 / 2, -LN3 / 2)),
        # d KL / d log P_i = q_i - 1/n = 3/4 - 1/2 and 1/4 - 1/2.
        ("kl_uniform", (1 / 4, -1 / 4)),
    ],
)
def test_gradient_of_a_set(given_as: str, name: str, slopes: tuple[float, float]) -> None:
    # d log p_y / d z_0 is 1/4 for label 0 and -3/4 for label 1; the cross-entropy is the mean of two tokens.
    _, gradient = outcome_as(given_as, name, {"weight": 2.0}, sequences((0,), (1,), sets=[0, 0]))
    expected = [(-1 / 2 + 2 * slopes[0]) * 1 / 4, (-1 / 2 + 2 * slopes[1]) * -3 / 4]
    assert gradient[:, 0].tolist() == near(expected)
    assert gradient[:, 1].tolist() == near([-value for value in expected])


@both_paths
def test_mrt_weighs_costs_and_keeps_samples_out_of_ce(given_as: str) -> None:
    # Two members (P = 3/4, 1/4; costs 0, 1/2) and a sample (P = 1/4, cost 1): q = (3/5, 1/5, 1/5),
    # risk = 1/10 + 1/5 = 3/10. The cross-entropy is that of the two members.
    batch = sequences((0,), (1,), (1,), sets=[0, 0, 0], sampled={2}, cost=[0.0, 0.5, 1.0])
    output, gradient = outcome_as(given_as, "mrt", {"weight": 2.0}, batch)
    assert (output.terms["ce"].count.item(), output.terms["mrt"].count.item()) == (2, 1)
    assert output.mean().item() == near((LN43 + LN4) / 2 + 2 * 0.3)
    assert {key: total.item() for key, (total, _) in output.stats.items()} == near({"nll": LN43 + LN4, "p_y": 1.0})
    # d risk / d log P_i = q_i * (cost_i - risk) = (-0.18, 0.04, 0.14).
    expected = [(-1 / 2 - 2 * 0.18) * 1 / 4, (-1 / 2 + 2 * 0.04) * -3 / 4, 2 * 0.14 * -3 / 4]
    assert gradient[:, 0].tolist() == near(expected)


@pytest.mark.parametrize("name", ["eco", "kl_uniform"])
def test_samples_are_no_members(name: str) -> None:
    # The variance and the KL of the two members stay what they are; a set of one member and one sample is no set.
    settings = {"weight": 2.0}
    alone, _ = outcome(name, settings, sequences((0,), (1,), sets=[0, 0]))
    batch = sequences((0,), (1,), (1, 1), (0,), (1,), sets=[0, 0, 0, 1, 1], sampled={2, 4})
    output, _ = outcome(name, settings, batch)
    assert output.terms[name].sum.item() == near(alone.terms[name].sum.item())
    assert output.terms[name].count.item() == 1
    assert output.terms["ce"].count.item() == 3


def test_the_mean_of_a_term_without_a_count_is_zero() -> None:
    output = build("eco")(sequences((0,), (1,), sets=[0, 1]))
    assert output.terms["eco"].count.item() == 0
    assert output.mean().item() == near((LN43 + LN4) / 2)
