"""Devices as far as the cost of a run depends on them. Pure: those by name; this machine is measured elsewhere
(harness.run.cost.benchmark).

A GPU computes and moves memory at a share of what its maker states, and does so while the host asks for the next
operation: a phase takes the longest of three times. A CPU does one after the other: a phase takes their sum, at the
rates that were measured with and without gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.errors import ConfigError, unknown

if TYPE_CHECKING:  # it knows networks, which takes torch; options are checked without
    from harness.run.cost.arithmetic import Cost


@dataclass(frozen=True, slots=True)
class Rates:
    """What is reached: FLOP/s, bytes a second of tensors that are made anew (on a CPU they often lie in a cache, or in
    memory that is new to the process), seconds of one small operation, and bytes a second of tensors that stay."""

    flops: float
    bandwidth: float
    operation: float
    streaming: float

    def times(self, cost: Cost) -> tuple[float, float, float]:
        """Seconds of computing, of moving, and of asking for operations."""
        moving = cost.moved / self.bandwidth + cost.streamed / self.streaming
        return cost.flops / self.flops, moving, cost.operations * self.operation


@dataclass(frozen=True, slots=True)
class Hardware:
    """flops: FLOP/s of matrix products in bf16 at the most; flops_fp32: in float32. bandwidth, disk: bytes a second.
    memory: bytes. operation: seconds that the host takes to ask for one small operation. share, bandwidth_share: what
    is assumed to be reached of `flops` and `bandwidth`. waits: whether the host waits for each operation, as a CPU
    does. phases: rates that were measured for a phase by its name (training), instead of those above."""

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
    phases: Mapping[str, Rates] = field(default_factory=dict)

    def seconds(self, cost: Cost, *, bf16: bool, phase: str = "") -> float:
        """What it takes here."""
        times = (self.phases.get(phase) or self._assumed(bf16)).times(cost)
        return sum(times) if self.waits else max(times)

    def _assumed(self, bf16: bool) -> Rates:
        peak, bandwidth = self.flops if bf16 else self.flops_fp32, self.bandwidth * self.bandwidth_share
        return Rates(peak * self.share, bandwidth, self.operation, bandwidth)


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
