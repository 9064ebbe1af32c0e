"""The precision-recall loss: by hand, what it falls along, and what becomes of a distribution under it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.errors import ObjectiveError
from harness.objectives import build
from harness.objectives.places import Places
from harness.types import TokenBatch
from tests.objectives.cases import chunks_of, few_examples, loss_and_gradient, outcome, projected, random_batch, seeds

LN3, LN4 = math.log(3), math.log(4)


@pytest.mark.parametrize("given_as", ["logits", "projection"])
def test_by_hand(given_as: str) -> None:
    """p = (3/4, 1/4) throughout, two sequences of two tokens, lam = 1/4, so 1/2 for each token, gamma = 1/2.

    r = (3/4) / (7/8) = 6/7 > 1/2 does not count, r = (1/4) / (5/8) = 2/5 does. As the second token of the first
    sequence it has the weight 1/2 * 2/5, as the first one of the other 2/5: 3/5 ln 4 in all, over four positions."""
    logits = torch.tensor([[LN3, 0.0]] * 4, dtype=torch.float64)
    batch = TokenBatch(logits, torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1]))
    settings = {"lam": 0.25, "gamma": 0.5}
    with chunks_of(1, 2):
        output, (gradient, *_) = outcome(
            "precision_recall", settings, batch if given_as == "logits" else projected(batch)
        )
    assert output.mean().item() == pytest.approx(0.6 * LN4 / 4)
    slopes = [0.0, 0.2 * 0.75 / 4, 0.4 * 0.75 / 4, 0.0]  # of the first logit: weight * p_0 / 4
    assert gradient.tolist() == [pytest.approx([slope, -slope]) for slope in slopes]
    assert output.selected is not None
    assert output.selected.tolist() == [False, True, True, False]


@given(seed=seeds)
@few_examples
def test_dft_is_the_case_of_lam_1_and_gamma_1(seed: int) -> None:
    batch = random_batch(seed)
    loss, gradient = loss_and_gradient("precision_recall", {"lam": 1.0, "gamma": 1.0}, batch)
    expected, of_dft = loss_and_gradient("dft", {}, batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, of_dft)


@given(seed=seeds)
@few_examples
def test_a_tiny_gamma_without_a_bound_is_cross_entropy(seed: int) -> None:
    batch = random_batch(seed)
    loss, gradient = loss_and_gradient("precision_recall", {"lam": 1.0, "gamma": 1e-12}, batch)
    expected, of_ce = loss_and_gradient("ce", {}, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, of_ce, rtol=1e-4, atol=1e-4)


# ---- where it comes from ---------------------------------------------------------------------------------------------


def bound(p: Tensor, q: Tensor, lam: float) -> Tensor:
    """The right side for sequences of two tokens: row 0 is the first token's, rows 1 and 2 the second's given it."""
    share = lam**0.5
    apart = (share * p - q).abs().sum(-1)
    whole: Tensor = apart[0] + share * (p[0] * apart[1:]).sum()
    return whole


@given(seed=seeds, lam=st.floats(0.05, 1.0))
@few_examples
def test_the_bound_holds_for_all_sequences_of_two_tokens(seed: int, lam: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(3, 2, generator=rng, dtype=torch.float64).mul(2).softmax(-1) for _ in "pq")
    exact = sum(abs(lam * p[0, a] * p[1 + a, b] - q[0, a] * q[1 + a, b]) for a, b in itertools.product((0, 1), (0, 1)))
    assert float(exact) <= float(bound(p, q, lam)) + 1e-12


@given(seed=seeds, lam=st.floats(0.05, 1.0))
@few_examples
def test_its_slope_is_that_of_the_bound_where_data_are_certain(seed: int, lam: float) -> None:
    """P is one sequence, (0, 1): then gamma = 1 stands for it exactly. Half the bound falls along the weights."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 2, generator=rng, dtype=torch.float64).mul(2).requires_grad_()
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
    (expected,) = torch.autograd.grad(bound(p, logits.softmax(-1), lam) / 2, logits)
    batch = TokenBatch(logits[[0, 1]], torch.tensor([0, 1]), torch.tensor([0, 0]))
    loss = build("precision_recall", lam=lam, gamma=1.0)(batch).mean() * 2
    (slope,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(slope, expected)


def after_descent(lam: float, gamma: float, start: tuple[float, float]) -> float:
    """The model's probability of the rarer of two answers, 90 and 10 of 100, each one token."""
    logits = torch.tensor(start, dtype=torch.float64).log().requires_grad_()
    labels = torch.tensor([0] * 90 + [1] * 10)
    for _ in range(2000):
        batch = TokenBatch(logits.expand(100, 2), labels, torch.arange(100))
        (slope,) = torch.autograd.grad(build("precision_recall", lam=lam, gamma=gamma)(batch, False).mean(), logits)
        with torch.no_grad():
            logits -= slope
    return logits.softmax(-1)[1].item()


def test_lam_trades_precision_against_recall() -> None:
    """With lam 1 (total variation) the rare answer is lost, which cross-entropy would keep at 0.1. With lam = gamma =
    1/2 a token counts up to (1/4) / (1 - 1/4) = 1/3: a model that had lost it finds it again, up to there."""
    assert after_descent(1.0, 0.5, (0.9, 0.1)) < 0.02
    assert after_descent(0.5, 0.5, (0.99, 0.01)) == pytest.approx(1 / 3, abs=0.02)


# ---- places ----------------------------------------------------------------------------------------------------------


def test_places_count_the_targets_of_each_sequence() -> None:
    places = Places(torch.tensor([2, 0, 2, 0, 2, 4]), torch.tensor([True, True, False, True, True, False]))
    assert places.before.tolist() == [0, 0, 1, 1, 1, 0]
    assert places.length.tolist() == [2, 2, 2, 2, 2, 1]
    assert [part.tolist() for part in places.of(slice(3, 5))] == [[1, 1], [2, 2]]
    assert Places(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.bool)).before.tolist() == []


@given(seed=seeds)
@few_examples
def test_order_of_sequences_and_of_their_positions_among_each_other_change_nothing(seed: int) -> None:
    batch = random_batch(seed)
    assert batch.group is not None
    order = torch.argsort(batch.group, stable=True)  # each sequence in one piece
    settings = {"lam": 0.3, "gamma": 0.2}
    loss, gradient = loss_and_gradient("precision_recall", settings, batch)
    assert isinstance(batch.logits, Tensor)
    sorted_batch = TokenBatch(batch.logits[order], batch.labels[order], 8 - batch.group[order])
    other, other_gradient = loss_and_gradient("precision_recall", settings, sorted_batch)
    torch.testing.assert_close(loss, other)
    torch.testing.assert_close(gradient[order], other_gradient)


def test_without_sequences_it_says_what_it_lacks() -> None:
    with pytest.raises(ObjectiveError, match=r"precision_recall needs TokenBatch\.group"):
        build("precision_recall")(TokenBatch(torch.zeros(1, 2), torch.tensor([0])))
