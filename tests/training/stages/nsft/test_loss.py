"""The loss of nSFT by hand, and the rows that it is computed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.errors import ObjectiveError
from harness.objectives.apply import token_level
from harness.objectives.policy import nsft
from harness.objectives.token import ce_kl
from harness.sequence.targets import target
from harness.training.rows import Row
from harness.training.stages.nsft import NsftStage
from harness.training.step import accumulate
from harness.types import Members, Projection, TokenBatch
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small
from tests.support.chains import (
    NSFT,
    chain_of,
    gradient,
    stage_of,
)

# ---- the loss, by hand -------------------------------------------------------------------------------------------


def batch(logits: Tensor | Projection, reference: Tensor | Projection | None = None) -> TokenBatch:
    """Three positions of a target and two of a correction, in sequences that take turns."""
    members = Members(torch.tensor([0, 0, 1]), torch.zeros(3, dtype=torch.bool), torch.zeros(3))
    correction = torch.tensor([False, True, False])
    group = torch.tensor([0, 0, 1, 1, 2])
    corrected = replace(members, correction=correction)
    return TokenBatch(logits, torch.tensor([1, 0, 2, 2, 3]), group, corrected, reference=reference)


def projection(seed: int) -> Projection:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(5, 3, generator=generator), torch.randn(4, 3, generator=generator)
    return Projection(hidden.double().requires_grad_(), weight.double().requires_grad_())


@pytest.mark.parametrize("multiplied", [True, False])
def test_two_means_and_the_divergence_by_hand(multiplied: bool) -> None:
    made, frozen = projection(0), projection(1)
    logits, other = made.hidden @ made.weight.T, (frozen.hidden @ frozen.weight.T).detach()
    given = batch(logits, other) if multiplied else batch(made, frozen)
    output = nsft(given, negative=0.5, kl=0.2)
    gradients = torch.autograd.grad(output.mean(), (made.hidden, made.weight), retain_graph=True)
    log_p, log_q = logits.log_softmax(-1), other.log_softmax(-1)
    nll = F.cross_entropy(logits, given.labels, reduction="none")
    kl = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)  # torch's is KL(second || first)
    both = nll + 0.2 * kl
    expected = both[[0, 1, 4]].mean() + 0.5 * both[[2, 3]].mean()
    assert float(output.mean().detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    for part, right in zip(gradients, torch.autograd.grad(expected, (made.hidden, made.weight)), strict=True):
        assert torch.allclose(part, right, rtol=1e-9)
    assert {name: (int(term.count), term.unit) for name, term in output.terms.items()} == {
        "ce": (3, "tokens"),
        "kl": (3, "tokens"),
        "correction_ce": (2, "corrections"),
        "correction_kl": (2, "corrections"),
    }
    sums, count = output.stats["correction_kl"]
    assert float(sums / count) == pytest.approx(float(kl[[2, 3]].mean().detach()))


def test_the_divergence_from_itself_is_nothing_and_pulls_nowhere() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    output = nsft(batch(logits, logits.detach()), negative=1.0, kl=1.0)
    divergence = output.terms["kl"].sum + output.terms["correction_kl"].sum
    assert float(divergence.detach()) == 0.0
    assert float(torch.autograd.grad(divergence, logits)[0].abs().max()) < 1e-15


def test_what_is_missing_is_an_error() -> None:
    logits = torch.zeros(5, 4)
    with pytest.raises(ObjectiveError, match=r"needs TokenBatch\.reference"):
        nsft(batch(logits), negative=1.0, kl=0.1)
    with pytest.raises(ObjectiveError, match="members that say which of them are corrections"):
        nsft(replace(batch(logits), members=None), negative=1.0, kl=0.0)
    with pytest.raises(ObjectiveError, match=r"TokenBatch\.reference must have \[5\] rows"):
        token_level(partial(ce_kl, weight=0.1), batch(logits, torch.zeros(4, 4)), logged=False)


def test_without_corrections_it_is_fine_tuning() -> None:
    logits = torch.randn(5, 4, requires_grad=True)
    none = Members(torch.zeros(3), torch.zeros(3), torch.zeros(3), torch.zeros(3, dtype=torch.bool))
    output = nsft(replace(batch(logits), members=none), negative=3.0, kl=0.0)
    assert float(output.mean().detach()) == pytest.approx(float(F.cross_entropy(logits, batch(logits).labels).detach()))


# ---- rows ------------------------------------------------------------------------------------------------------------


def rows_of(adapter: OpenFlamingo) -> list[Row]:
    """Targets of two images, and three corrections of them."""
    one, two = small.fitted_examples()[:2]
    codec = adapter.codec
    first, second = (target(e, codec, "canonical") for e in (one, two))
    return [
        Row(one, first),
        Row(one, first[5:], context=first[:5], correction=True),
        Row(two, second),
        Row(two, second, correction=True),
        Row(two, second[-1:], context=(*second[:5], *second[:-1]), correction=True),
    ]


def of_rows(rows: Sequence[Row], micro_batch: int = 100, negative: float = 1.0, kl: float = 0.0) -> tuple[Any, Tensor]:
    adapter, stage = small.fitted(), stage_of(chain_of({**NSFT, "negative": negative, "kl": kl}))
    assert isinstance(stage, NsftStage)
    stage = replace(stage, reference=small.fresh(seed=7) if kl else None)
    output = accumulate(adapter, rows, stage.objective, micro_batch, small.accelerator())
    return output, gradient(adapter)


def test_only_answers_are_learnt() -> None:
    """The gradient is that of two forward passes by hand: of the target's tokens, and of the answer's after a context
    whose own tokens have no loss."""
    adapter = small.fitted()
    plain, correction = rows_of(adapter)[:2]
    _, update = of_rows([plain, correction])
    image, prompt = adapter.pixels([plain.example]), adapter.codec.tokens.prompt
    whole = torch.tensor([[*prompt, *plain.tokens]])
    log_p = adapter.logits(image, whole[:, :-1]).log_softmax(-1)[0].gather(1, whole[0, 1:, None])[:, 0]
    assert (*correction.context, *correction.tokens) == plain.tokens  # so one pass says all
    answer = log_p[len(prompt) - 1 + len(correction.context) :]
    torch.autograd.backward(-log_p[len(prompt) - 1 :].mean() - answer.mean())
    assert update.norm() > 1e-3
    assert (update - gradient(adapter)).norm() < 1e-4 * update.norm()


@pytest.mark.parametrize(("negative", "kl"), [(1.0, 0.0), (0.3, 0.5)])
def test_the_gradient_does_not_depend_on_how_a_batch_is_split(negative: float, kl: float) -> None:
    rows = rows_of(small.fitted())
    whole, expected = of_rows(rows, 100, negative, kl)
    assert expected.norm() > 1e-3
    for size in (1, 2, 3):
        output, update = of_rows(rows, size, negative, kl)
        assert (update - expected).norm() < 1e-4 * expected.norm()
        assert float(output.mean().detach()) == pytest.approx(float(whole.mean().detach()), rel=1e-4)
