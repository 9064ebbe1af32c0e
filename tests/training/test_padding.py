"""Micro-batches by tokens: less padding, the same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.errors import ConfigError
from harness.sequence.targets import target
from harness.suite.load import parse
from harness.suite.train_settings import Train
from harness.training.objective import prepare
from harness.training.rows import Row, TokenBudget, by_length, length_of, micro_batches
from harness.training.step import accumulate
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small


def rows_of(adapter: OpenFlamingo, count: int) -> list[Row]:
    return [Row(example, target(example, adapter.codec, "canonical")) for example in small.train_examples(count)]


def lengths(adapter: OpenFlamingo, rows: list[Row]) -> list[int]:
    return [length_of(row, adapter.codec) for row in rows]


def in_double_precision() -> OpenFlamingo:
    """So that what the order of a sum does is not taken for a difference."""
    adapter = small.fitted()
    adapter.model.double()
    return adapter


def step_of(adapter: OpenFlamingo, rows: list[Row], size: int | TokenBudget, name: str) -> tuple[Tensor, float]:
    """The gradient, and the share of padding."""
    settings: dict[str, Any] = {"top_k": 3, "threshold": 0.9} if name == "sed_sft" else {}
    objective = prepare(name, settings, small.fresh(), (), Train(), 0)
    adapter.model.zero_grad()
    output = accumulate(
        adapter, rows, objective, size, small.accelerator(), pixels=lambda examples: adapter.pixels(examples).double()
    )
    padding, positions = output.stats["padding"]
    gradient = torch.cat([p.grad.flatten() for p in adapter.model.parameters() if p.grad is not None])
    return gradient, float(padding / positions)


@pytest.mark.parametrize("name", ["ce", "sed_sft"])
def test_sorted_by_length_the_gradient_is_the_same_and_less_is_padded(name: str) -> None:
    adapter = in_double_precision()
    rows = rows_of(adapter, 16)
    expected, much = step_of(adapter, rows, 4, name)
    budget = TokenBudget(4 * max(lengths(adapter, rows)))
    gradient, little = step_of(adapter, by_length(rows, adapter.codec), budget, name)
    assert expected.norm() > 1e-3
    assert (gradient - expected).norm() < 1e-6 * expected.norm()
    assert little < 0.6 * much


def test_the_share_of_padding_by_hand() -> None:
    """Of a batch of n sequences with L_i positions: 1 - sum of L_i / (n * the largest L_i)."""
    adapter = in_double_precision()
    rows = rows_of(adapter, 8)
    sizes = lengths(adapter, rows)
    assert step_of(adapter, rows, 8, "ce")[1] == pytest.approx(1 - sum(sizes) / (8 * max(sizes)))
    assert step_of(adapter, rows, 1, "ce")[1] == 0.0


def test_micro_batches_keep_to_their_budget_and_lose_nothing() -> None:
    adapter = small.fresh()
    rows = by_length(rows_of(adapter, 24), adapter.codec)
    sizes = lengths(adapter, rows)
    assert sizes == sorted(sizes, reverse=True)
    parts = list(micro_batches(rows, TokenBudget(60), whole_sets=False, codec=adapter.codec))
    assert [row for part in parts for row in part] == rows
    assert len(parts) > 2
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths(adapter, part)) <= 60
    assert len(list(micro_batches(rows, TokenBudget(1), whole_sets=False, codec=adapter.codec))) == len(rows)


def test_rows_of_one_image_stay_together() -> None:
    adapter = small.fresh()
    first, second = small.train_examples(2)
    rows = [Row(first, (1,)), Row(first, (1,) * 9), Row(second, (1,) * 5)]
    assert by_length(rows, adapter.codec) == rows
    assert by_length([rows[2], *rows[:2]], adapter.codec) == rows


@pytest.mark.parametrize("workers", [0, 2])
def test_training_by_tokens_is_training(workers: int) -> None:
    """The same loss at each step, to rounding, however images are read ahead; with less padding than in one piece."""
    curves = []
    for changes in ({}, {"micro_tokens": 60}):
        adapter, plan = small.fitted(), Train(steps=4, batch_size=8, lr=1e-4, log_every=1, **changes)
        ready = prepare("ce", {}, adapter, (), plan, 0)
        curves.append(small.fine_tune(adapter, ready, plan, small.train_examples(12), workers=workers))
    whole, split = curves
    assert [row["loss"] for row in split] == pytest.approx([row["loss"] for row in whole], abs=1e-5)
    assert all(0 <= row["padding"] < other["padding"] for row, other in zip(split, whole, strict=True))


def test_one_limit_is_enough() -> None:
    train = {"steps": 3, "batch_size": 4, "micro_batch": 2, "micro_tokens": 60}
    with pytest.raises(ConfigError, match="micro_tokens: expected without micro_batch"):
        parse({**small.mini_suite().model_dump(mode="json", exclude_defaults=True), "train": train}, "x.yaml")
