"""What an estimate says of a cell, and what it warns of. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.run.cost.hardware import Hardware


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """A line of the estimate. tokens: of targets that are trained on, of answers that are generated, positions that are
    read to score; for checkpoints their bytes."""

    tokens: float
    flops: float
    seconds: float


@dataclass(frozen=True, slots=True)
class CellEstimate:
    """phases: by name. memory: bytes by part; peak: the most at once. Nothing for what has no model or is finished."""

    phases: dict[str, PhaseCost] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    peak: float = 0.0

    @property
    def seconds(self) -> float:
        """Of all phases together."""
        return sum(phase.seconds for phase in self.phases.values())


def warnings_of(estimates: Sequence[tuple[str, CellEstimate]], hardware: Hardware) -> list[str]:
    """What will not fit, a line for each label, with the largest part and what may be done about it."""
    result = []
    for label, estimate in dict(estimates).items():
        if estimate.peak > hardware.memory:
            name, size = max(estimate.memory.items(), key=lambda part: part[1])
            result.append(
                f"{label}: will not fit: about {estimate.peak / 1e9:.0f} GB, {hardware.name} has "
                f"{hardware.memory / 1e9:.0f} GB; the largest part is {name} ({size / 1e9:.0f} GB): {_advice(name)}"
            )
    return result


def _advice(part: str) -> str:
    if part == "activations":
        return "lower train.micro_batch, or set train.gradient_checkpointing: true"
    if part == "keys and values":
        return "lower sample.batch_images"
    return "train fewer parts of the model (its setting trains), or use a larger device"
