"""This machine as a Hardware: a GPU by a few matrix products, copies and small operations, a CPU by passes of small
networks, within some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from harness.run.cost.hardware import Hardware, stated_flops
from harness.run.cost.reference import measured_rates
from harness.system.host import read_total_memory

REPEATS = 5


def measure_device(device: torch.device) -> Hardware:
    """Speed and memory of a device that is here. FLOP/s of a GPU are what its maker states, where that is known."""
    return _gpu(device) if device.type == "cuda" else _cpu()


def _cpu() -> Hardware:
    """What is reached, by phases; scoring reads sequences."""
    reading, phases = measured_rates()
    return Hardware(
        "cpu",
        flops=reading.flops,
        flops_fp32=reading.flops,
        bandwidth=reading.streaming,
        memory=2**30 * (read_total_memory() or 0.0),
        operation=reading.operation,
        share=1.0,
        bandwidth_share=1.0,
        waits=True,
        phases={**phases, "scoring": reading},
    )


def _gpu(device: torch.device) -> Hardware:
    name, size, copied = torch.cuda.get_device_name(device), 8192, 2**30
    source = torch.zeros(copied // 4, device=device)
    target = torch.empty_like(source)
    return Hardware(
        name,
        flops=stated_flops(name) or _product(device, size, torch.bfloat16),
        flops_fp32=_product(device, size // 2, torch.float32),
        bandwidth=2 * source.nbytes / _fastest(lambda: target.copy_(source), device),
        memory=float(torch.cuda.get_device_properties(device).total_memory),
        operation=_operation(device),
    )


def _product(device: torch.device, size: int, kind: torch.dtype) -> float:
    """FLOP/s of a product of square matrices."""
    a = torch.ones(size, size, device=device, dtype=kind)
    return 2 * size**3 / _fastest(lambda: a @ a, device)


def _operation(device: torch.device) -> float:
    """Seconds of one small operation in a row of them, by way of modules, as in a model."""
    norm, linear = nn.LayerNorm(64, device=device), nn.Linear(64, 64, device=device)
    x = torch.zeros(16, 64, device=device)
    count = 50

    @torch.no_grad()
    def chain() -> None:
        y = x
        for _ in range(count):
            y = y + linear(nn.functional.gelu(norm(y)))

    return _fastest(chain, device) / (4 * count)


def _fastest(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of a few calls: what is slower was disturbed."""
    result = []
    for _ in range(REPEATS + 1):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        call()
        torch.cuda.synchronize(device)
        result.append(time.perf_counter() - started)
    return min(result[1:])
