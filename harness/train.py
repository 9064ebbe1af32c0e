"""One linear fine-tuning loop, and what has to happen before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator

from harness import objectives
from harness.batches import Draw, draws
from harness.errors import ConfigError, ObjectiveError
from harness.faults import require_finite
from harness.log import Log
from harness.protocols import Adapter
from harness.snapshots import State, random_numbers_kept
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
    reference = base if "reference" in needs else None
    return Objective(name, full, objectives.build(name, **full), reference, needs, loss_weights=plan.loss_weights)


class Keeper(Protocol):
    """What outlives a killed process (harness.resume), and the log of training."""

    log: Log

    def restore(self, state: State) -> None:
        """Puts the state of an earlier process in place, its log included; does nothing if there is none."""
        ...

    def after_step(self, state: State, evaluated: bool) -> None:
        """May save the state, and may stop training. evaluated: the model is going to be evaluated as it is now."""
        ...


class Forgetful:
    """A Keeper that keeps nothing."""

    def __init__(self) -> None:
        self.log = Log()

    def restore(self, state: State) -> None: ...

    def after_step(self, state: State, evaluated: bool) -> None: ...


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
    keeper: Keeper | None = None,
) -> list[dict[str, Any]]:
    """Fine-tunes in place and returns the curve: one row per logged step.

    `evaluate(step)` is called at the steps of `plan.evaluations`, `probe(step)` at those of `plan.probes`, 0 among
    them; neither counts as time of training, nor changes what the global random generators give next. With several
    processes, each trains on its share of every batch. Where `keeper` has the state of an earlier process, training
    goes on from there, beginning with what is due at that step.
    """
    parameters = [p for p in adapter.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=plan.lr, weight_decay=plan.weight_decay, fused=True)
    sampled_tokens = _sampled_tokens(adapter, examples) if "samples" in objective.needs else 0
    keeper = keeper or Forgetful()
    state = State(adapter.model, optimizer, objective.selections)

    def look() -> None:
        with random_numbers_kept(state.device):
            for due, ask in ((plan.probes, probe), (plan.evaluations, evaluate)):
                if state.step in due:
                    ask(state.step)
        adapter.model.train()

    keeper.restore(state)
    look()
    for step, drawn in enumerate(islice(batches(len(examples), plan, seed), state.step, None), state.step + 1):
        started = time.perf_counter()
        rows = rows_of(adapter, examples, _share(drawn, plan, accelerator), plan.targets, seed)
        if "samples" in objective.needs:
            own_seed = _sampling_seed(seed, step)
            rows = with_samples(adapter, rows, objective.settings["samples"], sampled_tokens, own_seed)
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * min(1.0, step / max(1, plan.warm_up))
        logged = step == 1 or step % plan.log_every == 0 or step == plan.steps
        output = accumulate(adapter, rows, objective, plan.micro_batch or len(rows), accelerator, logged)
        loss = float(output.mean())
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, plan.clip))
        own = {"step": step, "loss": loss, "grad_norm": norm}
        require_finite(own, state.last, [row.example.image_id for row in rows if not row.sampled])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress(step, loss)
        state.step, state.last = step, own
        state.seconds += time.perf_counter() - started
        if logged:
            keeper.log.add("train", {**own, **means(output), "seconds": state.seconds})
        keeper.after_step(state, evaluated=step in plan.evaluations)
        look()
    return keeper.log.of("train")


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
