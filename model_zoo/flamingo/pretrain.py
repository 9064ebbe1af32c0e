"""Pretrains a shipped base: a tiny OpenFlamingo that detects `plain` shapes and emits every mode evenly.

Trained end to end from scratch, this model learns nothing for a long time: the decoder ignores the image
until the vision tower is useful. Hence four stages, each ending in a learning-rate decay: the vision tower
alone with a dense loss per patch, images of one object, images of up to four, and a long last stage.
Orders and names are drawn anew for every sequence, so that the base keeps all modes.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import registry
from harness.errors import ConfigError, unknown
from harness.protocols import Benchmark
from harness.sequence.targets import target
from harness.types import IGNORED_LABEL, Box, Example, Instance
from model_zoo import checkpoint
from model_zoo.flamingo.toy import WEIGHTS, OpenFlamingo
from model_zoo.settings.open_flamingo import CONFIGS


@dataclass(frozen=True, slots=True)
class Lesson:
    """One part of the curriculum (a "stage" in the log and in file names): `images` x `sequences` per step. `single`:
    only images of one object. `dense`: the vision tower alone."""

    name: str
    steps: int
    lr: float
    images: int
    sequences: int = 1
    single: bool = False
    dense: bool = False


LESSONS = (
    Lesson("A", steps=1_000, lr=2e-3, images=32, dense=True),
    Lesson("B", steps=900, lr=1e-3, images=48, single=True),
    Lesson("C", steps=1_000, lr=1e-3, images=16, sequences=2),
    Lesson("D", steps=13_000, lr=1e-3, images=16, sequences=2),
)
BENCHMARK: dict[str, object] = {
    "domain": "plain",
    "train_images": 60_000,
    "val_images": 1_000,
    "calibration_images": 256,
}
"""The validation images are those of the suite `base`: fixed before training, used for no choice."""
SUITES = {"tiny": "base", "spelled": "base-spelled"}
"""The shipped suite that asks how a base detects, where there is one."""
WARM_UP, CONSTANT = 50, 0.6
BOX_WEIGHT = 20.0
LOG_PATTERN = r"stage (\w+) step (\d+)/(\d+) loss ([\d.]+) (\d+)s"

Log = Callable[[str], None]


def command(output: Path, seed: int, base: str, install: bool) -> None:
    """`detmodes pretrain`: progress on the screen and in `output/log.txt`; `install` replaces what is shipped."""
    if base not in CONFIGS:
        raise ConfigError(unknown("base", base, CONFIGS))
    output.mkdir(parents=True, exist_ok=True)

    def log(line: str) -> None:
        print(line, flush=True)
        with (output / "log.txt").open("a") as file:
            file.write(line + "\n")

    final = pretrain(registry.benchmark("shapes", BENCHMARK, None), output, seed, base, log=log)
    if install:
        print(f"installed as {install_weights(final, output / 'log.txt', seed, base, WEIGHTS)}")


def install_weights(final: Path, log: Path, seed: int, base: str, folder: Path) -> Path:
    """Puts weights, their digest and a summary of the log where the adapter looks for them."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / str(CONFIGS[base].weights)
    shutil.copyfile(final, target)
    digest = checkpoint.sha256(target)
    digests = folder / checkpoint.DIGESTS
    listed = json.loads(digests.read_text()) if digests.is_file() else {}
    digests.write_text(json.dumps({**listed, target.name: digest}, indent=1, sort_keys=True) + "\n")
    target.with_suffix(".md").write_text(summary(log.read_text().splitlines(), target, digest, seed, base))
    return target


