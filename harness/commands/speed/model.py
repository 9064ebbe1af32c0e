"""Measures the cost of a model at its true shape: a training step, generation, scoring, memory and a checkpoint.

In: the name of a shape and a device. Out: a Markdown table, and the measurements as JSON. Weights are random: speed
does not depend on them. Everything is a ratio of what one run measured, or seconds of this machine at this moment.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from harness import registry
from harness.commands.speed import model_estimate
from harness.errors import ConfigError, unknown
from harness.inference.confidence import score
from harness.inference.device import Device, accelerator_on, base_of
from harness.inference.padding import target_batch
from harness.inference.precision import Numbers, choose_numbers
from harness.protocols import Adapter, HiddenStates
from harness.run.cost.benchmark import measure_device
from harness.run.cost.reference import clock
from harness.sequence.targets import target
from harness.suite.train_settings import Train
from harness.system import timing
from harness.system.files import check_place, write_text
from harness.training import checkpoints
from harness.training.engines.optimizer import optimizer_of
from harness.types import IGNORED_LABEL, Example

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"weights": "random"},
    "small": {"language": "toy-gpt_neox"},
    "medium": {"language": "toy-gpt_neox", "vision": "ViT-S-32"},
    "3b": {"language": "random-3b", "every": 1},
    "4b": {"language": "random-4b", "every": 2},
    "9b": {"language": "random-9b", "every": 4},
}
"""Settings of open_flamingo_hf, by the name of the shape; the tiny one is open_flamingo, the model of quickstart."""
AS_THEY_ARE = {"tiny": "three", "small": "two", "medium": "two"}
"""Layers of the shapes that have no fewer."""
SAMPLES = 8
SYNONYMS = {"domain": "cluttered", "calibration_images": 0}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s that makers state; for other devices the peak is what one large matrix product reaches."""
Value = dict[str, Any]


def command(shape: str, device: Device, layers: int | None, images: int, repeats: int, output: Path | None) -> int:
    """Prints the table; the exit code, 0 whatever the numbers. ConfigError at once for an output that has no folder."""
    if output is not None:
        check_place(output)
    document = measure(shape, device, layers, images, repeats)
    print(from_document(document))
    if output is not None:
        write_text(output, json.dumps(document, indent=1) + "\n")
    return 0


def measure(shape: str, device: Device, layers: int | None, images: int, repeats: int) -> Value:
    """Measures everything, as JSON values."""
    settings = _settings(shape, layers)
    accelerator = accelerator_on(device)
    numbers = choose_numbers(accelerator.device, "auto")
    benchmark = registry.benchmark("shapes", {**SYNONYMS, "train_images": images, "val_images": 1}, None)
    made = base_of(lambda: registry.model(_model_of(shape), benchmark.categories, settings), accelerator, numbers.bf16)
    assert isinstance(made, Adapter)
    examples, watch = benchmark.split("train"), _Stopwatch(accelerator.device)
    optimizer = optimizer_of(made.model, Train(steps=1))
    before = measure_device(accelerator.device)
    training = _training(made, examples, numbers, optimizer, watch, repeats)
    evaluation = _evaluation(made, examples, numbers, watch, repeats)
    costs = model_estimate.costs_of(
        made,
        examples,
        numbers,
        positions=training["positions"],
        tokens=training["tokens"],
        length=evaluation["tokens"],
        rows=1 + SAMPLES,
    )
    machines = (before, measure_device(accelerator.device))
    return {
        "machine": {**timing.machine(), "torch": torch.__version__, "device": _name(accelerator.device)},
        "shape": shape,
        "settings": settings,
        "numbers": numbers.describe(),
        "images": images,
        "threads": torch.get_num_threads(),
        "training": training | {"peak": _peak(accelerator.device, numbers, watch)},
        "evaluation": evaluation,
        "fastest": watch.fastest,
        "estimated": model_estimate.seconds_of(costs, machines, numbers),
        "memory": _memory(made, optimizer),
        "checkpoint": _checkpoint(made, optimizer, watch),
    }


