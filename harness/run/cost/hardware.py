"""Devices as far as the cost of a run depends on them. Pure: those by name; this machine is measured elsewhere
(harness.run.cost.benchmark).

A device computes and moves memory at a share of what its maker states. Whoever calls it operation by operation also
takes time; a GPU computes meanwhile, a CPU does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import ConfigError, unknown


@dataclass(frozen=True, slots=True)
class Hardware:
    """flops: FLOP/s of matrix products in bf16 at the most; flops_fp32: in float32. bandwidth, disk: bytes a second.
    memory: bytes. operation: seconds that the host takes to ask for one small operation. share, bandwidth_share: what
    is assumed to be reached of `flops` and `bandwidth`. waits: whether the host waits for each operation, as a CPU
    does. phases: how much longer than in a row of nothing else an operation takes in training, generation or scoring,
    where that was measured."""

    name: str
    flops: float
    flops_fp32: float
    bandwidth: float
    memory: float
    operation: float
    share: float = 0.4
    bandwidth_share: float = 0.6
    disk: float = 1e9
    waits: bool = False
    phases: Mapping[str, float] = field(default_factory=dict)

    def seconds(self, flops: float, moved: float, operations: float, *, bf16: bool, phase: str = "") -> float:
        """Of so many FLOP, bytes moved, and operations asked for one after the other."""
        peak = self.flops if bf16 else self.flops_fp32
        computing = flops / (peak * self.share)
        moving = moved / (self.bandwidth * self.bandwidth_share)
        asking = operations * self.operation * self.phases.get(phase, 1.0)
        return computing + moving + asking if self.waits else max(computing, moving, asking)


GPU_OPERATION = 8e-6
"""Seconds between two small kernels that PyTorch launches from Python where nothing is compiled: an assumption."""

DEVICES: dict[str, Hardware] = {
    "a100": Hardware("A100", 312e12, 19.5e12, 2.039e12, 80e9, GPU_OPERATION),
    "h100": Hardware("H100", 989e12, 67e12, 3.35e12, 80e9, GPU_OPERATION),
    "h200": Hardware("H200", 989e12, 67e12, 4.8e12, 141e9, GPU_OPERATION),
}
"""What NVIDIA states of the SXM modules: dense bf16 FLOP/s, float32 FLOP/s, bytes a second, bytes (80 GB A100)."""


def device_named(name: str) -> Hardware:
    """One of DEVICES. ConfigError for any other name."""
    if name.lower() not in DEVICES:
        raise ConfigError(f"--on: {unknown('device', name, DEVICES)}")
    return DEVICES[name.lower()]


def stated_flops(name: str) -> float | None:
    """Dense bf16 FLOP/s that the maker states for the GPU of this name ("NVIDIA H100 80GB HBM3"); None of others."""
    return next((item.flops for item in DEVICES.values() if item.name in name), None)