def summary(log: Sequence[str], weights: Path, digest: str, seed: int, base: str) -> str:
    """Writes the page of shipped weights: what they are, how they were made, and how the loss fell."""
    rows, suite = [], SUITES.get(base)
    asked = [f"How it detects on 1,000 held-out images: `detmodes run {suite}`, published in `results/{suite}`."]
    for stage in LESSONS:
        steps = [line for line in log if line.startswith(f"stage {stage.name} step")]
        shown = [steps[0], steps[len(steps) // 2], steps[-1]] if steps else []
        rows += ["| " + " | ".join(re.findall(LOG_PATTERN, line)[0]) + " |" for line in shown]
    return "\n".join(
        [
            f"# {weights.name}",
            "",
            f"The `{base}` OpenFlamingo, pretrained from random initialisation on the `plain` domain of the",
            f"embedded benchmark ({BENCHMARK['train_images']:,} images, half of them mirrored at random), every",
            "order and name drawn anew. Made by",
            "",
            f"    detmodes pretrain --base {base} --output runs/pretrain-{base} --seed {seed} --install",
            "",
            f"sha256 `{digest}`. No one else's data or weights went in; licence as the project's.",
            *(asked if suite else []),
            "",
            "| stage | step | of | loss | seconds |",
            "|---|---:|---:|---:|---:|",
            *rows,
            "",
            "Loss: stage A dense (category per patch + 20 x smooth-L1 of the box), then nats per target token.",
            "The same seed gives the same weights on the same machine and number of threads; elsewhere the order of",
            "floating-point sums differs.",
            "",
        ]
    )


def pretrain(
    benchmark: Benchmark,
    folder: Path,
    seed: int,
    base: str = "tiny",
    stages: Sequence[Lesson] = LESSONS,
    log: Log = print,
) -> Path:
    """Runs the stages and writes the final weights to `folder`; a finished stage is never run again."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    adapter = OpenFlamingo(benchmark.categories, {"config": base, "weights": "random"})
    data = _Images(adapter, benchmark.split("train"))
    for index, stage in enumerate(stages):
        path = folder / f"stage-{stage.name}.safetensors"
        if path.exists():
            checkpoint.load(adapter.model, checkpoint.read(path)[0])
            log(f"stage {stage.name}: done before, read from {path}")
            continue
        torch.manual_seed(seed + index)
        _run_stage(stage, adapter, data, np.random.default_rng([seed, index]), log)
        digest = checkpoint.save(adapter.model, adapter.tokens.entries, path)
        log(f"stage {stage.name}: wrote {path}, sha256 {digest}")
    return path


def learning_rate(step: int, stage: Lesson) -> float:
    """Linear warm-up, constant, then a cosine to zero over the last 40% of the stage."""
    warm = min((step + 1) / WARM_UP, 1.0)
    into_decay = max(0.0, (step / stage.steps - CONSTANT) / (1 - CONSTANT))
    return stage.lr * warm * 0.5 * (1 + math.cos(math.pi * into_decay))


def _run_stage(stage: Lesson, adapter: OpenFlamingo, data: _Images, rng: np.random.Generator, log: Log) -> None:
    loss_of = _DenseLoss(adapter, data.categories) if stage.dense else _SequenceLoss(adapter, stage.sequences)
    parameters = [*adapter.model.parameters(), *loss_of.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    adapter.model.train()
    started, recent = time.perf_counter(), 0.0
    for step, batch in enumerate(data.batches(stage, rng)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, stage)
        loss = loss_of(*batch, rng)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        recent += loss.item()
        if (step + 1) % 100 == 0:
            seconds = time.perf_counter() - started
            log(f"stage {stage.name} step {step + 1}/{stage.steps} loss {recent / 100:.4f} {seconds:.0f}s")
            recent = 0.0


class _Images:
    """All training images in memory (uint8), served in random batches, half of them mirrored."""

    def __init__(self, adapter: OpenFlamingo, examples: Sequence[Example], chunk: int = 1_000) -> None:
        self.examples = list(examples)
        self.categories = sorted(adapter.codec.names_of)
        chunks = [examples[start : start + chunk] for start in range(0, len(examples), chunk)]
        self._pixels = torch.cat([_to_bytes(adapter.pixels(part)) for part in chunks])
        self._single = np.array([i for i, example in enumerate(examples) if len(example.instances) == 1])

    def batches(self, stage: Lesson, rng: np.random.Generator) -> Iterator[tuple[Tensor, list[Example]]]:
        pool = self._single if stage.single else np.arange(len(self.examples))
        for _ in range(stage.steps):
            chosen = rng.choice(pool, stage.images, replace=False)
            flip = rng.random(stage.images) < 0.5
            pixels = self._pixels[torch.from_numpy(chosen)].float().div_(127.5).sub_(1.0)
            mirrored = torch.where(torch.from_numpy(flip)[:, None, None, None], pixels.flip(-1), pixels)
            examples = [self.examples[index] for index in chosen]
            yield mirrored, [mirror(e) if f else e for e, f in zip(examples, flip, strict=True)]


def mirror(example: Example) -> Example:
    """The annotations of the horizontally mirrored image."""
    instances = tuple(
        Instance(i.id, i.category_id, Box(example.width - i.box.x - i.box.w, i.box.y, i.box.w, i.box.h))
        for i in example.instances
    )
    return Example(example.image_id, example.path, example.width, example.height, instances)


def _to_bytes(pixels: Tensor) -> Tensor:
    return pixels.add(1.0).mul(127.5).round().to(torch.uint8)


class _SequenceLoss(nn.Module):
    """Cross-entropy of randomly ordered, randomly named target sequences."""

    def __init__(self, adapter: OpenFlamingo, sequences: int) -> None:
        super().__init__()
        self._adapter, self._sequences = (adapter,), sequences  # a tuple keeps the model out of parameters()

    def forward(self, pixels: Tensor, examples: list[Example], rng: np.random.Generator) -> Tensor:
        (adapter,) = self._adapter
        prompt = adapter.tokens.prompt
        rows = [
            (*prompt, *target(example, adapter.codec, "random", rng))
            for example in examples
            for _ in range(self._sequences)
        ]
        length = max(map(len, rows))
        tokens = torch.tensor([[*row, *[adapter.tokens.pad] * (length - len(row))] for row in rows])
        logits = adapter.logits(pixels, tokens[:, :-1])
        labels = tokens[:, 1:].masked_fill(tokens[:, 1:] == adapter.tokens.pad, IGNORED_LABEL)
        labels[:, : len(prompt) - 1] = IGNORED_LABEL
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL)


class _DenseLoss(nn.Module):
    """What covers each patch's centre: its category (or background), and the edges of its box."""

    def __init__(self, adapter: OpenFlamingo, categories: Sequence[int]) -> None:
        super().__init__()
        self._adapter = (adapter,)
        self._index = {category: index for index, category in enumerate(categories)}
        width = adapter.config.vision_width
        self.category = nn.Linear(width, len(categories) + 1)
        self.box = nn.Linear(width, 4)

    def forward(self, pixels: Tensor, examples: list[Example], rng: np.random.Generator) -> Tensor:
        del rng
        features = self._adapter[0].model.vision_encoder(pixels)[1]  # [B, patches, width]
        category, box = self._labels(examples, math.isqrt(features.shape[1]))
        covered = category < len(self._index)
        loss = F.cross_entropy(self.category(features).flatten(0, 1), category.flatten())
        return loss + BOX_WEIGHT * F.smooth_l1_loss(self.box(features)[covered], box[covered])

    def _labels(self, examples: list[Example], side: int) -> tuple[Tensor, Tensor]:
        category = torch.full((len(examples), side, side), len(self._index))
        box = torch.zeros(len(examples), side, side, 4)
        for row, example in enumerate(examples):
            size = torch.tensor([example.width, example.height] * 2)
            for instance in example.instances:
                x0, y0, x1, y1 = corners = torch.tensor(instance.box.corners) / size
                centres = (torch.arange(side) + 0.5) / side
                inside = ((centres >= y0) & (centres <= y1))[:, None] & ((centres >= x0) & (centres <= x1))
                category[row][inside] = self._index[instance.category_id]
                box[row][inside] = corners
        return category.flatten(1), box.flatten(1, 2)
