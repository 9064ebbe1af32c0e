"""The gradient that the loop applies, and the one that it should: each token by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.sequence.targets import members, target
from harness.suite.train_settings import Train
from harness.training.objective import Objective, prepare
from harness.training.rows import Row
from harness.training.step import accumulate
from harness.types import Example, LossOutput, Projection, Term, TokenBatch
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small

PLAN = Train(steps=3, batch_size=8, log_every=1)
SED: dict[str, dict[str, Any]] = {
    "live": {"mask": "live", "top_k": 5, "quantile": 0.5, "weight": 5.0},
    "none": {"mask": "none", "weight": 5.0},
    "base": {"mask": "base", "top_k": 5, "quantile": 0.5, "weight": 5.0},
}
HELDOUT = 8
TIMES = ("seconds", "waiting")
"""What no two runs have in common."""


def heldout() -> tuple[Example, ...]:
    return small.benchmark().split("calibration")[:HELDOUT]


def ready(name: str, settings: dict[str, Any], base: OpenFlamingo | None = None, plan: Train = PLAN) -> Objective:
    return prepare(name, settings, base or small.fitted(), heldout(), plan, 0)


def gradient(adapter: OpenFlamingo) -> Tensor:
    """All gradients in one vector; a parameter without one counts as 0."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in adapter.model.parameters()]
    return torch.cat([part.flatten() for part in parts])


def rows_of(
    adapter: OpenFlamingo, examples: Sequence[Example], targets: str = "canonical", seed: int = 0, epoch: int = 0
) -> list[Row]:
    """One target of each example."""
    return [Row(e, members(e, adapter.codec, targets, seed, epoch, 1)[0]) for e in examples]


def after_accumulation(
    adapter: OpenFlamingo, objective: Objective, micro_batch: int, examples: Sequence[Example] | None = None
) -> tuple[LossOutput, Tensor]:
    examples = small.train_examples(8) if examples is None else examples
    adapter.model.zero_grad()
    output = accumulate(adapter, rows_of(adapter, examples), objective, micro_batch, small.accelerator())
    return output, gradient(adapter)


def token_by_token(adapter: OpenFlamingo, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """logits [N, V] and labels [N] of the canonical targets, one unpadded image at a time."""
    logits, labels = [], []
    prompt = list(adapter.tokens.prompt)
    for example in examples:
        tokens = list(target(example, adapter.codec, "canonical"))
        inputs = torch.tensor([[*prompt, *tokens[:-1]]])
        logits.append(adapter.logits(adapter.pixels([example]), inputs)[0, len(prompt) - 1 :])
        labels += tokens
    return torch.cat(logits), torch.tensor(labels)


def run(adapter: OpenFlamingo, objective: Objective, plan: Train, examples: int = 8) -> list[dict[str, Any]]:
    return small.fine_tune(adapter, objective, plan, small.train_examples(examples))


def parameters(adapter: OpenFlamingo) -> list[Tensor]:
    return [p.detach().clone() for p in adapter.model.parameters()]


def predicted_gradient(adapter: OpenFlamingo, examples: Sequence[Example], m: Tensor, weight: float) -> Tensor:
    """DESIGN 6.3: CE's gradient, scaled per token by 1 - 2*weight*m*p_y*(p_y - 1/2)."""
    adapter.model.zero_grad()
    logits, labels = token_by_token(adapter, examples)
    nll = F.cross_entropy(logits, labels, reduction="none")
    p_y = (-nll.detach()).exp()
    (nll * (1 - 2 * weight * m * p_y * (p_y - 0.5))).mean().backward()  # type: ignore[no-untyped-call]
    return gradient(adapter)


def by_term(batch: TokenBatch, count: int) -> LossOutput:
    assert isinstance(batch.logits, Projection)
    logits = batch.logits.hidden @ batch.logits.weight.T
    nll = F.cross_entropy(logits.float(), batch.labels, reduction="sum")
    return LossOutput({"pairs": Term(nll, torch.tensor(count))})
