"""Losses of pairs (DPO, SPL) and of groups (GEPO): by hand, against independent formulas, and their properties."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.errors import ObjectiveError
from harness.objectives import policy, preference
from harness.types import Members, Rated, TokenBatch


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    (derivative,) = torch.autograd.grad(loss.sum(), of, retain_graph=True)
    return derivative


# ---- pairs of sequences ---------------------------------------------------------------------------------------------


def test_dpo_by_hand() -> None:
    """beta 0.5, margin (-1 - -2) - (-5 - -3) = 3: -log sigmoid(1.5) = log(1 + e^-1.5). At the reference: log 2."""
    reference = values(-2.0, -4.0), values(-3.0, -6.0)
    loss = preference.dpo(values(-1.0, -4.0), values(-5.0, -6.0), reference, 0.5)
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(-1.5)), math.log(2)])


def test_dpo_raises_the_chosen_and_lowers_the_rejected_one() -> None:
    chosen, rejected = values(-1.0).requires_grad_(), values(-1.0).requires_grad_()
    loss = preference.dpo(chosen, rejected, (chosen, rejected), 0.1)
    assert gradient(loss, chosen).tolist() == pytest.approx([-0.05])  # - beta * sigmoid(0)
    assert gradient(loss, rejected).tolist() == pytest.approx([0.05])


def test_shapes_that_would_be_broadcast_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="one shape"):
        preference.dpo(values(0.0), values(0.0), (values(0.0), values(0.0, 0.0)), 0.1)


def test_spl_by_hand() -> None:
    """alpha 2, beta 0.5, as in `test_dpo_by_hand`: 2 * (-1 + 5) - 0.5 * (-2 + 3) = 7.5."""
    loss = preference.spl(values(-1.0), values(-5.0), (values(-2.0), values(-3.0)), alpha=2.0, beta=0.5)
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(-7.5))])


few = st.lists(st.floats(-30, 0), min_size=4, max_size=4)


@given(few, few, st.floats(0.01, 5))
def test_dpo_is_spl_of_equal_weights(chosen: list[float], rejected: list[float], beta: float) -> None:
    """And it is the textbook's: -log sigmoid(beta * (difference of log ratios))."""
    (chosen_now, before), (other, then) = ((values(*side[:2]), values(*side[2:])) for side in (chosen, rejected))
    loss = preference.spl(chosen_now, other, (before, then), beta, beta)
    assert torch.equal(loss, preference.dpo(chosen_now, other, (before, then), beta))
    ratio = beta * ((chosen_now - before) - (other - then)).numpy()
    assert loss.numpy() == pytest.approx(np.logaddexp(0.0, -ratio))


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.3), (1.2, 0.3), (1.0, 0.1), (0.4, 1.5)])
def test_the_best_model_under_spl_is_the_papers(alpha: float, beta: float) -> None:
    """Over three answers and all their pairs, preferred as Bradley-Terry says of rewards r: the loss is least at
    p proportional to ref^(beta/alpha) * exp(r/alpha), found here by descent from the reference."""
    reward, reference = values(1.0, 0.2, -0.5), values(0.6, 0.3, 0.1).log()
    first, second = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 2, 0, 2, 0, 1])
    share = torch.sigmoid(reward[first] - reward[second])
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=300, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure() -> Tensor:
        optimizer.zero_grad()
        p = logits.log_softmax(0)
        loss = preference.spl(p[first], p[second], (reference[first], reference[second]), alpha, beta)
        total = (share * loss).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    expected = (beta / alpha * reference + reward / alpha).softmax(0)
    assert logits.detach().softmax(0).tolist() == pytest.approx(expected.tolist(), abs=1e-5)


# ---- pairs of a batch -----------------------------------------------------------------------------------------------


