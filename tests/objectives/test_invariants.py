"""What holds for every objective: padding, order, splits of a batch, statistics, and the cases in which it is CE."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.objectives import OBJECTIVES, build, ready
from harness.objectives.calibration import top_k_mass
from harness.objectives.stats import sums_by_kind
from harness.types import IGNORED_LABEL, Members, TokenBatch
from tests.objectives.cases import (
    ANYWHERE,
    CASES,
    LIVE,
    MEMBERS,
    SET_LEVEL,
    TOKEN_LEVEL,
    assert_same,
    every_objective,
    few_examples,
    loss_and_gradient,
    outcome,
    over,
    plain,
    random_batch,
    rows,
    seeds,
    selection,
)

SED_SFT = [settings for name, settings in CASES if name == "sed_sft"]


def test_every_objective_is_among_the_cases() -> None:
    assert {name for name, _ in CASES} == OBJECTIVES.keys()


# ---- cross-entropy ---------------------------------------------------------------------------------------------------


def without_samples(batch: TokenBatch) -> TokenBatch:
    """What set-level objectives take the cross-entropy of."""
    assert batch.group is not None
    return replace(batch, labels=batch.labels.where(~MEMBERS.sampled[batch.group], IGNORED_LABEL))


def test_ce_is_that_of_torch() -> None:
    batch = random_batch(1)
    expected = torch.nn.functional.cross_entropy(plain(batch), batch.labels, ignore_index=IGNORED_LABEL)
    torch.testing.assert_close(build("ce")(batch).mean(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *(("sed_sft", {**settings, "weight": 0}) for settings in SED_SFT),
        ("label_smoothing", {"epsilon": 0}),
        ("entropy_bonus", {"weight": 0}),
        ("focal", {"gamma": 0}),
        ("ce_kl", {"weight": 0}),
        ("mixture", {}),  # what sets it apart is in the prompt
        ("eaft", {"alpha": 0}),
        ("eaft", {"alpha": 0, "top_k": 1, "z": 3.0}),
        ("eco", {"weight": 0}),
        ("eco", {"weight": 0, "log_prob": "mean"}),
        ("kl_uniform", {"weight": 0}),
        ("mrt", {"weight": 0}),
    ],
)
def test_nothing_added_is_ce_to_the_last_bit(name: str, settings: dict[str, Any]) -> None:
    batch = random_batch(0)
    loss, gradient = loss_and_gradient(name, settings, batch)
    set_level = name in dict(SET_LEVEL)
    ce_loss, ce_gradient = loss_and_gradient("ce", {}, without_samples(batch) if set_level else batch)
    assert torch.equal(loss, ce_loss)
    assert torch.equal(gradient, ce_gradient)


@given(seed=seeds)
@few_examples
def test_gem_with_beta_1_has_the_gradient_of_ce(seed: int) -> None:
    batch = random_batch(seed)
    loss, gradient = loss_and_gradient("gem", {"beta": 1}, batch)
    ce_loss, ce_gradient = loss_and_gradient("ce", {}, batch)
    torch.testing.assert_close(gradient, ce_gradient, rtol=0, atol=1e-14)
    entropy, count = build("ce")(batch).stats["entropy"]
    torch.testing.assert_close(loss, ce_loss - entropy / count)  # the two losses differ by H(p)


@pytest.mark.parametrize("settings", SED_SFT)
@given(seed=seeds, weight=st.floats(0.0, 8.0))
@few_examples
def test_gradient_of_sed_sft_is_that_of_ce_scaled_per_token(settings: dict[str, Any], seed: int, weight: float) -> None:
    # Holds only if m carries no gradient and p_y does.
    batch = random_batch(seed, ignored=0.0)
    settings = {**settings, "weight": weight}
    _, gradient = loss_and_gradient("sed_sft", settings, batch)
    _, ce_gradient = loss_and_gradient("ce", {}, batch)
    p_y = plain(batch).softmax(-1).gather(1, batch.labels[:, None])
    m = selection(plain(batch), settings, batch.selected)[:, None].double()
    scale = 1 - 2 * weight * m * p_y * (p_y - 0.5)
    torch.testing.assert_close(gradient, scale * ce_gradient, rtol=1e-9, atol=1e-12)


def test_selected_tokens_rest_at_0_653_for_weight_5() -> None:
    # 1 - 10 * p * (p - 1/2) = 0  <=>  p = (1/2 + sqrt(1/4 + 4/10)) / 2 = 0.65311...
    p = (0.5 + math.sqrt(0.65)) / 2
    assert p == pytest.approx(0.653, abs=5e-4)
    batch = TokenBatch(torch.tensor([[p, 1 - p]], dtype=torch.float64).log(), torch.tensor([0]))
    _, gradient = loss_and_gradient("sed_sft", {"mask": "none", "weight": 5.0}, batch)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


# ---- padding, order, splits ------------------------------------------------------------------------------------------


@every_objective
@given(seed=seeds)
@few_examples
def test_padding_changes_nothing(name: str, settings: dict[str, Any], seed: int) -> None:
    batch = random_batch(seed)
    target = batch.labels != IGNORED_LABEL
    output, (gradient,) = outcome(name, settings, batch)
    bare, (bare_gradient,) = outcome(name, settings, rows(batch, target))
    assert_same(output, bare)
    torch.testing.assert_close(gradient[target], bare_gradient)
    assert not gradient[~target].any()


@over(ANYWHERE)
@given(seed=seeds)
@few_examples
def test_order_of_positions_changes_nothing(name: str, settings: dict[str, Any], seed: int) -> None:
    batch = random_batch(seed)
    order = torch.randperm(len(batch.labels), generator=torch.Generator().manual_seed(seed))
    output, (gradient,) = outcome(name, settings, batch)
    shuffled, (shuffled_gradient,) = outcome(name, settings, rows(batch, order))
    assert_same(output, shuffled)
    torch.testing.assert_close(gradient[order], shuffled_gradient)


@over(SET_LEVEL)
@given(seed=seeds)
@few_examples
def test_order_of_sequences_and_names_of_sets_change_nothing(name: str, settings: dict[str, Any], seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    batch = random_batch(seed)
    assert batch.group is not None
    order = torch.randperm(len(MEMBERS.set), generator=rng)
    names = torch.randperm(8, generator=rng)
    moved = Members(names[MEMBERS.set][order], MEMBERS.sampled[order], MEMBERS.cost[order])
    output, (gradient,) = outcome(name, settings, batch)
    other, (other_gradient,) = outcome(
        name, settings, replace(batch, group=order.argsort()[batch.group], members=moved)
    )
    assert_same(output, other)
    torch.testing.assert_close(gradient, other_gradient)


def of_sets(batch: TokenBatch, sets: list[int]) -> tuple[TokenBatch, Tensor]:
    """The part of a batch that belongs to these sets, as a batch of its own; and which positions [N] those are."""
    assert batch.group is not None
    chosen = torch.isin(MEMBERS.set, torch.tensor(sets))
    members = Members(MEMBERS.set[chosen], MEMBERS.sampled[chosen], MEMBERS.cost[chosen])
    positions = chosen[batch.group]
    part = rows(batch, positions)
    return replace(part, group=(chosen.cumsum(0) - 1)[part.group], members=members), positions


@every_objective
@given(seed=seeds)
@few_examples
def test_sums_and_counts_add_over_the_parts_of_a_batch(name: str, settings: dict[str, Any], seed: int) -> None:
    # Accumulation and data parallelism: sums and counts of the parts are added, and divided once. Sets stay whole;
    # the parts have unlike counts, one has none, so that a mean of means would differ.
    batch = random_batch(seed, n=48)
    assert batch.group is not None
    batch.labels[MEMBERS.set[batch.group] == 4] = IGNORED_LABEL
    whole, (whole_gradient,) = outcome(name, settings, batch)
    sums: dict[str, Tensor] = {key: torch.zeros((), dtype=torch.float64) for key in whole.terms}
    counts = dict.fromkeys(whole.terms, 0)
    gradient = torch.zeros_like(whole_gradient)
    for sets in ([0], [1, 2], [4]):
        part, positions = of_sets(batch, sets)
        logits = plain(part).clone().requires_grad_()
        output = build(name, **settings)(replace(part, logits=logits))
        loss = torch.stack(
            [term.weight * term.sum / whole.terms[key].count.clamp(min=1) for key, term in output.terms.items()]
        ).sum()
        (gradient[positions],) = torch.autograd.grad(loss, logits)
        for key, term in output.terms.items():
            sums[key] = sums[key] + term.sum.detach()
            counts[key] += int(term.count)
    assert counts == {key: int(term.count) for key, term in whole.terms.items()}
    torch.testing.assert_close(sums, {key: term.sum.detach() for key, term in whole.terms.items()})
    torch.testing.assert_close(gradient, whole_gradient)


@over([case for case in TOKEN_LEVEL if case in ANYWHERE])
def test_eight_accumulated_batches_of_one_equal_a_batch_of_eight(name: str, settings: dict[str, Any]) -> None:
    batch = random_batch(3, n=64, ignored=0.5)
    batch.labels[:8] = IGNORED_LABEL
    whole, (gradient,) = outcome(name, settings, batch)
    parts = [outcome(name, settings, rows(batch, slice(start, start + 8))) for start in range(0, 64, 8)]
    assert {int(next(iter(output.terms.values())).count) for output, _ in parts} > {0}
    # The gradient of a part's mean is that of its sum over its own count; the batch divides by the common count.
    count = next(iter(whole.terms.values())).count
    scaled = [g * next(iter(output.terms.values())).count / count for output, (g,) in parts]
    torch.testing.assert_close(torch.cat(scaled), gradient)


# ---- masks and statistics --------------------------------------------------------------------------------------------


def test_mask_base_with_the_live_mask_is_live() -> None:
    batch = random_batch(4)
    base = {**LIVE, "mask": "base"}
    frozen = replace(batch, selected=ready("sed_sft", base).selection(plain(batch)))
    assert_same(build("sed_sft", **base)(frozen), build("sed_sft", **LIVE)(batch))


def test_selected_is_the_mask_that_the_objective_applies() -> None:
    batch = random_batch(5, ignored=0.0)
    m = selection(plain(batch), LIVE)
    p_y = plain(batch).softmax(-1).gather(1, batch.labels[:, None]).squeeze(1)
    output = build("sed_sft", **LIVE)(batch)
    assert 0 < int(m.sum()) < len(m)
    torch.testing.assert_close(output.terms["penalty"].sum, (m * (p_y * (p_y - 1) + 0.25)).sum())
    assert selection(plain(batch), {"mask": "none"}).all()
    assert torch.equal(selection(plain(batch), {**LIVE, "mask": "base"}, ~m), ~m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tie_with_the_threshold_is_not_selected(dtype: torch.dtype) -> None:
    # Two equal logits: the largest probability is exactly 1/2 in binary.
    logits = torch.zeros(1, 2, dtype=dtype)
    assert top_k_mass(logits, 1).item() == 0.5
    assert not selection(logits, {"top_k": 1, "threshold": 0.5}).any()
    assert selection(logits, {"top_k": 1, "threshold": 0.5 + 1e-6}).all()


def test_stats_by_an_independent_computation() -> None:
    batch = random_batch(9)
    logits = plain(batch).clone().requires_grad_()
    output = build("sed_sft", **LIVE)(replace(batch, logits=logits))
    target = batch.labels != IGNORED_LABEL
    p = plain(batch)[target].softmax(-1)
    p_y = p[torch.arange(len(p)), batch.labels[target]]
    m = p.sort(descending=True).values[:, :2].sum(-1) < 0.7
    expected = {
        "nll": (-p_y.log().sum(), len(p)),
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


@every_objective
def test_stats_are_those_of_ce_and_leave_the_loss_alone(name: str, settings: dict[str, Any]) -> None:
    batch = random_batch(9)
    objective = build(name, **settings)
    output, unlogged = objective(batch), objective(batch, logged=False)
    assert not unlogged.stats
    torch.testing.assert_close(output.mean(), unlogged.mean(), rtol=0, atol=0)
    set_level = name in dict(SET_LEVEL)
    names = ("nll", "p_y") if set_level else ("nll", "p_y", "entropy")
    ce = build("ce")(without_samples(batch) if set_level else batch)
    torch.testing.assert_close({key: output.stats[key] for key in names}, {key: ce.stats[key] for key in names})


@every_objective
def test_half_precision_logits_are_computed_in_float32(name: str, settings: dict[str, Any]) -> None:
    batch = random_batch(8)
    assert isinstance(batch.reference, Tensor)
    half = replace(batch, logits=plain(batch).bfloat16(), reference=batch.reference.float())
    single = replace(half, logits=plain(half).float())
    objective = build(name, **settings)
    assert objective(half).mean().dtype == torch.float32
    assert_same(objective(half), objective(single))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(objective(half), objective(single))


def test_sums_by_kind() -> None:
    kinds = torch.tensor([0, 2, 0, -1, 2, 2])
    sums, counts = sums_by_kind(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), kinds, 4)
    assert sums.tolist() == [4, 0, 13, 0]
    assert counts.tolist() == [2, 0, 3, 0]
    shares, _ = sums_by_kind(torch.tensor([True, False, True, True, True, False]), kinds, 4)
    assert shares.tolist() == [2, 0, 1, 0]
