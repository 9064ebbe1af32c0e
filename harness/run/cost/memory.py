"""How much memory a cell takes, by parts. Pure, but for reading the sizes of a model's parameters.

Weights as they are held (frozen matrices of linear maps in bf16, where everything is computed in it), gradients and two
moments of AdamW in float32, what layers keep for the backward pass, and the keys and values of generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from harness.inference.outline import NetworkShape
from harness.run.cost.arithmetic import Passed, gradients

KEPT, KEPT_OF_OTHERS = 16, 5
"""Numbers that a layer keeps of a position for each of its `width`, for the backward pass: inputs of matrices and
normalisations, queries, keys and values, and the activation of four times the width. Convolutions and what has no
attention keep fewer."""
MOMENTS = 2


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes that a model's parameters take, and numbers that train."""

    trained: int
    frozen: int
    numbers: int

    @classmethod
    def of(cls, model: nn.Module) -> Weights:
        """Of a model as it is held."""
        parameters = list(model.parameters())
        return cls(
            trained=sum(p.nbytes for p in parameters if p.requires_grad),
            frozen=sum(p.nbytes for p in parameters if not p.requires_grad),
            numbers=sum(p.numel() for p in parameters if p.requires_grad),
        )


def training_parts(weights: Weights, held: float, reference: bool) -> dict[str, float]:
    """Bytes by part while a cell trains. held: see `activations`. reference: whether a frozen copy of the base stays,
    which shares what does not train."""
    return {
        "trained weights": float(weights.trained),
        "frozen weights": float(weights.frozen),
        "reference": float(weights.trained if reference else 0),
        "gradients": float(weights.trained),
        "optimizer": float(MOMENTS * weights.trained),
        "activations": held,
    }


def activations(shape: NetworkShape, passed: Passed, number: int, recomputed: bool) -> float:
    """Bytes that one forward pass keeps for the backward pass. recomputed: only the inputs of layers, and one layer."""
    total = 0.0
    for part, reached in gradients(shape):
        if reached:
            each, layers = passed.of_part(part) * part.breadth, max(part.layers, 1)
            numbers = KEPT if part.layers else KEPT_OF_OTHERS
            total += each * (1 + numbers / layers) if recomputed else numbers * each
    return number * total


def cache(shape: NetworkShape, rows: float, positions: float, number: int) -> float:
    """Bytes of the keys and values of so many rows that are so long; the layer whose cache grows has it twice."""
    parts = [(part.layers + 1, part.cached) for part in shape.of_tokens() if part.cached]
    return number * rows * positions * sum(layers * cached for layers, cached in parts)


def peak(parts: Mapping[str, float], generation: float) -> float:
    """The most at once: training, or an evaluation on the way, when gradients and activations are gone."""
    evaluation = sum(item for name, item in parts.items() if name not in ("gradients", "activations")) + generation
    return max(sum(parts.values()), evaluation)
