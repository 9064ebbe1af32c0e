"""What `detmodes run --dry-run` would say of the passes that `detmodes speed model` measures, on this machine.

In: the model and the images of the measurement. Out: seconds by name, from arithmetic and from the rates of the device,
which are measured before and after, so that what else the machine does is in both.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from harness.inference.decoding import LOOK_EVERY
from harness.inference.outline import leaves, shape_of
from harness.inference.precision import Numbers
from harness.inference.tree_queries import IMAGES
from harness.objectives.apply import chunk_elements
from harness.protocols import Adapter, EncodesImages
from harness.run.cost import arithmetic, memory, workload
from harness.run.cost.arithmetic import Cost, Passed
from harness.run.cost.hardware import Hardware
from harness.suite.train_settings import Train
from harness.types import Example

PHASES = {"training": "training", "greedy": "generation", "samples": "generation", "scoring": "scoring"}


def costs_of(
    adapter: Adapter, examples: Sequence[Example], numbers: Numbers, positions: int, tokens: int, length: int, rows: int
) -> dict[str, Cost]:
    """Of a training step on all the images, of greedy answers, of `rows` answers to each image, and of their scores.

    positions: of the padded training batch; tokens: of its targets; length: of each answer.
    """
    shape, _ = shape_of(adapter)
    number, count = 2 if numbers.bf16 else 4, len(examples)
    passed = Passed(count, count, positions, positions**2 / count, tokens)
    chunk = max(1, chunk_elements(numbers.device) // shape.vocabulary)
    step = arithmetic.training(shape, passed, number, recomputed=False, chunk=chunk)
    weights, calls = memory.Weights.of(adapter.model), sum(1 for _ in leaves(adapter.model))
    trees = isinstance(adapter, EncodesImages) and adapter.reads_trees
    texts = workload.texts_of(examples, adapter.codec, Train(steps=1, targets="random"), "category", trees)
    asked = workload.scored(texts, count, rows, at_once=min(count, IMAGES))
    return {
        "training": step + arithmetic.update(weights.numbers, calls),
        "greedy": _generation(adapter, examples, numbers, length, 1),
        "samples": _generation(adapter, examples, numbers, length, rows),
        "scoring": arithmetic.scoring(shape, asked, number),
    }


def _generation(adapter: Adapter, examples: Sequence[Example], numbers: Numbers, length: int, rows: int) -> Cost:
    on_gpu = numbers.device.type == "cuda"
    steps = workload.decoded(
        np.full(len(examples), length),
        len(adapter.codec.prompt(examples[0])),
        rows,
        at_once=len(examples),
        look_every=LOOK_EVERY if on_gpu else 1,
        one_by_one=not on_gpu,
    )
    return arithmetic.decoding(shape_of(adapter)[0], steps, 2 if numbers.bf16 else 4)


def seconds_of(costs: Mapping[str, Cost], machines: Sequence[Hardware], numbers: Numbers) -> dict[str, float]:
    """Mean over measurements of the machine."""
    return {
        name: statistics.mean(each.seconds(cost, bf16=numbers.bf16, phase=PHASES[name]) for each in machines)
        for name, cost in costs.items()
    }


def comparison_rows(
    estimates: Mapping[str, float], fastest: Mapping[str, float], device: str
) -> list[tuple[str, str, str]]:
    """Lines of the table: what was estimated, of what was measured. A goal is stated for a CPU alone, whose rates are
    measured; those of a GPU are assumptions."""
    goal = "0.80 to 1.20" if device == "cpu" else ""
    return [
        (
            f"{name}, estimated by `--dry-run` of the fastest of the repeats",
            f"{1000 * estimates[name]:,.1f} of {1000 * fastest[name]:,.1f} ms: {estimates[name] / fastest[name]:.2f}",
            goal,
        )
        for name in PHASES
    ]