def _settings(shape: str, layers: int | None) -> Value:
    if shape not in SHAPES:
        raise ConfigError(unknown("shape", shape, SHAPES))
    settings = dict(SHAPES[shape])
    if layers is not None:
        if shape in AS_THEY_ARE:
            raise ConfigError(f"--layers: {shape} has {AS_THEY_ARE[shape]}; it is for the released shapes")
        settings["language"] += f":{layers}"
    return settings | ({} if shape in AS_THEY_ARE else {"trains": "flamingo"})


def _model_of(shape: str) -> str:
    return "open_flamingo" if shape == "tiny" else "open_flamingo_hf"


class _Stopwatch:
    """Measures the seconds of a call, waiting for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._clock = time.perf_counter if device.type == "cuda" else clock
        self.fastest: dict[str, float] = {}

    def median(self, call: Callable[[], object], repeats: int, name: str | None = None) -> float:
        """Returns the median of this many calls, after one that is not counted. name: notes the fastest under it."""
        seconds = [self.once(call) for _ in range(repeats + 1)][1:]
        if name is not None:
            self.fastest[name] = min(seconds)
        return statistics.median(seconds)

    def once(self, call: Callable[[], object]) -> float:
        self._settle()
        started = self._clock()
        call()
        self._settle()
        return self._clock() - started

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


# ---- training ------------------------------------------------------------------------------------------------------


def _training(
    adapter: Adapter,
    examples: Sequence[Example],
    numbers: Numbers,
    optimizer: torch.optim.Optimizer,
    watch: _Stopwatch,
    repeats: int,
) -> Value:
    """Measures seconds, target tokens and FLOP of a step of cross-entropy on all the images."""
    batch = target_batch([target(e, adapter.codec, "canonical") for e in examples], adapter.codec)
    device, scored = numbers.device, batch.labels != IGNORED_LABEL
    pixels, inputs = adapter.pixels(examples).to(device), batch.inputs.to(device)
    labels, where = batch.labels[scored].to(device), scored.to(device)
    adapter.model.train()

    def step() -> None:
        with numbers.autocast():
            if isinstance(adapter, HiddenStates):
                states = adapter.hidden(pixels, inputs).take(where)
                logits = F.linear(states.hidden, states.weight)
            else:
                logits = adapter.logits(pixels, inputs)[where]
            loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    counter = FlopCounterMode(display=False)
    with counter:
        step()
    return {
        "seconds": watch.median(step, repeats, "training"),
        "tokens": int(scored.sum()),
        "positions": inputs.numel(),
        "flop": counter.get_total_flops(),
    }


def _peak(device: torch.device, numbers: Numbers, watch: _Stopwatch) -> Value:
    """Returns FLOP/s, and whether a maker states them or a matrix product of this size reached them."""
    stated = next((value for name, value in PEAKS.items() if name in _name(device)), None)
    if stated is not None and numbers.bf16:
        return {"flops": stated, "of": "stated"}
    size = 1024 if device.type == "cpu" else 8192
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if numbers.bf16 else torch.float32)
    return {"flops": 2 * size**3 / watch.median(lambda: a @ a, 5), "of": f"a product of {size} x {size} matrices"}


# ---- evaluation ------------------------------------------------------------------------------------------------------


def _evaluation(
    adapter: Adapter, examples: Sequence[Example], numbers: Numbers, watch: _Stopwatch, repeats: int
) -> Value:
    """Measures seconds of greedy answers, of those and K samples, and of scoring answers like those of a trained
    model: targets of the images, in random orders and names, as long as what was generated."""
    adapter.model.eval()
    draw = np.random.default_rng(0)
    asked = [example for example in examples for _ in range(1 + SAMPLES)]
    answers = [target(example, adapter.codec, "random", draw) for example in asked]
    length = round(statistics.mean(map(len, answers)))
    parsed = [adapter.codec.decode(t, e.width, e.height) for t, e in zip(answers, asked, strict=True)]
    log_probs = [[-1.0] * len(tokens) for tokens in answers]
    calls: dict[str, Callable[[], object]] = {
        "greedy": lambda: adapter.generate(examples, [0.0], 0, length),
        "samples": lambda: adapter.generate(examples, [0.0, *[1.0] * SAMPLES], 0, length),
        "scoring": lambda: score(adapter, asked, answers, parsed, "category", log_probs),
    }
    with numbers.autocast():
        seconds = {name: watch.median(call, repeats, name) for name, call in calls.items()}
    mentions = sum(len(answer.mentions) for answer in parsed)
    return {**seconds, "tokens": length, "rows": len(asked), "mentions": mentions}


# ---- memory and checkpoints ------------------------------------------------------------------------------------------


def _memory(adapter: Adapter, optimizer: torch.optim.Optimizer) -> Value:
    """Measures the bytes that stay allocated: trainable and frozen weights, gradients, the optimizer's state, and
    what a frozen reference needs beside them."""
    parameters = list(adapter.model.parameters())
    state = [
        value
        for of_parameter in optimizer.state.values()
        for value in of_parameter.values()
        if isinstance(value, torch.Tensor)
    ]
    return {
        "trained weights": sum(p.nbytes for p in parameters if p.requires_grad),
        "frozen weights": sum(p.nbytes for p in parameters if not p.requires_grad),
        "gradients": sum(p.grad.nbytes for p in parameters if p.grad is not None),
        "optimizer": sum(value.nbytes for value in state),
        "a reference, more": sum(p.nbytes for p in parameters if p.requires_grad),
    }


def _checkpoint(adapter: Adapter, optimizer: torch.optim.Optimizer, watch: _Stopwatch) -> Value:
    """Measures seconds and bytes of one checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        state = checkpoints.TrainingState(adapter.model, optimizer, step=1)
        seconds = watch.once(lambda: checkpoints.write(Path(folder), state, "speed", {}))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {"seconds": seconds, "bytes": size}


