"""A Projection gives what its logits give, and refuses what it cannot differentiate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.errors import ObjectiveError
from harness.objectives import apply, build
from harness.objectives.token import PerToken, ScoredPositions
from harness.types import IGNORED_LABEL, LossOutput, Projection, TokenBatch
from tests.objectives.cases import (
    LIVE,
    SET_LEVEL,
    TOKEN_LEVEL,
    assert_same,
    chunks_of,
    every_objective,
    factored_batch,
    factors,
    few_examples,
    outcome,
    over,
    plain,
    rows,
    seeds,
)


def through_logits(name: str, settings: dict[str, Any], batch: TokenBatch) -> tuple[LossOutput, list[Tensor]]:
    """The output from multiplied-out logits, and the gradients on hidden states and embedding."""
    hidden = factors(batch).hidden.detach().clone().requires_grad_()
    weight = factors(batch).weight.detach().clone().requires_grad_()
    output = build(name, **settings)(replace(batch, logits=hidden @ weight.T))
    return output, list(torch.autograd.grad(output.mean(), [hidden, weight]))


def assert_same_selection(a: LossOutput, b: LossOutput) -> None:
    if a.selected is None or b.selected is None:
        assert a.selected is b.selected
    else:
        assert torch.equal(a.selected, b.selected)


# ---- the same values -------------------------------------------------------------------------------------------------


@every_objective
@given(seed=seeds, chunk=st.integers(1, 30))
@few_examples
def test_projection_equals_logits(name: str, settings: dict[str, Any], seed: int, chunk: int) -> None:
    batch = factored_batch(seed)
    expected, expected_gradients = through_logits(name, settings, batch)
    with chunks_of(chunk, 9):
        output, gradients = outcome(name, settings, batch)
    assert_same(output, expected, tolerance=1e-12)
    assert_same_selection(output, expected)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-12, atol=1e-12)


@every_objective
@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 8, 9])
def test_chunk_boundaries(name: str, settings: dict[str, Any], n: int) -> None:
    # Chunks of 4: no position, one, a chunk less one, exactly, and one more; two chunks, and one more.
    batch = factored_batch(11, n=n)
    expected, expected_gradients = through_logits(name, settings, batch)
    with chunks_of(4, 9):
        output, gradients = outcome(name, settings, batch)
    assert_same(output, expected, tolerance=1e-12)
    assert_same_selection(output, expected)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("elements", "share", "positions", "expected"),
    [
        (36, 10**9, 9, [4, 4, 1]),  # 36 elements of 9 tokens each: 4 positions
        (1, 10**9, 3, [1, 1, 1]),  # never less than one
        (9, 2, 9, [5, 4]),  # no more than `share` chunks
        (9, 2, 0, [0]),  # an empty batch is one empty chunk
    ],
)
def test_sizes_of_chunks(
    monkeypatch: pytest.MonkeyPatch, elements: int, share: int, positions: int, expected: list[int]
) -> None:
    monkeypatch.setattr(apply, "CHUNK_ELEMENTS", elements)
    monkeypatch.setattr(apply, "LARGEST_SHARE", share)
    sizes: list[int] = []

    def counting(at: ScoredPositions) -> PerToken:
        sizes.append(len(at.labels))
        return PerToken({"ce": at.nll})

    apply.token_level(counting, factored_batch(0, n=positions), logged=False)
    assert sizes == expected


def test_a_gpu_has_larger_chunks() -> None:
    """671 positions of 50,000 tokens instead of 20; a device without memory stands in for it."""
    sizes = {}
    for device in ("cpu", "meta"):
        first, *_ = apply._chunks(1000, torch.empty(50_000, 1, device=device))
        sizes[device] = first.stop
    assert sizes == {"cpu": 20, "meta": 671}


@every_objective
def test_without_gradients(name: str, settings: dict[str, Any]) -> None:
    batch = factored_batch(12)
    for part in (factors(batch).hidden, factors(batch).weight):
        part.requires_grad_()
    with torch.no_grad(), chunks_of(5, 9):
        output = build(name, **settings)(batch)
    assert not output.mean().requires_grad
    assert_same(output, build(name, **settings)(replace(batch, logits=plain(batch).detach())), tolerance=1e-12)


@every_objective
@pytest.mark.parametrize("trained", ["hidden", "weight"])
def test_what_is_frozen_gets_no_gradient(name: str, settings: dict[str, Any], trained: str) -> None:
    batch = factored_batch(13)
    _, both = outcome(name, settings, batch)
    given = factors(batch)
    leaf = {"hidden": given.hidden, "weight": given.weight}[trained].clone().requires_grad_()
    logits = replace(given, **{trained: leaf})
    with chunks_of(5, 9):
        build(name, **settings)(replace(batch, logits=logits)).mean().backward()  # type: ignore[no-untyped-call]
    frozen = logits.weight if trained == "hidden" else logits.hidden
    assert frozen.grad is None
    torch.testing.assert_close(leaf.grad, both[["hidden", "weight"].index(trained)])


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_of_values_and_gradients(name: str, settings: dict[str, Any], dtype: torch.dtype) -> None:
    # Values in float32 at least; gradients in the type of the parameters.
    batch = factored_batch(14)
    lower = Projection(factors(batch).hidden.to(dtype), factors(batch).weight.to(dtype))
    assert isinstance(batch.reference, Tensor)
    output, gradients = outcome(name, settings, replace(batch, logits=lower, reference=batch.reference.to(dtype)))
    assert {term.sum.dtype for term in output.terms.values()} == {torch.float32}
    assert {gradient.dtype for gradient in gradients} == {dtype}


@every_objective
def test_autocast(name: str, settings: dict[str, Any]) -> None:
    # bfloat16 has 8 significant bits: products and gradients of either path are rounded, not by the same steps.
    batch = factored_batch(15)
    single = replace(batch, logits=Projection(factors(batch).hidden.float(), factors(batch).weight.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16), chunks_of(5, 9):
        expected, expected_gradients = through_logits(name, settings, single)
        output, gradients = outcome(name, settings, single)
    assert_same(output, expected, tolerance=1e-5)
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=0.01 * float(other.abs().max()))


def test_autocast_leaves_float64_alone() -> None:
    # As torch's own products do: autocast lowers float32, never float64.
    batch = factored_batch(16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = build("ce")(batch)
        expected = build("ce")(replace(batch, logits=plain(batch)))
    assert_same(output, expected, tolerance=1e-12)


def test_an_objective_may_ignore_the_label() -> None:
    # Its gradient is one number per position, expanded over the vocabulary.
    def uniform(at: ScoredPositions) -> PerToken:
        return PerToken({"uniform": -at.log_p.sum(-1)})

    batch = factored_batch(17)
    hidden = factors(batch).hidden.clone().requires_grad_()
    gradients = [
        torch.autograd.grad(apply.token_level(uniform, replace(batch, logits=logits), False).mean(), hidden)[0]
        for logits in (Projection(hidden, factors(batch).weight), hidden @ factors(batch).weight.T)
    ]
    torch.testing.assert_close(gradients[0], gradients[1])


# ---- what is refused -------------------------------------------------------------------------------------------------


@over(TOKEN_LEVEL)
def test_a_second_backward_raises(name: str, settings: dict[str, Any]) -> None:
    batch = factored_batch(18)
    hidden = factors(batch).hidden.clone().requires_grad_()
    loss = build(name, **settings)(replace(batch, logits=Projection(hidden, factors(batch).weight))).mean()
    torch.autograd.grad(loss, hidden, retain_graph=True)
    with pytest.raises(ObjectiveError, match="differentiated once"):
        torch.autograd.grad(loss, hidden)


COMBINATIONS: dict[str, Callable[[LossOutput], Tensor]] = {
    "one term": lambda output: output.terms["ce"].sum,
    "without weights": lambda output: torch.stack([term.sum for term in output.terms.values()]).sum(),
    "another weight": lambda output: output.terms["ce"].sum + 3.01 * output.terms["penalty"].sum,
}


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_another_combination_of_the_terms_raises(combination: str) -> None:
    batch = factored_batch(19)
    hidden = factors(batch).hidden.clone().requires_grad_()
    output = build("sed_sft", **LIVE)(replace(batch, logits=Projection(hidden, factors(batch).weight)))
    with pytest.raises(ObjectiveError, match=r"only the weighted sum of the terms .* weights \[1\.0, 3\.0\]"):
        torch.autograd.grad(COMBINATIONS[combination](output), hidden)


@over(TOKEN_LEVEL)
def test_a_multiple_of_the_weighted_sum_is_differentiated(name: str, settings: dict[str, Any]) -> None:
    # Loss scaling, and division by a count that other ranks added to.
    batch = factored_batch(20)
    hidden = factors(batch).hidden.clone().requires_grad_()
    output = build(name, **settings)(replace(batch, logits=Projection(hidden, factors(batch).weight)))
    loss = torch.stack([term.weight * term.sum for term in output.terms.values()]).sum() * 1024 / 77
    (gradient,) = torch.autograd.grad(loss, hidden)
    once, gradients = outcome(name, settings, batch)
    count = next(iter(once.terms.values())).count
    torch.testing.assert_close(gradient, gradients[0] * count * 1024 / 77)


MISFITS: dict[str, tuple[Callable[[TokenBatch], TokenBatch], str]] = {
    "labels": (lambda batch: replace(batch, labels=batch.labels[:-1]), r"TokenBatch\.logits .* labels \[N\]; got .*23"),
    "flat labels": (lambda batch: replace(batch, labels=batch.labels[:, None]), r"TokenBatch\.logits .*24, 1"),
    "group": (lambda batch: replace(batch, group=torch.zeros(25, dtype=torch.int64)), r"group must be \[24\].*\[25\]"),
    "selected": (lambda batch: replace(batch, selected=torch.ones(25, dtype=torch.bool)), r"bool \[24\].*\[25\]"),
    "column": (lambda batch: replace(batch, selected=torch.ones(24, 1, dtype=torch.bool)), r"got torch.bool \[24, 1\]"),
    "short": (lambda batch: replace(batch, selected=torch.ones(23, dtype=torch.bool)), r"got torch.bool \[23\]"),
    "selection": (lambda batch: replace(batch, selected=torch.ones(24)), r"bool \[24\].*float32 \[24\]"),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("given_as", ["logits", "projection"])
@pytest.mark.parametrize(("name", "settings"), [("ce", {}), ("eco", {}), ("sed_sft", {**LIVE, "mask": "base"})])
def test_rows_that_do_not_fit_raise(name: str, settings: dict[str, Any], given_as: str, misfit: str) -> None:
    change, message = MISFITS[misfit]
    batch = factored_batch(21)
    batch = replace(batch, logits=plain(batch)) if given_as == "logits" else batch
    with pytest.raises(ObjectiveError, match=message):
        build(name, **settings)(change(batch))


@pytest.mark.parametrize("given_as", ["logits", "projection"])
@pytest.mark.parametrize("name", ["ce", "eco"])
@pytest.mark.parametrize("label", [-1, 9])
def test_a_label_outside_the_vocabulary_raises(name: str, given_as: str, label: int) -> None:
    batch = factored_batch(22)
    batch.labels[3] = label
    with pytest.raises((IndexError, RuntimeError), match="index"):
        build(name)(batch if given_as == "projection" else replace(batch, logits=plain(batch)))


@pytest.mark.parametrize("given_as", ["logits", "projection"])
def test_the_selection_of_the_base_is_needed(given_as: str) -> None:
    batch = replace(factored_batch(23), selected=None)
    batch = batch if given_as == "projection" else replace(batch, logits=plain(batch))
    with pytest.raises(ObjectiveError, match=r"mask 'base' needs TokenBatch\.selected"):
        build("sed_sft", **{**LIVE, "mask": "base"})(batch)


@over(SET_LEVEL)
@pytest.mark.parametrize("missing", ["group", "members"])
def test_sets_are_needed(name: str, settings: dict[str, Any], missing: str) -> None:
    batch = factored_batch(23)
    batch = replace(batch, group=None) if missing == "group" else replace(batch, members=None)
    with pytest.raises(ObjectiveError, match=rf"{name} needs TokenBatch\.group and TokenBatch\.members, and got none"):
        build(name, **settings)(batch)


def test_rows_keep_the_embedding() -> None:
    batch = factored_batch(26)
    mask = batch.labels != IGNORED_LABEL
    assert torch.equal(factors(batch).take(mask).hidden, factors(rows(batch, mask)).hidden)
    assert factors(batch).take(mask).weight is factors(batch).weight
