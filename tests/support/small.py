"""The small things that the slower tests share: a rendered set, fresh models, and one that has learnt something."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from benchmarks.shapes import Shapes
from harness.inference.device import accelerator_on
from harness.inference.padding import target_batch
from harness.protocols import Adapter
from harness.records.log import Log
from harness.run.interval import CheckpointInterval
from harness.run.resume import CellCheckpointer
from harness.sequence.targets import target
from harness.suite.load import parse
from harness.suite.schema import SampleSettings, Suite
from harness.suite.train_settings import Train
from harness.system.interrupts import Interrupts
from harness.training.finetuning import FineTuning
from harness.training.loop import Checkpointer, Hooks, train
from harness.training.objective import Objective
from harness.training.stage import Work
from harness.types import IGNORED_LABEL, Example
from model_zoo import checkpoint
from model_zoo.flamingo.toy import OpenFlamingo

SETTINGS = {"domain": "plain", "train_images": 24, "val_images": 12, "calibration_images": 16}
SAMPLE = SampleSettings(samples=3, max_tokens=16)


@cache
def benchmark() -> Shapes:
    """Rendered once per test session; never change it."""
    return Shapes(SETTINGS)


def train_examples(count: int) -> tuple[Example, ...]:
    return benchmark().split("train")[:count]


def accelerator() -> Accelerator:
    return accelerator_on("cpu")


def fresh(seed: int = 0, **settings: Any) -> OpenFlamingo:
    """A randomly initialised adapter for the small benchmark, in eval mode."""
    if settings:
        return _built(seed, settings)[0]
    adapter, generator = _pristine(seed)
    torch.set_rng_state(generator)
    return copy.deepcopy(adapter)


@cache
def _pristine(seed: int) -> tuple[OpenFlamingo, Tensor]:
    """The adapter to copy, which takes a third of the time, and the state that building leaves the generator in."""
    with torch.inference_mode(False):  # whoever asks first
        return _built(seed, {})


def _built(seed: int, settings: Mapping[str, Any]) -> tuple[OpenFlamingo, Tensor]:
    torch.manual_seed(seed)
    adapter = OpenFlamingo(benchmark().categories, {"weights": "random", **settings})
    adapter.model.eval()
    return adapter, torch.get_rng_state()


def fitted(**settings: Any) -> OpenFlamingo:
    """An adapter that has seen four images for a few dozen steps: its distributions are peaked, not uniform."""
    adapter = fresh(**settings)
    checkpoint.load(adapter.model, _fitted()[0])
    return adapter


def fitted_in_double() -> OpenFlamingo:
    """The same in double precision: in float32, how far two ways to one sum differ depends on the processor."""
    adapter = fitted()
    adapter.model.double()
    to_pixels = adapter.pixels
    adapter.pixels = lambda examples: to_pixels(examples).double()  # type: ignore[method-assign]
    return adapter


def fitting_losses() -> list[float]:
    """Nats per target token along those steps."""
    return _fitted()[1]


def fitted_examples() -> list[Example]:
    """The four images of one or two objects that `fitted` has seen."""
    return [e for e in benchmark().split("train") if len(e.instances) <= 2][:4]


@cache
def _fitted() -> tuple[Mapping[str, Tensor], list[float]]:
    adapter, examples = fresh(), fitted_examples()
    batch = target_batch([target(e, adapter.codec, "canonical") for e in examples], adapter.codec)
    pixels = adapter.pixels(examples)
    optimizer = torch.optim.AdamW(adapter.model.parameters(), lr=1e-3, weight_decay=0.0)
    losses = []
    for step in range(50):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 10)  # without a warm-up it learns to ignore the image
        loss = F.cross_entropy(adapter.logits(pixels, batch.inputs).flatten(0, 1), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert IGNORED_LABEL == -100  # cross_entropy's default, relied on above
    return {name: t.detach().clone() for name, t in checkpoint.named_tensors(adapter.model).items()}, losses


def mini_suite(**changes: Any) -> Suite:
    """Two objectives, one seed, three steps; `changes` replace top-level keys."""
    content = {
        "suite": "mini",
        "benchmark": {"name": "shapes", **SETTINGS},
        "models": [{"name": "open_flamingo", "weights": "random"}],
        "objectives": [
            "ce",
            {"name": "sed_sft", "label": "sed", "top_k": 5, "quantile": 0.5, "weight": 5.0, "mask": "base"},
        ],
        "seeds": [0],
        "train": {"steps": 3, "batch_size": 4, "eval_at": [2]},
        "sample": {"samples": 2, "max_tokens": 12},
        **changes,
    }
    return parse(content, "mini.yaml")


def checkpointer(folder: Path, caught: Interrupts | None = None) -> CellCheckpointer:
    """One for the cell "cell", with a log of its own; it saves after 50 steps, and when a signal was `caught`."""
    return CellCheckpointer(folder, Log(), "cell", CheckpointInterval(steps=50), caught or Interrupts(), accelerator())


def work_of(adapter: Adapter, checkpointer: CellCheckpointer | None = None) -> Work:
    """What a chain of stages on the fitted images works on, and with what was kept of it."""
    stored: dict[str, Any] = {} if checkpointer is None else {"log": checkpointer.log, "cache": checkpointer.tables}
    return Work(adapter, fitted_examples(), 3, accelerator(), fresh=fresh, **stored)


def fine_tune(
    adapter: Adapter,
    objective: Objective,
    plan: Train,
    examples: Sequence[Example] | None = None,
    hooks: Hooks | None = None,
    checkpointer: Checkpointer | None = None,
    **work: Any,
) -> list[dict[str, Any]]:
    """Trains under one objective, on the first eight images by default; returns the curve. work: fields of Work."""
    shown = train_examples(8) if examples is None else examples
    if "accelerator" not in work:
        work["accelerator"] = accelerator()
    return train(
        Work(adapter, shown, **{"seed": 0, **work}), [FineTuning(objective, plan)], hooks or Hooks(), checkpointer
    )
