"""A Projection is worked off in chunks: no N x V tensor in either pass, and no chunk outlives its turn."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.objectives import apply, build
from harness.objectives.token import PerToken, ScoredPositions
from harness.types import IGNORED_LABEL, Projection, TokenBatch
from tests.objectives.cases import SET_LEVEL, chunks_of, every_objective, factored_batch, factors, over


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Elements of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))])
        return result


def largest(name: str, settings: dict[str, Any], batch: TokenBatch, given_as: str) -> tuple[int, int]:
    """Elements of the largest tensor of the forward and of the backward pass."""
    hidden = factors(batch).hidden.clone().requires_grad_()
    weight = factors(batch).weight.clone().requires_grad_()
    with Largest() as forward:  # type: ignore[no-untyped-call]
        logits = hidden @ weight.T if given_as == "logits" else Projection(hidden, weight)
        loss = build(name, **settings)(replace(batch, logits=logits)).mean()
    with Largest() as backward:  # type: ignore[no-untyped-call]
        loss.backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert weight.grad is not None
    return forward.numel, backward.numel


@every_objective
def test_no_tensor_of_n_by_v(name: str, settings: dict[str, Any]) -> None:
    n, vocabulary, width, chunk = 96, 50, 4, 6
    batch = factored_batch(24, n, vocabulary, width)
    with chunks_of(chunk, vocabulary):
        forward, backward = largest(name, settings, batch, "projection")
    inputs = max(n * width, vocabulary * width)
    assert max(forward, backward) <= max(chunk * vocabulary, inputs) < n * vocabulary // 10
    # The measure sees such tensors where there are some: in both passes over multiplied-out logits.
    assert largest(name, settings, batch, "logits") == (n * vocabulary, n * vocabulary)


def saved_between_passes(name: str, settings: dict[str, Any], batch: TokenBatch, given_as: str) -> int:
    """Elements of the largest tensor that autograd keeps for backward, the inputs aside."""
    hidden = factors(batch).hidden.clone().requires_grad_()
    weight = factors(batch).weight.clone().requires_grad_()
    inputs = {hidden.data_ptr(), weight.data_ptr()}
    sizes = [0]

    def keep(saved: Tensor) -> Tensor:
        if saved.data_ptr() not in inputs:
            sizes.append(saved.numel())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        logits = hidden @ weight.T if given_as == "logits" else Projection(hidden, weight)
        build(name, **settings)(replace(batch, logits=logits)).mean()
    return max(sizes)


@over(SET_LEVEL)
def test_no_chunk_is_kept_for_backward(name: str, settings: dict[str, Any]) -> None:
    # Chunks are scored again in backward: what is kept has one number per position, not one per position and token.
    n, vocabulary = 96, 50
    batch = factored_batch(24, n, vocabulary, width=4)
    with chunks_of(6, vocabulary):
        assert saved_between_passes(name, settings, batch, "projection") <= n
    assert saved_between_passes(name, settings, batch, "logits") == n * vocabulary


def test_every_chunk_is_freed_before_the_next() -> None:
    # What a chunk's autograd graph holds is gone when the next chunk is scored.
    alive: list[weakref.ref[Tensor]] = []

    def watched(at: ScoredPositions) -> PerToken:
        assert not any(reference() is not None for reference in alive)
        alive.append(weakref.ref(at.log_p))
        return PerToken({"ce": at.nll})

    with chunks_of(4, 9):
        output = apply.token_level(watched, factored_batch(25), logged=True)
    assert len(alive) == 6
    assert output.terms["ce"].count == (factored_batch(25).labels != IGNORED_LABEL).sum()
