"""Weights by kind of token: one rule for every objective, counts as they were, in any split of a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.errors import ConfigError, ObjectiveError
from harness.objectives import build
from harness.run import runner
from harness.run.context import open_context
from harness.sequence import KINDS
from harness.suite.train_settings import Train
from harness.training.objective import prepare
from harness.training.step import accumulate
from harness.types import LossOutput, TokenBatch
from tests.objectives.cases import (
    MEMBERS,
    SET_LEVEL,
    TOKEN_LEVEL,
    assert_same,
    chunks_of,
    factored_batch,
    loss_and_gradient,
    outcome,
    over,
    plain,
    random_batch,
    rows,
)
from tests.support import small
from tests.training.loop.gradients import after_accumulation, gradient, rows_of, token_by_token

WEIGHTS = torch.rand(24, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2


# ---- objectives ----------------------------------------------------------------------------------------------------


@over(TOKEN_LEVEL)
def test_each_position_counts_as_much_as_its_weight(name: str, settings: dict[str, Any]) -> None:
    """Against the objective at every single position; what is averaged over stays all target positions."""
    settings = settings | {"lam": 1.0} if "lam" in settings else settings  # below 1 the place in the sequence counts
    batch = random_batch(7)
    output, (gradient,) = outcome(name, settings, replace(batch, weight=WEIGHTS))
    count = int((batch.labels >= 0).sum())
    alone = [loss_and_gradient(name, settings, rows(batch, slice(i, i + 1))) for i in range(24)]
    expected = torch.stack([weight * loss for weight, (loss, _) in zip(WEIGHTS, alone, strict=True)]).sum() / count
    slopes = torch.cat([weight * slope for weight, (_, slope) in zip(WEIGHTS, alone, strict=True)]) / count
    torch.testing.assert_close(output.mean(), expected)
    torch.testing.assert_close(gradient, slopes)
    assert {int(term.count) for term in output.terms.values()} == {count}
    assert_same(LossOutput({}, output.stats), LossOutput({}, build(name, **settings)(batch).stats))


@over([*TOKEN_LEVEL, *SET_LEVEL])
def test_a_projection_has_the_same_weights(name: str, settings: dict[str, Any]) -> None:
    batch = replace(factored_batch(7), weight=WEIGHTS)
    expected, expected_gradient = loss_and_gradient(name, settings, replace(batch, logits=plain(batch)))
    with chunks_of(5, 9):
        loss, (hidden, weight) = outcome(name, settings, batch)
    torch.testing.assert_close(loss.mean(), expected)
    factors: Any = batch.logits
    torch.testing.assert_close(hidden, expected_gradient @ factors.weight)
    torch.testing.assert_close(weight, expected_gradient.T @ factors.hidden)


@over([*TOKEN_LEVEL, *SET_LEVEL])
def test_weights_of_one_are_none(name: str, settings: dict[str, Any]) -> None:
    batch = random_batch(8)
    one, (slope,) = outcome(name, settings, batch)
    other, (again,) = outcome(name, settings, replace(batch, weight=torch.ones(24)))
    assert torch.equal(one.mean(), other.mean())
    assert torch.equal(slope, again)


@over(SET_LEVEL)
def test_probabilities_of_whole_sequences_have_no_weights(name: str, settings: dict[str, Any]) -> None:
    batch = random_batch(9)
    plain_terms = build(name, **settings)(batch).terms
    terms = build(name, **settings)(replace(batch, weight=WEIGHTS)).terms
    assert torch.equal(terms[name].sum, plain_terms[name].sum)
    assert batch.group is not None
    given = (batch.labels >= 0) & ~MEMBERS.sampled[batch.group]
    nll = F.cross_entropy(plain(batch)[given], batch.labels[given], reduction="none")
    torch.testing.assert_close(terms["ce"].sum, (nll * WEIGHTS[given]).sum())
    assert int(terms["ce"].count) == int(given.sum())


def test_weights_of_another_length_raise() -> None:
    batch: TokenBatch = replace(random_batch(1), weight=torch.ones(23))
    with pytest.raises(ObjectiveError, match=r"TokenBatch.weight must be \[24\], .* got \[23\]"):
        build("ce")(batch)


# ---- training ------------------------------------------------------------------------------------------------------


def weighted(name: str, settings: dict[str, Any], weights: dict[str, float]) -> Any:
    plan = Train(steps=3, batch_size=8, loss_weights=weights)
    return prepare(name, settings, small.fitted(), small.benchmark().split("calibration")[:8], plan, 0)


def test_kinds_of_tokens_have_their_weights() -> None:
    """Against torch's cross-entropy, token by token."""
    weights = {"name": 2.0, "location": 0.5, "end": 0.0}
    adapter, examples = small.fitted(), small.train_examples(8)
    output, update = after_accumulation(adapter, weighted("ce", {}, weights), 8)
    adapter.model.zero_grad()
    logits, labels = token_by_token(adapter, examples)
    kinds = adapter.codec.kinds(labels.tolist())
    each = torch.tensor([weights.get(KINDS[kind], 1.0) for kind in kinds])
    expected = (F.cross_entropy(logits, labels, reduction="none") * each).sum() / len(labels)
    expected.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(output.mean(), expected.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(update, gradient(adapter), atol=1e-5, rtol=1e-3)
    assert set(kinds) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("sed_sft", {"mask": "base", "top_k": 5, "quantile": 0.5, "weight": 5.0}), ("eco", {"weight": 0.05})],
)
def test_a_weighted_batch_may_be_split(name: str, settings: dict[str, Any]) -> None:
    adapter, objective = small.fitted(), weighted(name, settings, {"location": 0.25})

    def gradient_of(micro_batch: int) -> Tensor:
        adapter.model.zero_grad()
        pairs = [row for row in rows_of(adapter, small.train_examples(4)) for _ in (0, 1)]
        accumulate(adapter, pairs, objective, micro_batch, small.accelerator())
        return gradient(adapter)

    torch.testing.assert_close(gradient_of(8), gradient_of(2), atol=1e-5, rtol=1e-3)


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"locations": 0.5}, "unknown kind of token 'locations', did you mean 'location'"),
        ({"location": -1.0}, "greater than or equal to 0"),
        ({"name": float("inf")}, "finite"),
    ],
)
def test_wrong_weights_are_named(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small.mini_suite(train={"steps": 3, "batch_size": 4, "loss_weights": weights})


def test_weights_are_part_of_what_identifies_a_cell() -> None:
    def digests(weights: dict[str, float]) -> set[str]:
        suite = small.mini_suite(train={"steps": 3, "batch_size": 4, "loss_weights": weights})
        return {item.digest for item in runner.plan(open_context(suite, None, "cpu"), Path("runs"))}

    plain_digests, other = digests({}), digests({"location": 0.5})
    assert len(plain_digests & other) == len(plain_digests) - 2  # of base and oracles, which are not trained
