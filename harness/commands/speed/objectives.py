"""Measures the cost of an objective: the training step of the tiny model, and the loss alone at a large vocabulary.

Everything is a ratio measured in one run: timed tasks take turns in one process, and each peak of memory is measured
in a new process. Shape legend: N positions, V vocabulary, D hidden width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import objectives, registry
from harness.inference.device import accelerator_on
from harness.protocols import Adapter
from harness.run.task import experts_of
from harness.suite.train_settings import Train
from harness.system import timing
from harness.system.files import check_place, write_text
from harness.training.finetuning import batches, rows_of
from harness.training.objective import prepare
from harness.training.step import accumulate, with_samples
from harness.types import Projection, TokenBatch

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in objectives.OBJECTIVES.ours if name != "sed_sft"},
    "sed_sft": ("sed_sft", {"top_k": 5, "threshold": 0.9}),
    "sed_sft base": ("sed_sft", {"top_k": 5, "threshold": 0.9, "mask": "base"}),
    "sed_sft none": ("sed_sft", {"mask": "none"}),
}
"""Maps a row to its objective and settings; defaults where it has them."""
BENCHMARK = {"domain": "cluttered", "train_images": 64, "val_images": 1, "calibration_images": 0}
PLAN = Train(steps=1, batch_size=16, targets="all(2)", batching="grouped")
MATERIALISED = "matrix product + F.cross_entropy"
SEQUENCE = 32
"""Tokens of a sequence, where the loss alone is measured."""
STEPS_PER_LOSS = 6
"""Steps of the tiny model per loss: one takes a fraction of the time of a large loss, and varies more."""


def command(positions: int, vocabulary: int, width: int, repeats: int, output: Path | None) -> int:
    """Prints both tables as Markdown; the exit code. ConfigError at once for an output that has no folder."""
    if output is not None:
        check_place(output)
    steps = training_steps(STEPS_PER_LOSS * repeats)
    losses = losses_alone(positions, vocabulary, width, repeats)
    machine = {**timing.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    print(as_markdown(steps, losses, (positions, vocabulary, width), machine))
    if output is not None:
        measured = {"machine": machine, "steps": steps, "losses": losses, "size": [positions, vocabulary, width]}
        write_text(output, json.dumps(measured, indent=1) + "\n")
    return 0


Row = dict[str, float]


def from_document(document: Mapping[str, Any]) -> str:
    """Makes the tables from what `--output` wrote."""
    return as_markdown(document["steps"], document["losses"], tuple(document["size"]), document["machine"])


def as_markdown(
    steps: Mapping[str, Row], losses: Mapping[str, Row], size: tuple[int, int, int], machine: Mapping[str, object]
) -> str:
    positions, vocabulary, width = size
    lines = [
        "| objective | training step / CE's | its peak memory / CE's |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {row['time']:.3f} | {row['memory']:.3f} |" for name, row in steps.items()),
        "",
        f"| loss and gradients, N = {positions:,}, V = {vocabulary:,}, D = {width} | time / materialised CE's "
        "| peak above inputs and gradients / float32 logits |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {row['time']:.2f} | {row['memory']:.3f} |" for name, row in losses.items()),
        "",
        "Measured on " + ", ".join(f"{key} {value}" for key, value in machine.items()) + ".",
    ]
    return "\n".join(lines)


# ---- the training step of the tiny model ---------------------------------------------------------------------------


def training_steps(repeats: int) -> dict[str, Row]:
    """Measures time and peak memory of a step under each objective, as ratios to a step under CE that is measured
    beside it."""
    peaks = {name: timing.isolated("harness.commands.speed.objectives:peak_of_steps", name).value for name in CASES}
    made = {}
    for name in CASES:
        pair = timing.interleaved({"baseline": step_of("ce"), name: step_of(name)}, repeats, warm_up=2)
        made[name] = {"time": timing.ratios(pair, "baseline")[name], "memory": peaks[name] / peaks["ce"]}
    return made


def step_of(case: str) -> Callable[[], None]:
    """Makes a whole training step of 16 sequences: samples where the objective needs them, forward, backward, AdamW."""
    name, settings = CASES[case]
    benchmark = registry.benchmark("shapes", BENCHMARK, None)
    adapter, base = (registry.model("open_flamingo", benchmark.categories, {}) for _ in range(2))
    assert isinstance(adapter, Adapter)
    assert isinstance(base, Adapter)
    objective = prepare(name, settings, base, (), PLAN, 0)
    adapter.codec.experts = experts_of(adapter, name, settings)
    examples, accelerator = benchmark.split("train"), accelerator_on("cpu")
    targets = rows_of(adapter, examples, next(batches(len(examples), PLAN, 0)), PLAN.targets, 0)
    optimizer = torch.optim.AdamW(adapter.model.parameters(), lr=1e-6, fused=True)
    adapter.model.train()

    def step() -> None:
        rows = targets
        if "samples" in objective.needs:
            rows = with_samples(adapter, targets, objective.settings["samples"], 40, 0)
        accumulate(adapter, rows, objective, len(rows), accelerator, logged=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peak_of_steps(case: str) -> float:
    """Measures the peak memory (MiB) of a process that does nothing but a few steps."""
    step = step_of(case)
    for _ in range(5):
        step()
    return timing.peak_rss()


# ---- the loss alone --------------------------------------------------------------------------------------------------


def losses_alone(positions: int, vocabulary: int, width: int, repeats: int) -> dict[str, Row]:
    """Measures every token-level objective from hidden states, as a ratio to cross-entropy on materialised logits.

    time: forward and backward. memory: peak above inputs and gradients over the size of the float32 logits.
    """
    size = positions, vocabulary, width
    names = [MATERIALISED, *(name for name, case in CASES.items() if _from_hidden(*case))]
    hidden, weight, labels = _inputs(*size)
    tasks = {name: partial(_gradients, name, hidden, weight, labels) for name in names}
    times = timing.ratios(timing.interleaved(tasks, repeats), MATERIALISED)
    logits = positions * vocabulary * 4 / 2**20
    peaks = {
        name: timing.isolated("harness.commands.speed.objectives:peak_of_loss", name, *size).value for name in names
    }
    return {name: {"time": times[name], "memory": peaks[name] / logits} for name in names}


def _from_hidden(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether the loss is one of hidden states and labels alone: of no other model, and no set."""
    needs = objectives.ready(name, settings).needs
    return not needs & {"reference", "reference_logits", "sets"}


