"""Checks of the ways around repeated work that an adapter may offer: what they give is what it gives without them."""

from __future__ import annotations

from typing import Any

import torch

from harness.conformance.sampling import MIXED
from harness.conformance.subject import MAX_TOKENS, NotApplicableError, Subject, apart, as_adapter, require
from harness.inference.confidence import score
from harness.protocols import Adapter, DrawSettings, EncodesImages, ReadsPrompts, Refills
from harness.types import Example

AT_ONCE = 2
"""Pictures in a queue at once: fewer than there are, so that rows begin beside others that have come further."""
HIDDEN = ("encode", "read", "reads_trees", "read_prompts", "follows_trees")


def refills(subject: Subject) -> None:
    """A batch that is refilled gives the answers of batches, whose fine-tuned model ends them at several lengths."""
    if not isinstance(subject.predictor, Refills):
        raise NotApplicableError("no generate_queue(): it is optional")
    if not subject.predictor.refills:
        raise NotApplicableError("`refills` says that rows of several lengths cannot be read")
    adapter: Any = subject.trained.adapter
    plain = adapter.generate(subject.few, MIXED, 0, MAX_TOKENS)
    refilled = adapter.generate_queue(subject.few, MIXED, DrawSettings(0, MAX_TOKENS), AT_ONCE)
    for example, expected, actual in zip(subject.few, plain, refilled, strict=True):
        require(
            [s.tokens for s in actual] == [s.tokens for s in expected],
            f"image {example.image_id}: expected the samples of `generate` where {AT_ONCE} pictures at a time are in a "
            "queue, got others; a row that joins must see its own prompt and picture alone, at its own positions",
        )
        error = max(
            apart(torch.tensor(a.log_probs), torch.tensor(b.log_probs)) for a, b in zip(actual, expected, strict=True)
        )
        require(
            error <= subject.tolerance,
            f"image {example.image_id}: expected the log-probabilities of `generate` within {subject.tolerance} in a "
            f"queue, got {error:.3g}",
        )


class _LogitsAlone:
    """An adapter without its shortcuts: scoring asks `logits` about every sequence."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        if name in HIDDEN:
            raise AttributeError(name)
        return getattr(self._adapter, name)


def scores(subject: Subject) -> None:
    """Scores of mentions, for which pictures or prompts are read once, are those of whole passes."""
    adapter = as_adapter(subject.predictor)
    if not isinstance(adapter, EncodesImages | ReadsPrompts):
        raise NotApplicableError("neither encode() nor read_prompts(): they are optional")
    # Two sequences about each picture, the second one another picture's.
    asked = [(example, subject.target(other)) for example, after in _neighbours(subject) for other in (example, after)]
    examples, sequences = [example for example, _ in asked], [tokens for _, tokens in asked]
    parsed = [adapter.codec.decode(tokens, e.width, e.height) for e, tokens in asked]
    alone: Any = _LogitsAlone(adapter)
    actual, expected = (score(one, examples, sequences, parsed) for one in (adapter, alone))
    for example, row, wanted in zip(examples, actual, expected, strict=True):
        for one, other in zip(row, wanted, strict=True):
            pairs = [(one.name, other.name), (one.category, other.category), (one.locations, other.locations)]
            values = [(a, b) for a, b in pairs if a is not None and b is not None]
            error = apart(*torch.tensor(values, dtype=torch.float64).log().unbind(1))
            require(
                error <= subject.tolerance,
                f"image {example.image_id}: expected the log-probabilities of a mention that `logits` gives within "
                f"{subject.tolerance}, got {error:.3g}; each row must read its own picture and prompt, and a token of "
                "a tree only what stands before it",
            )


def _neighbours(subject: Subject) -> list[tuple[Example, Example]]:
    """Each picture and the next one."""
    few = subject.few
    return list(zip(few, [*few[1:], few[0]], strict=True))