def preferred(logits: Tensor, reference: Tensor) -> TokenBatch:
    """Two pairs: sequences of 2 and 1 tokens, and of 1 and 2, the second pair with the rejected one first."""
    return TokenBatch(
        logits,
        torch.tensor([0, 1, 0, 1, 1, 0]),
        torch.tensor([0, 0, 1, 2, 2, 3]),
        Members(torch.tensor([0, 0, 1, 1]), torch.zeros(4, dtype=torch.bool), torch.zeros(4)),
        rated=Rated(values(1.0, 1.0, -1.0, -1.0, -1.0, 1.0), reference=reference),
    )


LOSS: dict[str, Any] = {"alpha": 0.5, "beta": 0.5, "normalise": False, "sft_weight": 0.0}


def test_preference_by_hand() -> None:
    """p = 1/2 throughout, so log P = -2 log 2 and - log 2. Reference -1, -1 | -2 and -1, -1 | -3: margins of
    (-2L + 2) - (-L + 2) = -L and (-L + 3) - (-2L + 2) = L + 1, L = log 2."""
    batch = preferred(torch.zeros(6, 2, dtype=torch.float64), values(-1.0, -1.0, -2.0, -1.0, -1.0, -3.0))
    output = preference.pair_preference(batch, **LOSS)
    logs = math.log(2)
    expected = [math.log1p(math.exp(-0.5 * margin)) for margin in (-logs, logs + 1)]
    assert (int(output.terms["dpo"].count), output.terms["dpo"].unit) == (2, "sets")
    assert float(output.terms["dpo"].sum) == pytest.approx(sum(expected))
    assert [float(part) for part in output.stats["margin"]] == pytest.approx([0.5, 2])  # (-L + L + 1) / 2
    assert [float(part) for part in output.stats["accuracy"]] == [1, 2]  # -2L < -L, and -L > -2L
    assert not preference.pair_preference(batch, logged=False, **LOSS).stats


def test_normalised_log_probabilities_are_means() -> None:
    """Of -L each: both margins are those of the references, -1 + 2 -> 1 and 3 - 1 -> 2."""
    batch = preferred(torch.zeros(6, 2, dtype=torch.float64), values(-1.0, -1.0, -2.0, -1.0, -1.0, -3.0))
    output = preference.pair_preference(batch, **{**LOSS, "normalise": True})
    assert float(output.terms["dpo"].sum) == pytest.approx(sum(math.log1p(math.exp(-0.5 * m)) for m in (-1.0, 2.0)))
    assert float(output.stats["accuracy"][0]) == 0  # equally likely


def test_cross_entropy_of_the_chosen() -> None:
    """- log p of sequence 0 is (log 2 + log 4) / 2 (its tokens have p = 1/2 and 1/4), of sequence 3 log 2."""
    logits = torch.zeros(6, 2, dtype=torch.float64)
    logits[1] = values(math.log(3), 0.0)
    output = preference.pair_preference(preferred(logits, torch.zeros(6)), **{**LOSS, "sft_weight": 0.1})
    term = output.terms["sft"]
    assert (int(term.count), term.weight, term.unit) == (2, 0.1, "sets")
    assert float(term.sum) == pytest.approx(1.5 * math.log(2) + math.log(2))


