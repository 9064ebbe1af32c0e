"""Measures the cost of running beside computing: starting, storing, waiting for data, memory; each beside its goal.

Seconds are of this machine at this moment. Shares and growth are ratios of what one run measured side by side.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from harness import images, registry
from harness.evaluation.evaluate import measure
from harness.evaluation.scored_samples import EvaluationSettings
from harness.inference.device import accelerator_on
from harness.protocols import Adapter
from harness.run import runner
from harness.run.context import open_context
from harness.suite.load import parse
from harness.suite.schema import SampleSettings, Suite
from harness.suite.train_settings import Train
from harness.system import timing
from harness.system.files import check_place, write_text
from harness.training import checkpoints
from harness.training.finetuning import FineTuning
from harness.training.loop import Checkpointer, NoCheckpoints, train
from harness.training.objective import prepare
from harness.training.prefetch import WORKERS
from harness.training.stage import Work
from harness.types import Box, Example

PER_MENTION = 4096
"""Bytes per mention of everything that an evaluation stores: tokens, log-probabilities, mentions, scores, tables."""
SETTLED = 8 * 2**20
"""Bytes for the images' annotations, and for what an allocator does not return."""
SIDES = (480, 640)
"""Height and width of a photograph, as most of COCO's are."""
PHOTOGRAPHS = 64
PLAN = Train(steps=12, batch_size=16, log_every=12)
NOTE = (
    "Memory may grow by the rows of the tables, 4 KiB for each mention, and by 8 MiB, where freed memory goes back to "
    "the system (MALLOC_MMAP_THRESHOLD_=131072); batches have as many sequences, however many samples an image has. "
    "Waiting is that of the tiny model (steps of 16) for JPEG photographs of 640 x 480 pixels."
)
Value = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunnerTiming:
    """A row of the table. goal: empty where there is none."""

    what: str
    measured: str
    goal: str


def command(repeats: int, output: Path | None) -> int:
    """Prints the table as Markdown; the exit code, 0 whatever the numbers. ConfigError at once for an output that has
    no folder."""
    if output is not None:
        check_place(output)
    document = {
        "machine": {**timing.machine(), "torch": torch.__version__},
        "help": help_seconds(repeats),
        "cell": timing.isolated("harness.commands.speed.runner:cell_seconds").value,
        "memory": memory(),
        "waiting": timing.isolated("harness.commands.speed.runner:waiting", repeats).value,
        "snapshot": timing.isolated("harness.commands.speed.runner:checkpoint_cost", repeats).value,
    }
    print(from_document(document))
    if output is not None:
        write_text(output, json.dumps(document, indent=1) + "\n")
    return 0


def from_document(document: Mapping[str, Any]) -> str:
    """Makes the table from what `--output` wrote."""
    rows = [f"| {line.what} | {line.measured} | {line.goal} |" for line in lines(document)]
    machine = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    heading = ["| what | measured | goal |", "| --- | ---: | ---: |"]
    return "\n".join([*heading, *rows, "", NOTE, "", f"Measured on {machine}."])


def lines(document: Mapping[str, Any]) -> list[RunnerTiming]:
    cell, checkpoint = document["cell"], document["snapshot"]
    timings = [
        RunnerTiming("`detmodes --help`", f"{document['help']:.2f} s", "< 0.5 s"),
        RunnerTiming("a cell of one step, after imports", f"{cell['cell']:.2f} s", "< 3 s"),
        RunnerTiming("of this, training and evaluation", f"{cell['work']:.2f} s", ""),
    ]
    for times, row in document["memory"].items():
        timings.append(
            RunnerTiming(
                f"peak memory, {times} ({row['mentions'][0]:,} and {row['mentions'][1]:,} mentions)",
                f"{row['mib'][0]:.0f} and {row['mib'][1]:.0f} MiB",
                f"at most {row['goal']:.0f} MiB more",
            )
        )
    for workers, shares in document["waiting"].items():
        share = f"{statistics.median(shares):.1%}"
        timings.append(RunnerTiming(f"share of training spent waiting for data, {workers} workers", share, ""))
    step = f"{checkpoint['seconds'] / checkpoint['step']:.1f} training steps"
    cost = f"{checkpoint['seconds']:.2f} s, {checkpoint['mib']:.1f} MiB, as long as {step}"
    timings.append(RunnerTiming("a checkpoint", cost, ""))
    return timings