# ---- the table -------------------------------------------------------------------------------------------------------


def from_document(document: Mapping[str, Any]) -> str:
    """Makes the table from what `--output` wrote."""
    rows = [f"| {what} | {measured} | {goal} |" for what, measured, goal in _rows(document)]
    machine = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    heading = [f"| `{document['shape']}`, {document['numbers']} | measured | goal |", "| --- | ---: | ---: |"]
    settings = ", ".join(f"{key} {value}" for key, value in document["settings"].items())
    note = f"{document['images']} images at once, random weights ({settings}). Measured on {machine}."
    return "\n".join([*heading, *rows, "", note])


def _rows(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    training, evaluation = document["training"], document["evaluation"]
    reached, peak = training["flop"] / training["seconds"], training["peak"]
    drawn = evaluation["tokens"] * evaluation["rows"] / evaluation["samples"]
    return [
        *_step(document),
        ("training, target tokens a second", f"{training['tokens'] / training['seconds']:,.0f}", ""),
        (f"of the peak ({peak['flops'] / 1e12:.3g} TFLOP/s, {peak['of']})", f"{reached / peak['flops']:.0%}", ""),
        (f"generation with K = {SAMPLES}, tokens a second", f"{drawn:,.0f}", ""),
        ("K samples and the greedy answer, of greedy alone", f"{evaluation['samples'] / evaluation['greedy']:.2f}", ""),
        ("scoring, of generation's time", f"{evaluation['scoring'] / evaluation['samples']:.2f}", "at most 0.5"),
        *_compared(document),
        *((f"memory, {name}", _size(value), "") for name, value in document["memory"].items()),
        ("a checkpoint", f"{document['checkpoint']['seconds']:.2f} s", ""),
        ("of this size", _size(document["checkpoint"]["bytes"]), ""),
    ]


def _step(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The row of a training step; none for a document of older code, which has no number of threads."""
    if "threads" not in document:
        return []
    training = document["training"]
    what = f"a training step of {training['flop'] / 1e9:,.1f} GFLOP, with {document['threads']} threads"
    rate = training["flop"] / training["seconds"] / 1e9
    return [(what, f"{1e3 * training['seconds']:,.0f} ms, {rate:,.0f} GFLOP/s", "")]


def _compared(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Nothing for a document of earlier code, which estimated nothing."""
    if "estimated" not in document:
        return []
    estimates, fastest = document["estimated"], document["fastest"]
    return model_estimate.comparison_rows(estimates, fastest, document["machine"]["device"])


def _size(count: int) -> str:
    """Formats bytes in a unit that gives digits before the point."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
