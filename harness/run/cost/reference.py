"""Measures passes of small networks on a CPU, beside what they cost by arithmetic; the rates that explain them are this
machine's. A bare decoder speaks for reading sequences, OpenFlamingo at toy size for generation, both for training.

In: nothing; weights are random. Out: pairs of a Cost and the seconds of the fastest of a few calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from harness import registry
from harness.inference.device import accelerator_on, base_of
from harness.inference.outline import NetworkShape, leaves, part_of, shape_of
from harness.inference.padding import target_batch
from harness.protocols import Adapter, HiddenStates
from harness.run.cost import arithmetic, memory, workload
from harness.run.cost.arithmetic import Cost, Passed
from harness.run.cost.hardware import Rates
from harness.sequence.targets import target
from harness.suite.train_settings import Train
from harness.training.engines.optimizer import optimizer_of
from harness.types import IGNORED_LABEL, Example

SIZES = ((1, 8, 64), (4, 24, 64), (16, 48, 64), (8, 24, 128), (16, 48, 128))
"""Of the bare decoder: rows, tokens of each, width; from what only asks for operations to what computes."""
LAYERS, HEADS, VOCABULARY, NUMBER = 2, 4, 128, 4
TRAINED = (4, 16)
"""Images of a training step of the toy."""
GENERATED = ((1, 1), (4, 1), (4, 9), (16, 9))
"""Images, and rows of each."""
TOKENS = 12
REPEATS = 4
PRODUCT = 1024
"""Side of the square matrices of one large product."""
COPIED = 2**24
"""Bytes of one large copy."""

Measured = tuple[Cost, float]


def measured_rates() -> tuple[Rates, dict[str, Rates]]:
    """Rates of reading, and those of training and of generation. torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        product, streaming = _product(), _streaming()
        reading, trained = zip(*(_decoder(*size) for size in SIZES), strict=True)
        toy, examples = _toy()
        steps = [_step(toy, examples[:images]) for images in TRAINED]
        answers = [_answers(toy, examples[:images], rows) for images, rows in GENERATED]
    phases = {"training": [product, *trained, *steps], "generation": [product, *answers]}
    fitted = {name: fitted_rates(passes, streaming) for name, passes in phases.items()}
    return fitted_rates([product, *reading], streaming), fitted


def fitted_rates(passes: Sequence[Measured], streaming: float) -> Rates:
    """The rates, none negative, with the least sum of squared relative errors of the sum of times against the seconds.
    streaming: bytes a second, known. (What explains nothing takes no time: an infinite rate.)"""
    seconds = np.array([time for _, time in passes])
    terms = np.array([(cost.flops, cost.moved, cost.operations) for cost, _ in passes])
    rest = seconds - np.array([cost.streamed for cost, _ in passes]) / streaming
    scale = np.where(terms.any(axis=0), terms.max(axis=0), 1.0)
    times, _ = nnls(terms / scale / seconds[:, None], rest / seconds)
    flop, byte, operation = (float(time) for time in times / scale)
    return Rates(1 / flop if flop else float("inf"), 1 / byte if byte else float("inf"), operation, streaming)


def clock() -> float:
    """Seconds, to be subtracted. With one thread those of the processor, which other work on the machine takes little
    of; with several those of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def _seconds(call: Callable[[], object]) -> float:
    """Of the fastest of a few calls: what is slower was disturbed."""
    result = []
    for _ in range(REPEATS + 1):
        started = clock()
        call()
        result.append(clock() - started)
    return min(result[1:])


def _product() -> Measured:
    a = torch.ones(PRODUCT, PRODUCT)
    return Cost(2 * PRODUCT**3, a.nbytes, 1, 2 * a.nbytes), _seconds(lambda: a @ a)


def _streaming() -> float:
    """Bytes a second of copying a tensor into another that is there."""
    source = torch.zeros(COPIED // 4)
    target = torch.zeros(COPIED // 4)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source))


# ---- the bare decoder ------------------------------------------------------------------------------------------------


def _decoder(rows: int, length: int, width: int) -> tuple[Measured, Measured]:
    """A pass without a gradient, and one with it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
    )
    model: Any = LlamaForCausalLM(config)
    modules = [*model.model.layers, model.model.norm]
    part = part_of("decoder", "token", 1, modules, layers=LAYERS, width=width, keys=None, cached=2 * width)
    shape = NetworkShape((part,), width, VOCABULARY, head_trains=True, learns_tokens=True)
    tokens = torch.randint(0, VOCABULARY, (rows, length))
    passed = Passed(0, rows, rows * length, rows * length**2, rows * length)

    def read() -> Tensor:
        logits: Tensor = model(input_ids=tokens, use_cache=False).logits
        return logits

    with torch.no_grad():
        seconds = _seconds(read)
    trained = arithmetic.training(shape, passed, NUMBER, recomputed=False, chunk=rows * length)
    return (
        (arithmetic.forward(shape, passed, NUMBER), seconds),
        (trained, _seconds(lambda: torch.autograd.backward(read().logsumexp(-1).sum()))),
    )


# ---- OpenFlamingo at toy size ----------------------------------------------------------------------------------------


def _toy() -> tuple[Adapter, Sequence[Example]]:
    images = max(*TRAINED, *(images for images, _ in GENERATED))
    settings = {"domain": "cluttered", "train_images": images, "val_images": 1, "calibration_images": 0}
    benchmark = registry.benchmark("shapes", settings, None)
    made = base_of(
        lambda: registry.model("open_flamingo", benchmark.categories, {"weights": "random"}), accelerator_on("cpu")
    )
    assert isinstance(made, Adapter)
    return made, benchmark.split("train")


def _step(adapter: Adapter, examples: Sequence[Example]) -> Measured:
    """A training step with cross-entropy."""
    assert isinstance(adapter, HiddenStates)
    batch = target_batch([target(example, adapter.codec, "canonical") for example in examples], adapter.codec)
    pixels, scored = adapter.pixels(examples), batch.labels != IGNORED_LABEL
    optimizer, labels = optimizer_of(adapter.model, Train(steps=1)), batch.labels[scored]
    adapter.model.train()

    def step() -> None:
        states = adapter.hidden(pixels, batch.inputs).take(scored)
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(F.linear(states.hidden, states.weight), labels))
        optimizer.step()

    rows, length = batch.inputs.shape
    passed = Passed(rows, rows, rows * length, rows * length**2, len(labels))
    cost = arithmetic.training(shape_of(adapter)[0], passed, NUMBER, recomputed=False, chunk=len(labels))
    weights, calls = memory.Weights.of(adapter.model), sum(1 for _ in leaves(adapter.model))
    return cost + arithmetic.update(weights.numbers, calls), _seconds(step)


def _answers(adapter: Adapter, examples: Sequence[Example], rows: int) -> Measured:
    """Generation of so many answers to each image, by a model that is not trained: each as long as it may be."""
    adapter.model.eval()
    heat = [0.0, *[1.0] * (rows - 1)]
    lengths, prompt = np.full(len(examples), TOKENS), len(adapter.codec.prompt(examples[0]))
    steps = workload.decoded(lengths, prompt, rows, at_once=len(examples), one_by_one=True)
    return (
        arithmetic.decoding(shape_of(adapter)[0], steps, NUMBER),
        _seconds(lambda: adapter.generate(examples, heat, 0, TOKENS)),
    )