@pytest.mark.parametrize("normalise", [False, True])
def test_preference_at_the_reference(normalise: bool) -> None:
    """Loss log 2; the gradient of log p is - beta / 2 per pair for the chosen one (over its length where normalised)
    and the opposite for the rejected one; exchanging the roles turns it round."""
    torch.manual_seed(0)
    logits = torch.randn(6, 2, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    log_p = policy.log_probability(logits, labels)
    batch = preferred(logits, log_p.detach())
    output = preference.pair_preference(batch, **{**LOSS, "normalise": normalise})
    assert output.mean().item() == pytest.approx(math.log(2))
    lengths = values(2.0, 2.0, 1.0, 2.0, 2.0, 1.0) if normalise else torch.ones(6, dtype=torch.float64)
    sign = values(1.0, 1.0, -1.0, -1.0, -1.0, 1.0)
    expected = gradient((-0.5 / 2 * sign / lengths * log_p).sum(), logits) / 2
    derivative = gradient(output.mean(), logits)
    assert torch.allclose(derivative, expected)
    assert batch.rated is not None
    turned = replace(batch, rated=replace(batch.rated, advantage=-batch.rated.advantage))
    opposite = preference.pair_preference(turned, **{**LOSS, "normalise": normalise})
    assert torch.allclose(gradient(opposite.mean(), logits), -derivative)


def test_preference_is_the_published_loss() -> None:
    """Parity with a few lines after the reference implementation, on random numbers."""
    torch.manual_seed(1)
    logits, reference = torch.randn(6, 2, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    log_p = logits.log_softmax(-1)[torch.arange(6), torch.tensor([0, 1, 0, 1, 1, 0])]
    sums = [
        torch.stack([of_tokens[:2].sum(), of_tokens[2], of_tokens[3:5].sum(), of_tokens[5]])
        for of_tokens in (log_p, reference)
    ]
    pi_logratios = torch.stack([sums[0][0] - sums[0][1], sums[0][3] - sums[0][2]])
    ref_logratios = torch.stack([sums[1][0] - sums[1][1], sums[1][3] - sums[1][2]])
    published = -torch.nn.functional.logsigmoid(0.5 * (pi_logratios - ref_logratios)).mean()
    assert float(preference.pair_preference(preferred(logits, reference), **LOSS).mean()) == pytest.approx(
        float(published)
    )


def test_preference_says_what_it_lacks() -> None:
    batch = preferred(torch.zeros(6, 2), torch.zeros(6))
    assert batch.rated is not None
    for lacking in (replace(batch, rated=replace(batch.rated, reference=None)), replace(batch, members=None)):
        with pytest.raises(ObjectiveError, match=r"preference needs TokenBatch\.rated with a reference"):
            preference.pair_preference(lacking, **LOSS)
    same = replace(batch, rated=replace(batch.rated, advantage=torch.ones(6)))
    with pytest.raises(ObjectiveError, match="sets of two: a chosen and a rejected sequence"):
        preference.pair_preference(same, **LOSS)


def test_entropy_and_cross_entropy_weigh_apart_in_a_batch() -> None:
    """As in `test_cross_entropy_of_the_chosen`, with alpha 2 for the model's -3L + L = -2L and -L + 2L = L; the
    references' parts are 0.5 * 0 and 0.5 * (-3 + 2): margins -4L and 2L + 0.5."""
    logits = torch.zeros(6, 2, dtype=torch.float64)
    logits[1] = values(math.log(3), 0.0)
    batch = preferred(logits, values(-1.0, -1.0, -2.0, -1.0, -1.0, -3.0))
    output = preference.pair_preference(batch, **{**LOSS, "alpha": 2.0})
    logs = math.log(2)
    expected = [math.log1p(math.exp(-margin)) for margin in (-4 * logs, 2 * logs + 0.5)]
    assert float(output.terms["dpo"].sum) == pytest.approx(sum(expected))
    assert float(output.stats["margin"][0]) == pytest.approx(-2 * logs + 0.5)


# ---- groups ---------------------------------------------------------------------------------------------------------


def test_gepo_by_hand() -> None:
    """Winners 1, 3 and 2 have mean 2 and variance (1 + 1 + 0) / 3, losers 0 and -2 mean -1: sigmoid(0.5 * 3). The other
    group has one winner (no variance) and one loser, 4 apart the wrong way."""
    ratio, group = values(1.0, 0.0, 3.0, -2.0, 2.0, -1.0, 3.0), torch.tensor([0, 0, 0, 0, 0, 1, 1])
    winner = torch.tensor([True, False, True, False, True, True, False])
    compared, variance = preference.gepo(ratio, group, winner, 0.5)
    assert compared.tolist() == pytest.approx([math.log1p(math.exp(-1.5)), math.log1p(math.exp(2.0))])
    assert variance.tolist() == pytest.approx([2 / 3, 0.0])


@given(st.lists(st.floats(-20, 20), min_size=9, max_size=9), st.floats(0.01, 3))
def test_gepo_against_numpy(ratios: list[float], beta: float) -> None:
    group, winner = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1]), np.array([1, 1, 0, 1, 0, 0, 1, 1, 0], dtype=bool)
    loss = preference.gepo(values(*ratios), torch.from_numpy(group), torch.from_numpy(winner), beta)
    r = np.array(ratios)
    for index in range(2):
        won, lost = r[winner & (group == index)], r[~winner & (group == index)]
        assert float(loss[0][index]) == pytest.approx(np.logaddexp(0.0, -beta * (won.mean() - lost.mean())))
        assert float(loss[1][index]) == pytest.approx(np.var(won), abs=1e-9)