def peak_of_loss(name: str, positions: int, vocabulary: int, width: int) -> float:
    """Measures peak memory (MiB) of loss and gradients, above what inputs and gradients take; runs in a separate
    process."""
    _gradients(name, *_inputs(64, 64, 64))  # whatever the first call allocates for good
    hidden, weight, labels = _inputs(positions, vocabulary, width)
    gradients = (hidden.nbytes + weight.nbytes) / 2**20
    before = timing.rss()
    _gradients(name, hidden, weight, labels)
    return timing.peak_rss() - before - gradients


def _inputs(positions: int, vocabulary: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, width, generator=draw)
    weight = torch.randn(vocabulary, width, generator=draw).div_(width**0.5)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(vocabulary, (positions,), generator=draw)


def _gradients(name: str, hidden: Tensor, weight: Tensor, labels: Tensor) -> None:
    hidden.grad = weight.grad = None
    if name == MATERIALISED:
        loss = F.cross_entropy(hidden @ weight.T, labels)
    else:
        objective, settings = CASES[name]
        sequences = torch.arange(len(labels)) // SEQUENCE
        batch = TokenBatch(Projection(hidden, weight), labels, sequences)
        loss = objectives.build(objective, **settings)(batch, logged=False).mean()
    loss.backward()  # type: ignore[no-untyped-call]
