"""One linear fine-tuning loop, and what has to happen before it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from harness import objectives
from harness.batches import Draw, draws
from harness.errors import ConfigError, DetmodesError, ObjectiveError
from harness.protocols import Adapter
from harness.step import Objective, Row, accumulate, means, with_samples
from harness.suite import Train
from harness.targets import members, target
from harness.teacher import top_k_masses
from harness.types import Example

SUPPLIED: frozenset[objectives.Need] = frozenset({"reference", "calibration", "sets", "samples"})

Evaluate = Callable[[int], None]
Progress = Callable[[int, float], None]


def prepare(
    name: str, settings: Mapping[str, Any], base: Adapter, heldout: Sequence[Example], plan: Train, seed: int
) -> Objective:
    """Resolves a quantile on the held-out examples and keeps the base as the reference, as far as needed.

    `base` must be a copy that is not trained: it is put into eval mode here.
    """
    needs = objectives.needs(name, settings)
    if needs - SUPPLIED:
        raise ObjectiveError(f"{name} needs {sorted(needs - SUPPLIED)}, which this training loop does not supply")
    base.model.eval()
    if "calibration" in needs:
        if not heldout:
            raise ConfigError(
                f"{name}: quantile needs a calibration split, and the benchmark has none; "
                "give the benchmark calibration_images, or the objective a threshold"
            )
        masses = top_k_masses(base, heldout, plan.targets, seed, settings["top_k"])
        settings = objectives.resolve(name, settings, masses)
    full = objectives.complete(name, settings)
    return Objective(name, full, objectives.build(name, **full), base if "reference" in needs else None, needs)


def train(
    adapter: Adapter,
    examples: Sequence[Example],
    objective: Objective,
    plan: Train,
    seed: int,
    accelerator: Accelerator,
    evaluate: Evaluate,
    progress: Progress = lambda step, loss: None,
    probe: Evaluate = lambda step: None,
) -> list[dict[str, Any]]:
    """Fine-tunes in place and returns the curve: one row per logged step.

    `evaluate(step)` is called at the steps of `plan.evaluations`, `probe(step)` at those of `plan.probes`, 0 among
    them; neither counts as time of training. With several processes, each trains on its share
    of every batch.
    """
    parameters = [p for p in adapter.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=plan.lr, weight_decay=plan.weight_decay, fused=True)
    sampled_tokens = _sampled_tokens(adapter, examples) if "samples" in objective.needs else 0
    curve = []
    if 0 in plan.probes:
        probe(0)
    adapter.model.train()
    started = time.perf_counter()
    for step, drawn in enumerate(batches(len(examples), plan, seed), 1):
        rows = rows_of(adapter, examples, _share(drawn, plan, accelerator), plan.targets, seed)
        if "samples" in objective.needs:
            own_seed = _sampling_seed(seed, step)
            rows = with_samples(adapter, rows, objective.settings["samples"], sampled_tokens, own_seed)
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * min(1.0, step / max(1, plan.warm_up))
        logged = step == 1 or step % plan.log_every == 0 or step == plan.steps
        output = accumulate(adapter, rows, objective, plan.micro_batch or len(rows), accelerator, logged)
        loss = float(output.mean())
        if not math.isfinite(loss):
            ids = [row.example.image_id for row in rows if not row.sampled]
            raise DetmodesError(f"loss is {loss} at step {step} (images {ids}); lower train.lr")
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, plan.clip))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress(step, loss)
        if logged:
            curve.append({"step": step, "loss": loss, "grad_norm": norm, **means(output)})
            curve[-1]["seconds"] = time.perf_counter() - started
        paused = time.perf_counter()
        for due, look in ((plan.probes, probe), (plan.evaluations, evaluate)):
            if step in due:
                look(step)
        adapter.model.train()
        started += time.perf_counter() - paused
    return curve


def batches(examples: int, plan: Train, seed: int) -> Iterator[list[Draw]]:
    """What each step of the plan trains on."""
    rate = plan.collision_rate or 0.0
    return draws(examples, plan.members, plan.batch_size, plan.steps, seed, plan.batching, rate)


def rows_of(adapter: Adapter, examples: Sequence[Example], drawn: Sequence[Draw], targets: str, seed: int) -> list[Row]:
    """The sequences of a batch."""
    needed: dict[tuple[int, int], int] = {}  # by epoch and image: the members of an image are drawn once
    for draw in drawn:
        key = draw.epoch, draw.image
        needed[key] = max(needed.get(key, 0), draw.member + 1)
    own = {
        (epoch, image): members(examples[image], adapter.codec, targets, seed, epoch, count)
        for (epoch, image), count in needed.items()
    }
    return [Row(examples[draw.image], own[draw.epoch, draw.image][draw.member]) for draw in drawn]


def _share(drawn: list[Draw], plan: Train, accelerator: Accelerator) -> list[Draw]:
    """What this process trains on; sets stay whole."""
    processes = accelerator.num_processes
    if len(drawn) % (processes * plan.set_size):
        expected = f"a multiple of {processes} processes x {plan.set_size} targets of a set"
        raise ConfigError(f"train.batch_size: expected {expected}, got {len(drawn)}")
    size = len(drawn) // processes
    return drawn[accelerator.process_index * size :][:size]


def _sampled_tokens(adapter: Adapter, examples: Sequence[Example]) -> int:
    """Where a sequence that the model samples is cut off: at twice the longest target."""
    return 2 * max(len(target(example, adapter.codec, "canonical")) for example in examples)


def _sampling_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
