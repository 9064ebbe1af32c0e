"""This machine as a Hardware: measured by a few matrix products, copies and small operations, within 2 seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from harness.run.cost.hardware import Hardware, stated_flops
from harness.system.host import read_total_memory

GPU_SHARES = {"share": 0.4, "bandwidth_share": 0.6}
CPU_SHARES = {"share": 0.6, "bandwidth_share": 3.0}
"""Of a large product's speed, and of a large copy's. What a small model moves stays in a CPU's caches."""
CPU_PHASES = {"training": 5.4, "generation": 3.5}
"""Measured once on a CPU, in single-threaded runs of two small suites (open_flamingo, and open_flamingo_hf's toy): an
operation on tensors of a batch, with Python around it, against one of the row that `measure_device` times."""
REPEATS = 5


def measure_device(device: torch.device) -> Hardware:
    """Speed and memory of a device that is here. FLOP/s are what its maker states, where that is known."""
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else "cpu"
    memory = (
        float(torch.cuda.get_device_properties(device).total_memory) if on_gpu else 2**30 * (read_total_memory() or 0.0)
    )
    size, copied = (8192, 2**30) if on_gpu else (1024, 2**26)
    stated = stated_flops(name)
    in_fp32 = _product(device, size // 2 if on_gpu else size, torch.float32)
    in_bf16 = stated or (_product(device, size, torch.bfloat16) if on_gpu else in_fp32)
    source = torch.zeros(copied // 4, device=device)
    target = torch.empty_like(source)
    seconds = _fastest(lambda: target.copy_(source), device)
    return Hardware(
        name,
        flops=in_bf16,
        flops_fp32=in_fp32,
        bandwidth=2 * source.nbytes / seconds,
        memory=memory,
        operation=_operation(device),
        waits=not on_gpu,
        phases={} if on_gpu else CPU_PHASES,
        **(GPU_SHARES if on_gpu else CPU_SHARES),
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
        _settle(device)
        started = time.perf_counter()
        call()
        _settle(device)
        result.append(time.perf_counter() - started)
    return min(result[1:])


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