# ---- starting ------------------------------------------------------------------------------------------------------


def help_seconds(repeats: int) -> float:
    """Measures the median wall-clock time of `detmodes --help`, from starting Python to its end."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-P", "-m", "detmodes", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def cell_seconds() -> Value:
    """Measures a whole cell in a separate process. cell: seconds from its base to its record on disk, with one step
    and four images to evaluate; work: the part of them that its record counts as training and evaluation."""
    context = open_context(suite(), None, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        planned = runner.plan(context, Path(folder))
        only = next(item.cell.id for item in planned if item.cell.objective is not None)
        started = time.perf_counter()
        (record,) = runner.run(context, Path(folder), only)
        seconds = time.perf_counter() - started
    return {"cell": seconds, "work": record.seconds}


def suite() -> Suite:
    """Returns a suite with one step of CE."""
    content = {
        "suite": "speed",
        "benchmark": {"name": "shapes", **_sets(4)},
        "models": ["open_flamingo"],
        "objectives": ["ce"],
        "seeds": [0],
        "train": {"steps": 1, "batch_size": 4},
        "sample": {"samples": 2, "max_tokens": 16},
    }
    return parse(content, "speed")


def _sets(val_images: int, train_images: int = 4) -> dict[str, Any]:
    counts = {"train_images": train_images, "val_images": val_images, "calibration_images": 0}
    return {"domain": "plain", **counts}


# ---- memory --------------------------------------------------------------------------------------------------------

LITTLE = 64, 2
"""Images and samples of each in the small evaluation."""
SEQUENCES = 136
"""Largest number of sequences that are generated at once, however many samples an image has: the size of a batch is
limited by the setting `sample.batch_images` and is not measured here. (More than the 64 that are scored at a time.)"""


def memory() -> dict[str, Value]:
    """Measures the peak memory (MiB) of a small evaluation, and with eight times as many images, or samples of each."""
    little = evaluated(1, 1)
    return {name: _growth(little, evaluated(*times)) for name, times in EIGHTFOLD.items()}


EIGHTFOLD = {"1 and 8 times the images": (8, 1), "1 and 8 times the samples": (1, 8)}


def evaluated(images: int, samples: int) -> timing.Result:
    """Runs an evaluation of so many times LITTLE in a separate process; returns its peak memory and the number of
    mentions in its tables."""
    counts = LITTLE[0] * images, LITTLE[1] * samples
    return timing.isolated("harness.commands.speed.runner:evaluate", *counts, threads=1, environment=timing.GIVING_BACK)


def allowed(little: timing.Result, much: timing.Result) -> float:
    """Returns the MiB that `much` may need in addition: those of its tables."""
    return float(PER_MENTION * (much.value - little.value) + SETTLED) / 2**20


def _growth(little: timing.Result, much: timing.Result) -> Value:
    peaks = [little.peak_rss_mib, much.peak_rss_mib]
    return {"mib": peaks, "mentions": [little.value, much.value], "goal": allowed(little, much)}


def evaluate(images: int, samples: int) -> int:
    """Evaluates the shipped model on a rendered set, as the last step of a cell does, and returns the number of
    mentions in its tables. Runs in a separate process."""
    benchmark = registry.benchmark("shapes", _sets(images), None)
    adapter = registry.model("open_flamingo", benchmark.categories, {})
    settings = SampleSettings(samples=samples, max_tokens=32, batch_images=SEQUENCES // (samples + 1))
    return len(measure(adapter, benchmark, EvaluationSettings(settings), step=1, heldout_nll=None).tables["mentions"])


# ---- training ------------------------------------------------------------------------------------------------------


def waiting(repeats: int) -> dict[str, list[float]]:
    """Measures, by number of workers, the share of the tiny model's training time that is spent waiting for
    photographs of the usual size; the runs take turns. Runs in a separate process."""
    shares_by_workers: dict[str, list[float]] = {str(workers): [] for workers in (0, WORKERS)}
    with tempfile.TemporaryDirectory() as folder:
        pictures = photographs(Path(folder), PHOTOGRAPHS)
        for _ in range(repeats):
            for workers, shares in shares_by_workers.items():
                row = _trained(_adapter(), pictures, int(workers))
                shares.append(row["waiting"] / row["seconds"])
    return shares_by_workers


def _trained(
    adapter: Adapter, examples: Sequence[Example], workers: int, checkpointer: Checkpointer | None = None
) -> Value:
    """Trains and returns the last row of the curve."""
    objective = prepare("ce", {}, adapter, (), PLAN, 0)
    work = Work(adapter, examples, 0, accelerator_on("cpu"), workers=workers)
    return train(work, [FineTuning(objective, PLAN)], checkpointer=checkpointer)[-1]


def _adapter() -> Adapter:
    adapter = registry.model("open_flamingo", registry.benchmark("shapes", _sets(1), None).categories, {})
    assert isinstance(adapter, Adapter)
    return adapter


def photographs(folder: Path, count: int) -> list[Example]:
    """Makes training images from the rendered set, enlarged to the size of a photograph and with a photograph's
    grain, as JPEG: decoding them is as much work as decoding a photograph."""
    draw = np.random.default_rng(0)
    return [_photograph(example, folder, draw) for example in rendered(count)]


def rendered(count: int) -> Sequence[Example]:
    """Makes training images of the rendered set."""
    return registry.benchmark("shapes", _sets(1, count), None).split("train")


def _photograph(example: Example, folder: Path, draw: np.random.Generator) -> Example:
    height, width = SIDES
    pixels = np.asarray(images.read(example).resize((width, height)), dtype=np.float64)
    path = folder / f"{example.image_id}.jpg"
    noisy = (pixels + draw.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path, quality=90)
    scale = partial(_scaled, x=width / example.width, y=height / example.height)
    instances = tuple(replace(instance, box=scale(instance.box)) for instance in example.instances)
    return replace(example, path=path, width=width, height=height, instances=instances)


def _scaled(box: Box, x: float, y: float) -> Box:
    return Box(box.x * x, box.y * y, box.w * x, box.h * y)


def checkpoint_cost(repeats: int) -> Value:
    """Measures median seconds and size (MiB) of a checkpoint of the tiny model, and seconds of one of its training
    steps. Runs in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        checkpointer = _TimedCheckpoints(Path(folder), repeats)
        row = _trained(_adapter(), rendered(PHOTOGRAPHS), WORKERS, checkpointer)
        size = sum(path.stat().st_size for path in (Path(folder) / "0").rglob("*") if path.is_file())
    return {
        "seconds": statistics.median(checkpointer.seconds),
        "mib": size / 2**20,
        "step": row["seconds"] / PLAN.steps,
    }


class _TimedCheckpoints(NoCheckpoints):
    """A Checkpointer that writes the checkpoint of the last step repeatedly."""

    def __init__(self, folder: Path, repeats: int) -> None:
        self.seconds: list[float] = []
        self._folder, self._repeats = folder, repeats

    def after_step(self, state: checkpoints.TrainingState, evaluated: bool) -> None:
        del evaluated
        for turn in range(self._repeats if state.step == PLAN.steps else 0):
            place = self._folder / str(turn)
            place.mkdir()
            started = time.perf_counter()
            checkpoints.write(place, state, "speed", {})
            self.seconds.append(time.perf_counter() - started)