def test_gepo_of_one_winner_and_one_loser_is_dpo() -> None:
    chosen, rejected, reference = values(-3.0), values(-1.5), (values(-2.0), values(-2.5))
    ratio = torch.cat([chosen - reference[0], rejected - reference[1]])
    compared, variance = preference.gepo(ratio, torch.tensor([0, 0]), torch.tensor([True, False]), 0.7)
    assert compared.tolist() == pytest.approx(preference.dpo(chosen, rejected, reference, 0.7).tolist())
    assert variance.tolist() == [0.0]


def test_the_variance_pulls_the_winners_together_and_leaves_the_losers_alone() -> None:
    """d variance / d r_i = 2/n (r_i - mean): 0.5 * 2 for each of two winners 2 apart."""
    ratio = values(1.0, 3.0, 0.0).requires_grad_()
    _, variance = preference.gepo(ratio, torch.tensor([0, 0, 0]), torch.tensor([True, True, False]), 0.1)
    assert gradient(variance, ratio).tolist() == pytest.approx([-1.0, 1.0, 0.0])


def grouped() -> TokenBatch:
    """Two winners and a loser of one image, of 2, 1 and 1 tokens, p = 1/2 throughout."""
    return TokenBatch(
        torch.zeros(4, 2, dtype=torch.float64),
        torch.tensor([0, 1, 0, 1]),
        torch.tensor([0, 0, 1, 2]),
        Members(torch.tensor([0, 0, 0]), torch.zeros(3, dtype=torch.bool), torch.zeros(3)),
        rated=Rated(values(1.0, 1.0, 1.0, -1.0), reference=values(-1.0, -1.0, -2.0, -3.0)),
    )


def test_group_preference_of_a_batch() -> None:
    """r = 2 - 2L, 2 - L and 3 - L, L = log 2: a mean of 2 - 1.5L over the winners, 1 + L/2 below the loser's; their
    variance is (L/2)^2."""
    output = preference.group_preference(grouped(), beta=0.5, weight=3.0)
    logs = math.log(2)
    margin = -0.5 * (1 + logs / 2)
    assert [(int(term.count), term.unit) for term in output.terms.values()] == [(1, "sets")] * 2
    assert float(output.mean()) == pytest.approx(math.log1p(math.exp(-margin)) + 3 * logs**2 / 4)
    assert float(output.stats["margin"][0]) == pytest.approx(margin)
    assert float(output.stats["variance"][0]) == pytest.approx(logs**2 / 4)
    assert not preference.group_preference(grouped(), logged=False, beta=0.5, weight=3.0).stats


def test_group_preference_says_what_it_lacks() -> None:
    batch = grouped()
    assert batch.rated is not None
    with pytest.raises(ObjectiveError, match=r"gepo needs TokenBatch\.rated with a reference"):
        preference.group_preference(replace(batch, rated=None), beta=0.1, weight=1.0)
    same = replace(batch, rated=replace(batch.rated, advantage=torch.ones(4)))
    with pytest.raises(ObjectiveError, match="sets with winners and losers"):
        preference.group_preference(same, beta=0.1, weight=1.0)
