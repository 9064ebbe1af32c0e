"""Invariants of the token-level objectives."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from harness.errors import ObjectiveError
from harness.objectives import build, by_kind, reference_selection, selection, top_k_mass
from harness.types import IGNORED_LABEL, LossOutput, TokenBatch

LIVE: dict[str, Any] = {"top_k": 2, "threshold": 0.7, "weight": 3.0}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("ce", {}),
    ("sed_sft", LIVE),
    ("sed_sft", {"mask": "none", "weight": 3.0}),
    ("sed_sft", {**LIVE, "mask": "base"}),
]
every_objective = pytest.mark.parametrize(("name", "settings"), CASES)
few_examples = hypothesis_settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31)


def random_batch(seed: int, n: int = 24, vocabulary: int = 9, ignored: float = 0.25) -> TokenBatch:
    """float64; sharp and flat rows, so that LIVE selects some positions and leaves others."""
    rng = torch.Generator().manual_seed(seed)
    scale = 4 * torch.rand(n, 1, generator=rng, dtype=torch.float64)
    logits = scale * torch.randn(n, vocabulary, generator=rng, dtype=torch.float64)
    labels = torch.randint(vocabulary, (n,), generator=rng)
    labels[torch.rand(n, generator=rng) < ignored] = IGNORED_LABEL
    return TokenBatch(logits, labels, selected=torch.rand(n, generator=rng) < 0.5)


def rows(batch: TokenBatch, index: Tensor | slice) -> TokenBatch:
    assert batch.selected is not None
    return TokenBatch(batch.logits[index], batch.labels[index], selected=batch.selected[index])


def loss_and_gradient(name: str, settings: dict[str, Any], batch: TokenBatch) -> tuple[Tensor, Tensor]:
    logits = batch.logits.detach().clone().requires_grad_()
    loss = build(name, **settings)(replace(batch, logits=logits)).mean()
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


def assert_same(a: LossOutput, b: LossOutput) -> None:
    assert a.terms.keys() == b.terms.keys()
    for key, term in a.terms.items():
        torch.testing.assert_close(term.sum, b.terms[key].sum)
        assert (term.count.item(), term.weight) == (b.terms[key].count.item(), b.terms[key].weight)
    torch.testing.assert_close(dict(a.stats), dict(b.stats))


@pytest.mark.parametrize("settings", [settings for name, settings in CASES if name == "sed_sft"])
def test_weight_zero_is_ce_to_the_last_bit(settings: dict[str, Any]) -> None:
    batch = random_batch(0)
    loss, gradient = loss_and_gradient("sed_sft", {**settings, "weight": 0.0}, batch)
    ce_loss, ce_gradient = loss_and_gradient("ce", {}, batch)
    assert torch.equal(loss, ce_loss)
    assert torch.equal(gradient, ce_gradient)


def test_ce_is_that_of_torch() -> None:
    batch = random_batch(1)
    expected = torch.nn.functional.cross_entropy(batch.logits, batch.labels, ignore_index=IGNORED_LABEL)
    torch.testing.assert_close(build("ce")(batch).mean(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [settings for name, settings in CASES if name == "sed_sft"])
@given(seed=seeds, weight=st.floats(0.0, 8.0))
@few_examples
def test_gradient_is_that_of_ce_scaled_per_token(settings: dict[str, Any], seed: int, weight: float) -> None:
    # Holds only if m carries no gradient and p_y does.
    batch = random_batch(seed, ignored=0.0)
    settings = {**settings, "weight": weight}
    _, gradient = loss_and_gradient("sed_sft", settings, batch)
    _, ce_gradient = loss_and_gradient("ce", {}, batch)
    p_y = batch.logits.softmax(-1).gather(1, batch.labels[:, None])
    m = selection(batch.logits, settings, batch.selected)[:, None].double()
    scale = 1 - 2 * weight * m * p_y * (p_y - 0.5)
    torch.testing.assert_close(gradient, scale * ce_gradient, rtol=1e-9, atol=1e-12)


def test_selected_tokens_rest_at_0_653_for_weight_5() -> None:
    # 1 - 10 * p * (p - 1/2) = 0  <=>  p = (1/2 + sqrt(1/4 + 4/10)) / 2 = 0.65311...
    p = (0.5 + math.sqrt(0.65)) / 2
    assert p == pytest.approx(0.653, abs=5e-4)
    batch = TokenBatch(torch.tensor([[p, 1 - p]], dtype=torch.float64).log(), torch.tensor([0]))
    _, gradient = loss_and_gradient("sed_sft", {"mask": "none", "weight": 5.0}, batch)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@every_objective
@given(seed=seeds)
@few_examples
def test_padding_changes_nothing(name: str, settings: dict[str, Any], seed: int) -> None:
    batch = random_batch(seed)
    objective = build(name, **settings)
    assert_same(objective(batch), objective(rows(batch, batch.labels != IGNORED_LABEL)))


@every_objective
@given(seed=seeds)
@few_examples
def test_order_of_positions_changes_nothing(name: str, settings: dict[str, Any], seed: int) -> None:
    batch = random_batch(seed)
    order = torch.randperm(len(batch.labels), generator=torch.Generator().manual_seed(seed))
    objective = build(name, **settings)
    assert_same(objective(batch), objective(rows(batch, order)))


@every_objective
def test_batch_of_8_equals_8_accumulated_batches_of_1(name: str, settings: dict[str, Any]) -> None:
    # Sequences of unlike target counts, one without any: a mean of means would differ.
    batch = random_batch(3, n=64, ignored=0.5)
    batch.labels[:8] = IGNORED_LABEL
    objective = build(name, **settings)
    whole, whole_gradient = loss_and_gradient(name, settings, batch)

    counts = {key: term.count for key, term in objective(batch).terms.items()}
    logits = batch.logits.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    seen = dict.fromkeys(counts, 0)
    for start in range(0, 64, 8):
        part = rows(replace(batch, logits=logits), slice(start, start + 8))
        for key, term in objective(part).terms.items():
            total = total + term.weight * term.sum / counts[key]
            seen[key] += int(term.count)
    (gradient,) = torch.autograd.grad(total, logits)
    assert seen == {key: int(count) for key, count in counts.items()}
    torch.testing.assert_close(total.detach(), whole)
    torch.testing.assert_close(gradient, whole_gradient)


def test_mask_base_with_the_live_mask_is_live() -> None:
    batch = random_batch(4)
    base = {**LIVE, "mask": "base"}
    frozen = replace(batch, selected=reference_selection(batch.logits, base))
    assert_same(build("sed_sft", **base)(frozen), build("sed_sft", **LIVE)(batch))


def test_selection_is_the_mask_that_the_objective_applies() -> None:
    batch = random_batch(5, ignored=0.0)
    m = selection(batch.logits, LIVE)
    p_y = batch.logits.softmax(-1).gather(1, batch.labels[:, None]).squeeze(1)
    output = build("sed_sft", **LIVE)(batch)
    assert 0 < int(m.sum()) < len(m)
    torch.testing.assert_close(output.terms["penalty"].sum, (m * (p_y * (p_y - 1) + 0.25)).sum())
    assert selection(batch.logits, {"mask": "none"}).all()
    assert torch.equal(selection(batch.logits, {**LIVE, "mask": "base"}, ~m), ~m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tie_with_the_threshold_is_not_selected(dtype: torch.dtype) -> None:
    # Two equal logits: the largest probability is exactly 1/2 in binary.
    logits = torch.zeros(1, 2, dtype=dtype)
    assert top_k_mass(logits, 1).item() == 0.5
    assert not selection(logits, {"top_k": 1, "threshold": 0.5}).any()
    assert selection(logits, {"top_k": 1, "threshold": 0.5 + 1e-6}).all()


@pytest.mark.parametrize(
    "change",
    [{"top_k": 3}, {"threshold": 0.9}, {"weight": 1.0}, {"mask": "base"}],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_changes_loss_and_gradient(change: dict[str, Any]) -> None:
    batch = random_batch(6)
    loss, gradient = loss_and_gradient("sed_sft", LIVE, batch)
    changed_loss, changed_gradient = loss_and_gradient("sed_sft", {**LIVE, **change}, batch)
    assert not torch.isclose(loss, changed_loss)
    assert not torch.allclose(gradient, changed_gradient)


@every_objective
def test_gradcheck(name: str, settings: dict[str, Any]) -> None:
    batch = random_batch(7, n=6, vocabulary=5)
    objective = build(name, **settings)
    masses = top_k_mass(batch.logits, 2)
    assert ((masses - 0.7).abs() > 1e-3).all()  # so that no finite difference flips the live mask

    def loss(logits: Tensor) -> Tensor:
        return objective(replace(batch, logits=logits)).mean()

    assert torch.autograd.gradcheck(loss, (batch.logits.clone().requires_grad_(),))


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("label", [0, 1])
def test_extreme_logits_stay_finite(name: str, settings: dict[str, Any], dtype: torch.dtype, label: int) -> None:
    # p_y is 1 or 0 to the last bit: -log p_y is 0 or 20,000 nats.
    logits = torch.tensor([[1e4, -1e4, -1e4], [1e4, 1e4, 1e4]], dtype=dtype)
    batch = TokenBatch(logits, torch.tensor([label, IGNORED_LABEL]), selected=torch.tensor([True, True]))
    loss, gradient = loss_and_gradient(name, settings, batch)
    output = build(name, **settings)(batch)
    assert output.terms["ce"].sum.item() == label * 2e4
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert all(total.isfinite() for total, _ in output.stats.values())


@every_objective
@pytest.mark.parametrize("n", [0, 3])
def test_a_batch_without_targets_has_loss_and_gradient_zero(name: str, settings: dict[str, Any], n: int) -> None:
    selected = torch.ones(n, dtype=torch.bool)
    batch = TokenBatch(torch.randn(n, 4), torch.full((n,), IGNORED_LABEL), selected=selected)
    loss, gradient = loss_and_gradient(name, settings, batch)
    output = build(name, **settings)(batch)
    assert loss.item() == 0
    assert not gradient.any()
    assert all(term.count.item() == 0 for term in output.terms.values())
    assert all((total.item(), count.item()) == (0, 0) for total, count in output.stats.values())


@every_objective
def test_half_precision_logits_are_computed_in_float32(name: str, settings: dict[str, Any]) -> None:
    batch = random_batch(8)
    half = replace(batch, logits=batch.logits.bfloat16())
    single = replace(batch, logits=half.logits.float())
    objective = build(name, **settings)
    assert objective(half).mean().dtype == torch.float32
    assert_same(objective(half), objective(single))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(objective(half), objective(single))


def test_stats_by_an_independent_computation() -> None:
    batch = random_batch(9)
    logits = batch.logits.clone().requires_grad_()
    output = build("sed_sft", **LIVE)(replace(batch, logits=logits))
    target = batch.labels != IGNORED_LABEL
    p = batch.logits[target].softmax(-1)
    p_y = p[torch.arange(len(p)), batch.labels[target]]
    m = p.sort(descending=True).values[:, :2].sum(-1) < 0.7
    expected = {
        "p_y": (p_y.sum(), len(p)),
        "entropy": (torch.special.entr(p).sum(), len(p)),
        "selected": (m.sum().double(), len(p)),
        "p_y_selected": (p_y[m].sum(), int(m.sum())),
        "p_y_unselected": (p_y[~m].sum(), int((~m).sum())),
    }
    assert output.stats.keys() == expected.keys()
    for key, (total, count) in output.stats.items():
        torch.testing.assert_close(total, expected[key][0])
        assert count.item() == expected[key][1]
        assert not total.requires_grad
    torch.testing.assert_close(dict(build("ce")(batch).stats), {k: output.stats[k] for k in ("p_y", "entropy")})


def test_by_kind() -> None:
    kinds = torch.tensor([0, 2, 0, -1, 2, 2])
    sums, counts = by_kind(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), kinds, 4)
    assert sums.tolist() == [4, 0, 13, 0]
    assert counts.tolist() == [2, 0, 3, 0]
    shares, _ = by_kind(torch.tensor([True, False, True, True, True, False]), kinds, 4)
    assert shares.tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize(
    ("change", "selected", "message"),
    [
        ({"mask": "base"}, None, "needs TokenBatch.selected"),
        ({"mask": "base"}, torch.ones(23, dtype=torch.bool), r"bool \[24\].*got torch.bool \[23\]"),
        ({"mask": "base"}, torch.ones(24, 1, dtype=torch.bool), r"got torch.bool \[24, 1\]"),
        ({"mask": "base"}, torch.ones(24), "got torch.float32"),
        ({"top_k": 10}, None, "top_k is 10, but the vocabulary has 9 tokens"),
    ],
)
def test_what_cannot_be_honoured_raises(change: dict[str, Any], selected: Tensor | None, message: str) -> None:
    objective = build("sed_sft", **{**LIVE, **change})
    batch = replace(random_batch(10), selected=selected)
    with pytest.raises(ObjectiveError, match=message):
        objective(batch)
