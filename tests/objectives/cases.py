"""Objectives with settings, batches, and the two ways of giving logits: what the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from harness.objectives import OBJECTIVES, apply, build
from harness.types import IGNORED_LABEL, LossOutput, Members, Projection, TokenBatch

Case = tuple[str, dict[str, Any]]

LIVE: dict[str, Any] = {"top_k": 2, "threshold": 0.7, "weight": 3.0}
CASES: list[Case] = [
    ("ce", {}),
    ("ce_kl", {"weight": 0.7}),
    ("mixture", {}),
    ("label_smoothing", {"epsilon": 0.2}),
    ("sed_sft", LIVE),
    ("sed_sft", {"mask": "none", "weight": 3.0}),
    ("sed_sft", {**LIVE, "mask": "base"}),
    ("gem", {"beta": 0.7}),
    ("gem", {"beta": 1.3, "h": "logsigmoid"}),
    ("dft", {}),
    ("entropy_bonus", {"weight": 0.3}),
    ("eaft", {"alpha": 1.5, "top_k": 4}),
    ("eaft", {"z": 3.0}),
    ("focal", {}),
    ("focal", {"gamma": 0.5}),
    ("precision_recall", {"lam": 0.3, "gamma": 0.2}),
    ("precision_recall", {"lam": 1.0, "gamma": 0.5}),
    ("eco", {"weight": 0.05}),
    ("eco", {"weight": 0.5, "log_prob": "mean"}),
    ("kl_uniform", {"weight": 0.3}),
    ("mrt", {"weight": 2.0}),
]
TOKEN_LEVEL = [case for case in CASES if OBJECTIVES[case[0]].level == "token"]
SET_LEVEL = [case for case in CASES if case not in TOKEN_LEVEL]
PLACED = ("precision_recall",)
"""Objectives that ask where in its sequence a position stands."""
ANYWHERE = [case for case in CASES if case[0] not in PLACED]


def over(cases: list[Case]) -> pytest.MarkDecorator:
    names = ["-".join([name, *map(str, settings.values())]) for name, settings in cases]
    return pytest.mark.parametrize(("name", "settings"), cases, ids=names)


every_objective = over(CASES)
few_examples = hypothesis_settings(max_examples=15)
seeds = st.integers(0, 2**31)

MEMBERS = Members(
    # Set 0: three members; 1: two and a sample; 2: one and a sample, so it does not count; 3: absent; 4: one.
    set=torch.tensor([0, 1, 0, 2, 1, 0, 1, 2, 4]),
    sampled=torch.tensor([False, False, False, False, False, False, True, True, False]),
    cost=torch.tensor([0.0, 0.25, 0.5, 0.0, 0.125, 1.0, 0.75, 0.5, 0.25]),
)


def random_batch(seed: int, n: int = 24, vocabulary: int = 9, ignored: float = 0.25) -> TokenBatch:
    """float64; sharp and flat rows, so that LIVE selects some positions and leaves others."""
    rng = torch.Generator().manual_seed(seed)
    scale = 4 * torch.rand(n, 1, generator=rng, dtype=torch.float64)
    logits = scale * torch.randn(n, vocabulary, generator=rng, dtype=torch.float64)
    labels = torch.randint(vocabulary, (n,), generator=rng)
    labels[torch.rand(n, generator=rng) < ignored] = IGNORED_LABEL
    selected = torch.rand(n, generator=rng) < 0.5
    group = torch.randint(len(MEMBERS.set), (n,), generator=rng)
    reference = scale * torch.randn(n, vocabulary, generator=rng, dtype=torch.float64)
    return TokenBatch(logits, labels, group, MEMBERS, selected, reference=reference)


def factored_batch(seed: int, n: int = 24, vocabulary: int = 9, width: int = 5) -> TokenBatch:
    """A random batch whose logits are a Projection of random hidden states and embedding."""
    rng = torch.Generator().manual_seed(seed)
    scale = 4 * torch.rand(n, 1, generator=rng, dtype=torch.float64)
    hidden = scale * torch.randn(n, width, generator=rng, dtype=torch.float64)
    weight = torch.randn(vocabulary, width, generator=rng, dtype=torch.float64) / width**0.5
    return replace(random_batch(seed, n, vocabulary), logits=Projection(hidden, weight))


def factors(batch: TokenBatch) -> Projection:
    assert isinstance(batch.logits, Projection)
    return batch.logits


def plain(batch: TokenBatch) -> Tensor:
    """The logits [N, V], multiplied out if they are not."""
    logits = batch.logits
    return logits.hidden @ logits.weight.T if isinstance(logits, Projection) else logits


def projected(batch: TokenBatch) -> TokenBatch:
    """The same logits as a Projection on the identity: what is true of hidden is true of logits."""
    logits = plain(batch)
    return replace(batch, logits=Projection(logits, torch.eye(logits.shape[-1], dtype=logits.dtype)))


def rows(batch: TokenBatch, index: Tensor | slice) -> TokenBatch:
    """These positions of the batch; its sequences stay."""
    assert not isinstance(batch.reference, Projection)
    parts = (batch.labels, batch.group, batch.selected, batch.reference)
    labels, group, selected, reference = (None if part is None else part[index] for part in parts)
    assert labels is not None
    if isinstance(batch.logits, Projection):
        logits: Tensor | Projection = Projection(batch.logits.hidden[index], batch.logits.weight)
    else:
        logits = batch.logits[index]
    return TokenBatch(logits, labels, group, batch.members, selected, reference=reference)


def outcome(name: str, settings: dict[str, Any], batch: TokenBatch) -> tuple[LossOutput, list[Tensor]]:
    """The output, and the gradients of its mean: on the logits, or on hidden states and embedding."""
    given = batch.logits
    parts = [given.hidden, given.weight] if isinstance(given, Projection) else [given]
    leaves = [part.detach().clone().requires_grad_() for part in parts]
    logits = Projection(*leaves) if isinstance(given, Projection) else leaves[0]
    output = build(name, **settings)(replace(batch, logits=logits))
    return output, list(torch.autograd.grad(output.mean(), leaves))


def loss_and_gradient(name: str, settings: dict[str, Any], batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """The mean loss, and its gradient on the logits (on the hidden states of a Projection)."""
    output, gradients = outcome(name, settings, batch)
    return output.mean().detach(), gradients[0]


def selection(logits: Tensor, settings: dict[str, Any], selected: Tensor | None = None) -> Tensor:
    """m [N] of sed_sft."""
    labels = torch.zeros(len(logits), dtype=torch.int64)
    mask = build("sed_sft", **settings)(TokenBatch(logits, labels, selected=selected)).selected
    assert mask is not None
    return mask


def assert_same(a: LossOutput, b: LossOutput, tolerance: float | None = None) -> None:
    """Terms, counts, weights and statistics agree: to torch's tolerances for the type, or to this one."""
    assert a.terms.keys() == b.terms.keys()
    for key, term in a.terms.items():
        other = b.terms[key]
        torch.testing.assert_close(term.sum, other.sum, rtol=tolerance, atol=tolerance)
        assert (term.count.item(), term.weight, term.unit) == (other.count.item(), other.weight, other.unit)
    torch.testing.assert_close(dict(a.stats), dict(b.stats), rtol=tolerance, atol=tolerance)


@contextmanager
def chunks_of(positions: int, vocabulary: int) -> Iterator[None]:
    """Projections are multiplied out this many positions at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply, "CHUNK_ELEMENTS", positions * vocabulary)
        patch.setattr(apply, "LARGEST_SHARE", 10**9)
        yield
